"""Mutated configs and data: accepted or refused in one line, never a traceback, nothing written."""

import ast
import itertools
import os
import random
import re
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from jaxlstm import cli, config, tasks
from jaxlstm.errors import UserError
from jaxlstm.tasks import carriers, characters, digits, music, tables, vowels

pytestmark = pytest.mark.promise
ROOT = Path(__file__).parent.parent
CONFIGS = [path.read_text() for path in sorted(ROOT.glob("configs/**/*.toml"))]
KEYS = sorted(set(re.findall(r"^(\w+) =", "\n".join(CONFIGS), re.MULTILINE)))
# What people and accidents put in the place of a value.
VALUES = [
    *("0", "-1", "1e309", "nan", "-inf", "2.5", "true", "[]", "{}", "[1, 1]", "1_000", "0x10"),
    *(str(2**70), "1979-05-27", "07:32:00", '""', '"x"', "'''\n'''", '"\\u0000"', '"' + "y" * 999),
    *(
        "[[[[",
        "}",
        "=",
        "\x00",
        "\ud800",
        "é",
        "../../etc/passwd",
        '"../x"',
        "{ kind = 1 }",
        "-0.0",
    ),
    *("1, 2", "[nan]", "{ a.b = 1, a = 2 }", "inf", "[1, 'a']", "null", "yes", '"adding"'),
]
LENGTHS = pytest.mark.parametrize(
    "share", [0.02, pytest.param(1, marks=pytest.mark.slow)], ids=["short", "whole"]
)


def mutate(text: str, chance: random.Random, values=VALUES, keys=KEYS) -> str:
    """Change a text in one to four places, as a typist, an editor or a bad disk does."""
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        lines = text.split("\n")
        at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        place = chance.randrange(len(text) + 1)
        match chance.randrange(10):
            case 0:
                del lines[at]
            case 1:
                lines.insert(other, lines[at])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                lines[at] = re.sub(r"=.*", lambda _: f"= {chance.choice(values)}", lines[at])
            case 4:
                lines[at] = re.sub(r"^\w+", lambda _: chance.choice(keys), lines[at])
            case 5:
                lines[at] = re.sub(r"[\d.]+", lambda _: chance.choice(values), lines[at], count=1)
            case 6:
                lines = [text[:place]]
            case 7:
                lines = [text[:place] + chance.choice(values) + text[place:]]
            case 8:
                end = place + chance.randrange(1, 30)
                lines = [text[:place] + text[end:]]
            case _:
                lines = [text[:place] + chr(chance.randrange(0x300)) + text[place + 1 :]]
        text = "\n".join(lines)
    return text


def refusal(function, *arguments):
    """What was said where something was refused; None where it was taken."""
    try:
        function(*arguments)
    except UserError as error:
        said = str(error)
        assert said
        assert len(said.splitlines()) == 1, said
        return said
    return None


@LENGTHS
def test_a_mutated_config_is_taken_or_refused_in_one_line(share, seen):
    chance = random.Random(1)
    count, refused = round(10_000 * share), 0
    for text in itertools.islice(itertools.cycle(CONFIGS), count):
        said = refusal(config.loads, mutate(text, chance), "x.toml")
        if said is not None:
            assert said.startswith("x.toml: ")
            refused += 1
    assert refused > count / 2
    seen("config", "mutated configs", count)
    seen("config", "of them refused", refused)


