"""Polyphonic music: rolls from notes, tunes, the MATLAB file, the loss per frame, the baselines."""

import io
import itertools
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.io import savemat

from jaxlstm.config import Music
from jaxlstm.errors import UserError
from jaxlstm.tasks import build, chorales, music

LENGTHS = {"traindata": (9, 4, 6), "validdata": (5,), "testdata": (3, 12)}


def a_cell_array(rolls):
    cells = np.empty((1, len(rolls)), object)
    for index, roll in enumerate(rolls):
        cells[0, index] = roll
    return cells


@pytest.fixture
def rolls():
    draw = np.random.default_rng(0)
    return {
        name: [(draw.random((length, 88)) < 0.2).astype(float) for length in lengths]
        for name, lengths in LENGTHS.items()
    }


@pytest.fixture
def config(tmp_path, rolls):
    def write(window=None, **changed):
        path = tmp_path / "music.mat"
        content = {name: a_cell_array(made) for name, made in rolls.items()}
        content = {k: v for k, v in (content | changed).items() if v is not None}
        savemat(path, content)
        return Music(path=str(path), window=window)

    return write


def test_whole_pieces_are_padded_and_predict_their_next_frame(config, rolls):
    task = build(config())
    batch = jax.jit(task.sample, static_argnums=2)(task.data, jax.random.key(0), 3)
    assert sorted(batch.lengths.tolist()) == [3, 5, 8]  # each piece once
    assert batch.inputs.shape == (3, 8, 88)
    for inputs, targets, length in zip(*map(np.asarray, batch), strict=True):
        roll = next(roll for roll in rolls["traindata"] if len(roll) == length + 1)
        np.testing.assert_array_equal(inputs[:length], roll[:-1])
        np.testing.assert_array_equal(targets[:length], roll[1:])
        assert not inputs[length:].any()
        assert not targets[length:].any()
    test = task.evaluation["test"]
    assert test.lengths.tolist() == [2, 11]
    np.testing.assert_array_equal(test.targets[1], rolls["testdata"][1][1:])


def test_windows_lie_within_a_piece(config, rolls):
    task = build(config(window=4))
    batch = jax.jit(task.sample, static_argnums=2)(task.data, jax.random.key(0), 200)
    assert batch.inputs.shape == (200, 4, 88)
    seen = set()
    for inputs, targets, length in zip(*map(np.asarray, batch), strict=True):
        window = np.concatenate([inputs[:1], targets[:length]])
        places = [
            (piece, start)
            for piece, roll in enumerate(rolls["traindata"])
            for start in range(len(roll) - length)
            if np.array_equal(roll[start : start + length + 1], window)
        ]
        assert len(places) == 1
        assert length == min(4, len(rolls["traindata"][places[0][0]]) - 1)
        assert not targets[length:].any()
        seen.update(places)
    assert len(seen) == 5 + 1 + 2  # every place of each piece


def test_the_loss_is_the_mean_over_frames_of_the_sum_over_keys(config):
    task = build(config())
    test = task.evaluation["test"]
    logits = 2 * np.random.default_rng(1).normal(size=test.targets.shape)
    chance, wanted = 1 / (1 + np.exp(-logits)), np.asarray(test.targets)
    nats = -(wanted * np.log(chance) + (1 - wanted) * np.log(1 - chance)).sum(-1)
    frames = np.concatenate([nats[0, :2], nats[1]])  # 13 frames, not the mean of two means
    wrong = ((chance > 0.5) != wanted).sum(-1)
    logits = np.where(np.arange(11)[None, :, None] < [[[2]], [[11]]], logits, np.nan)
    value, gradient = jax.jit(jax.value_and_grad(lambda o: task.loss(o, test)[0]))(
        jnp.asarray(logits, jnp.float32)
    )
    assert float(value) == pytest.approx(frames.mean(), rel=1e-5)
    assert not np.asarray(gradient)[0, 2:].any()  # NaN in the padding reaches nothing
    _, metrics = task.loss(jnp.asarray(logits, jnp.float32), test)
    assert metrics["nats_per_frame"] == value
    assert float(metrics["wrong_keys"]) == pytest.approx(
        np.concatenate([wrong[0, :2], wrong[1]]).mean()
    )