@LENGTHS
def test_a_command_with_a_mutated_config_leaves_with_two_and_writes_nothing(
    share, seen, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    chance, left, file = random.Random(2), round(500 * share), Path("x.toml")
    while left:
        text = mutate(chance.choice(CONFIGS), chance)
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        if refusal(config.load, file) is None:
            continue  # it would run
        assert cli.main([chance.choice(["run", "study"]), "x.toml"]) == 2
        out, err = capsys.readouterr()
        assert (out, err[:9], err.count("\n")) == ("", "jaxlstm: ", 1)
        assert [path.name for path in tmp_path.iterdir()] == ["x.toml"]
        left -= 1
    seen("config", "commands that left with status 2", round(500 * share))


SERIES = (
    "#A comment\n@problemName x\n@classLabel true 1 2\n@data\n1.5,2,3:4,5,6e-1:1\n7,8:9,-1:2\n"
    "1,2,3,4:4,3,2,1:2\n0:0:1\n"
)
TABLE = (
    "time,place,a,b\n2013-01-01T00:00,x,1,NA\n2013-01-01T01:00,x,2.5,3\n2013-01-01T03:00,x,,4\n"
    "2013-01-01T00:00,y,-1e3,7\n2013-01-01T01:00,y,2,8\n"
)
DATA = [
    *("", "nan", "inf", "-1e400", "1e300", "1e-320", "x", ",", ":", ",,", "::", "@data", "#", '"'),
    *("\t", ";", "\x00", "0001-01-01T00:00+23:59", "9999-12-31T23:59-23:59", "2013-02-30", "1 2"),
    *("é", "\u2028", "1_0", "٣", "+", "time", "1e18", "True", "\ufeff", "\x1c", "9" * 400),
]


@LENGTHS
def test_a_mutated_data_file_is_taken_or_refused_in_one_line(share, seen):
    chance, count, refused = random.Random(3), round(750 * share), 0
    for _ in range(count):
        text = mutate(SERIES, chance, DATA, ["@data", "@classLabel", "1"])
        refused += refusal(vowels.parse, text, "x.ts") is not None
        text = mutate(TABLE, chance, DATA, ["time", "a", "2013-01-01T01:00"])
        time = chance.choice(["time", None])
        options = {"time": time, "group": chance.choice(["place", None])}
        refused += refusal(lambda t, o: tables.parse(t, "x.csv", **o), text, options) is not None
    assert refused > count / 5
    seen("data", "mutated series and tables", 2 * count)
    seen("data", "of them refused", refused)


@LENGTHS
def test_a_mutated_text_becomes_a_task_or_is_refused_in_one_line(share, seen, tmp_path):
    chance, count = random.Random(4), round(500 * share)
    file = tmp_path / "x.txt"
    for _ in range(count):
        text = mutate("To be,\nor not\nto be.\n" * chance.randrange(12), chance, DATA)
        content = bytearray(text.encode("utf-8", "surrogatepass"))
        if content and chance.random() < 0.2:
            content[chance.randrange(len(content))] = chance.randrange(256)
        file.write_bytes(content)
        said = refusal(characters.build, config.Characters(path=str(file), window=3))
        assert said is None or "task.path" in said or "characters, but task.window" in said
    seen("data", "mutated texts", count)


@LENGTHS
def test_a_whole_task_of_mutated_files_is_built_or_refused(share, seen, tmp_path):
    chance, count, rows = random.Random(5), round(250 * share), TABLE.splitlines()
    table = tmp_path / "x.csv"
    many = [f"2013-01-0{1 + h // 24}T{h % 24:02}:00,x,{h},{-h}" for h in range(60)]
    for _ in range(count):
        mutant = mutate("\n".join([rows[0], *many]), chance, DATA, ["time", "a"])
        table.write_text(mutant, encoding="utf-8", errors="replace")
        made = config.Forecast(path=str(table), target="a", time="time", group="place", window=4)
        refusal(tasks.build, made)
        for name in vowels.FILES:
            mutant = mutate(SERIES, chance, DATA) if chance.random() < 0.6 else SERIES
            (tmp_path / name).write_text(mutant, encoding="utf-8", errors="replace")
        refusal(tasks.build, config.JapaneseVowels(path=str(tmp_path)))
    seen("data", "whole tasks of mutated files", 2 * count)


def changed(content: bytes, chance: random.Random) -> bytes:
    """Change bytes in one to four places, or cut them short."""
    mutant = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(mutant) or 1)
        match chance.randrange(4):
            case 0:
                mutant[at : at + 1] = bytes([chance.choice([0, 1, 8, 127, 255])])
            case 1:
                mutant[at : at + 4] = chance.randbytes(4)
            case 2:
                del mutant[at : at + chance.randint(1, 9)]
            case _:
                mutant[chance.randrange(200) % (len(mutant) or 1) :][:1] = b"\xff"
                mutant = mutant[: len(mutant) - chance.randrange(2) * at]
    return bytes(mutant)


@LENGTHS
def test_a_mutated_binary_file_is_taken_or_refused_in_one_line(share, seen, tmp_path):
    chance, count, file = random.Random(6), round(500 * share), tmp_path / "x.mat"
    images = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 1, 9, 8, 7, 6])
    for _ in range(count):
        refusal(digits.idx, changed(images, chance), "x")
    lists = {name: np.empty(2, object) for name in music.NAMES.values()}
    for rolls in lists.values():
        rolls[:] = [np.eye(3, 88), np.eye(2, 88)]
    scipy.io.savemat(file, lists)
    whole = file.read_bytes()
    assert refusal(music.load, str(file)) is None
    for _ in range(count // 5):  # each is a process: some of them end SciPy's
        file.write_bytes(changed(whole, chance))
        refusal(music.load, str(file))
    seen("data", "mutated binary files", count + count // 5)


GOOD = ROOT / "configs" / "shakespeare.toml"


@pytest.fixture
def odd(tmp_path):
    """Things in the place of a file, by name."""
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "gigabyte").open("wb") as file:
        file.truncate(2**30)
    (tmp_path / "latin").write_bytes(b"name = '\xe9'")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    found = {path.name: str(path) for path in tmp_path.iterdir()}
    return found | {
        "folder": str(tmp_path),
        "missing": str(tmp_path / "no" / "file"),
        "zero": "/dev/zero",
        "null": "/dev/null",
        "terminal": "/dev/tty",
        "memory": "/proc/self/mem",
        "nul": "a\x00b",
        "long": "x" * 5000,
        "empty": "",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("pipe", "gigabyte", "latin", "loop", "folder", "missing", "zero", "null", "terminal"),
        *("memory", "nul", "long", "empty"),
    ],
)
def test_what_is_no_file_is_refused_at_once_in_one_line(name, odd, capsys, monkeypatch, seen):
    path = odd[name]
    for arguments in (
        ["run", path],
        ["study", path],
        ["run", str(GOOD), "--task.path", path],
        ["run", str(ROOT / "configs" / "vowels.toml"), "--task.path", path],
        ["run", "--resume", path],
        ["report", path],
        ["export", path, "--to", "safetensors"],
    ):
        assert cli.main(arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("jaxlstm: ")
        assert err.count("\n") == 1
    seen("data", "things in the place of a file refused", 1)


def test_a_carrier_whose_hash_differs_is_refused_and_not_kept(tmp_path, monkeypatch, seen):
    carrier = carriers.Carrier("innocent", "1.0", "0" * 64, "nothing")

    def download(carrier, folder):
        path = folder / "innocent-1.0.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../../evil", "x")
        return path

    monkeypatch.setenv("JAXLSTM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(carriers, "_download", download)
    said = refusal(carriers.read, carrier, lambda name: True)
    assert "refused innocent 1.0" in said
    assert "SHA-256" in said
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    seen("data", "carriers with another hash refused", 1)


def test_an_archive_that_points_outside_writes_nothing(tmp_path, monkeypatch, seen):
    archive = tmp_path / "cache" / "innocent-1.0.whl"
    archive.parent.mkdir()
    link = zipfile.ZipInfo("data/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../evil", "outside")
        file.writestr("/tmp/evil-of-jaxlstm", "outside")
        file.writestr(link, "/etc/passwd")
    carrier = carriers.Carrier("innocent", "1.0", carriers._sha256(archive), "nothing")
    monkeypatch.setenv("JAXLSTM_CACHE", str(archive.parent))
    found = carriers.read(carrier, lambda name: True)
    assert sorted(found.values()) == [b"/etc/passwd", b"outside", b"outside"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]
    assert not Path("/tmp/evil-of-jaxlstm").exists()
    seen("closed", "archives that point outside", 1)


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    "eval", "exec", "__import__", "popen", "extractall", "extract",
    "unpack_archive",
}  # fmt: skip


def test_nothing_from_a_file_is_executed_or_unpacked(seen):
    """Every call of the package: no pickle, no eval, no shell, no archive on the disk."""
    files = sorted((ROOT / "jaxlstm").rglob("*.py"))
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                names.append(getattr(node, "module", None) or "")
                roots = {name.split(".")[0] for name in names}
                assert not roots & FORBIDDEN_MODULES, where
            if not isinstance(node, ast.Call):
                continue
            owner, name = called(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert given.get("shell", "False") == "False", where
            assert given.get("allow_pickle", "False") == "False", where
            assert name not in FORBIDDEN_CALLS, where
            assert (owner, name) not in {("os", "system"), ("", "compile")}, where
            if (owner, name) in {("np", "load"), ("numpy", "load"), ("jnp", "load")}:
                assert given.get("allow_pickle") == "False", where
            if (owner, name) == ("torch", "load"):
                assert given.get("weights_only") == "True", where
    seen("closed", "source files without pickle, eval or unpacking", len(files))


def called(function: ast.expr) -> tuple[str, str]:
    """The owner and the name of what is called."""
    if isinstance(function, ast.Attribute):
        return ast.unparse(function.value), function.attr
    return "", function.id if isinstance(function, ast.Name) else ""