def test_baselines_by_hand(config, rolls):
    task = build(config())
    pairs = [pair for roll in rolls["traindata"] for pair in itertools.pairwise(roll)]
    on = np.array([(sum(after[k] for _, after in pairs) + 1) / (len(pairs) + 2) for k in range(88)])
    counts = np.ones((2, 2))
    for before, after in pairs:
        for was, now in zip(before.astype(int), after.astype(int), strict=True):
            counts[was, now] += 1
    stays = counts[:, 1] / counts.sum(axis=1)
    marginals, repeat = [], []
    for roll in rolls["testdata"]:
        for before, after in itertools.pairwise(roll):
            marginals.append(-np.log(np.where(after == 1, on, 1 - on)).sum())
            chance = stays[before.astype(int)]
            repeat.append(-np.log(np.where(after == 1, chance, 1 - chance)).sum())
    assert task.baselines["marginals nats_per_frame"] == pytest.approx(np.mean(marginals))
    assert task.baselines["repeat nats_per_frame"] == pytest.approx(np.mean(repeat))
    # The same by the loss of the task: the logits of the marginals.
    logits = jnp.broadcast_to(jnp.asarray(np.log(on / (1 - on)), jnp.float32), (2, 11, 88))
    assert float(task.loss(logits, task.evaluation["test"])[0]) == pytest.approx(
        np.mean(marginals), rel=1e-5
    )


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"validdata": None}, "expected traindata, validdata, testdata in "),
        ({"testdata": a_cell_array([])}, "expected piano rolls in testdata"),
        ({"testdata": a_cell_array([np.zeros((5, 87))])}, "88 keys in testdata of "),
        ({"testdata": a_cell_array([np.zeros((1, 88))])}, "got 1 x 88"),
        (
            {"testdata": a_cell_array([np.full((5, 88), 0.5)])},
            "expected zeros and ones in testdata",
        ),
        ({"testdata": a_cell_array([np.full((5, 88), np.nan)])}, "expected zeros and ones"),
        ({"testdata": a_cell_array(["abc"])}, "of no numbers"),
    ],
)
def test_what_is_no_music_is_one_line(config, changed, wanted):
    with pytest.raises(UserError, match=r"task\.path: ") as caught:
        build(config(**changed))
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_matlab_files(tmp_path):
    for name, content in (
        ("a.mat", b"nothing of the kind"),
        ("b.mat", b""),
        ("c.mat", b"\0" * 200),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"task\.path: ") as caught:
            build(Music(path=str(tmp_path / name)))
        assert "\n" not in str(caught.value)
    for path in (tmp_path / "none.mat", tmp_path):
        with pytest.raises(UserError, match=r"task\.path: cannot read"):
            build(Music(path=str(path)))


SCORE = """<?xml version="1.0"?><score-partwise><part id="P1">
<measure><attributes><divisions>2</divisions></attributes>
<note><pitch><step>C</step><octave>4</octave></pitch><duration>2</duration></note>
<note><chord/><pitch><step>E</step><alter>-1</alter><octave>4</octave></pitch><duration>2</duration>
</note><note><rest/><duration>1</duration></note>
<note><grace/><pitch><step>B</step><octave>5</octave></pitch></note>
<note><pitch><step>F</step><alter>1</alter><octave>4</octave></pitch><duration>1</duration>
<tie type="start"/></note></measure>
<measure><note><pitch><step>F</step><alter>1</alter><octave>4</octave></pitch><duration>1</duration>
<tie type="stop"/></note><backup><duration>1</duration></backup>
<note><pitch><step>A</step><octave>0</octave></pitch><duration>2</duration></note></measure>
</part><part id="P2"><measure><note><rest/><duration>4</duration></note></measure></part>
</score-partwise>"""


def test_a_score_becomes_a_roll():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        container = '<container xmlns="x"><rootfiles><rootfile full-path="s.xml"/></rootfiles>'
        archive.writestr("META-INF/container.xml", f"{container}</container>")
        archive.writestr("s.xml", SCORE)
        archive.writestr("other.xml", "no score")
    voices = chorales.parse(packed.getvalue())
    assert [len(voice) for voice in voices] == [5, 0]
    assert [note.struck for note in voices[0]] == [True, True, True, False, True]
    expected = np.zeros((12, 88), int)
    expected[:4, 60 - 21] = expected[:4, 63 - 21] = 1  # a quarter of C and E flat
    expected[6:10, 66 - 21] = 1  # F sharp over the bar
    expected[8:12, 0] = 1  # the lowest key of the piano, after going back
    np.testing.assert_array_equal(chorales.roll(voices), expected)


def test_tunes_are_joined_whatever_the_key():
    draw = np.random.default_rng(2)
    one, two, other = draw.integers(55, 80, size=(3, 40)).tolist()
    melodies = {
        "a": one,
        "b": [pitch + 3 for pitch in one[:10]] + other[:5],  # the same opening
        "c": two[:7] + [pitch - 5 for pitch in one[20:34]],  # a run of thirteen intervals
        "d": two[9:] + [pitch - 5 for pitch in one[20:32]],  # a run of eleven is no tune
        "e": other[6:],
    }
    assert chorales.tunes(melodies) == [["a", "b", "c"], ["d"], ["e"]]


def test_the_chorales_of_the_carrier():
    try:
        pieces = chorales.read()
    except UserError as error:
        if "cannot download" not in str(error):
            raise
        pytest.skip(f"the chorales cannot be fetched here: {error}")
    assert len(pieces) == 364
    melodies = {
        name: [note.pitch for note in sorted(voices[0]) if note.struck]
        for name, voices in pieces.items()
    }
    parts = chorales.split(chorales.tunes(melodies))
    assert {part: len(names) for part, names in parts.items()} == {
        "training": 290,
        "validation": 37,
        "test": 37,
    }
    assert sorted(itertools.chain(*parts.values())) == sorted(pieces)
    marks = {part: set() for part in parts}
    for part, names in parts.items():
        for name in names:
            steps = np.diff(melodies[name]).tolist()
            marks[part] |= {tuple(steps[i : i + 12]) for i in range(len(steps) - 11)}
            marks[part].add(tuple(steps[:8]))
    for one, two in itertools.combinations(marks.values(), 2):
        assert not one & two  # no tune in two parts
    rolls = [chorales.roll(voices) for voices in pieces.values()]
    lengths = [len(roll) for roll in rolls]
    assert (min(lengths), max(lengths), sum(lengths)) == (96, 772, 79240)
    voices = np.concatenate(rolls).sum(axis=1)
    assert voices.max() <= 6  # four, and rarely a voice that is divided
    assert 3.7 < voices.mean() < 4
    assert music.baselines(rolls, rolls)["repeat nats_per_frame"] < 8
