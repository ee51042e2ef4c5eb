r"""Bach's chorales as piano rolls of sixteenths, split by tune.

The carrier holds them as zipped MusicXML; the 364 pieces of exactly four parts are taken, as
written (repeats once). A frame is a sixteenth, and a key is on in it when it sounds at the frame's
beginning.

Bach set many tunes several times, in other keys and with other basses; to predict a piece whose
tune was trained on is to remember. Two pieces have the same tune when their sopranos begin with the
same 8 intervals, or share a run of 12 intervals anywhere, whatever the key and the rhythm; all
pieces that such links join are one tune. Whole tunes go to testing until it has a tenth of the
pieces, then to validation until that has as many, in the order of the SHA-256 of the name of their
first piece.
"""

import hashlib
import io
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from jaxlstm.tasks import carriers

VOICES = 4
QUARTER = 10_080  # ticks: what the divisions of a quarter in these files all divide
FRAME = QUARTER // 4
KEYS, LOWEST = 88, 21  # a piano's, from A0, in MIDI's numbers
OPENING, RUN = 8, 12
HELD_OUT = 0.1
STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


class Note(NamedTuple):
    """A note: where it begins and how long it is in ticks, its MIDI pitch, whether it is new."""

    start: int
    length: int
    pitch: int
    struck: bool


def read() -> dict[str, list[list[Note]]]:
    """Read the notes of the four voices of each piece, by name such as `"bwv1.6"`.

    Raises:
        UserError: when the carrier can neither be found nor fetched.
    """
    files = carriers.read(
        carriers.CHORALES, lambda name: "/corpus/bach/" in name and name.endswith(".mxl")
    )
    pieces = {PurePosixPath(name).stem: parse(content) for name, content in files.items()}
    return {name: voices for name, voices in pieces.items() if len(voices) == VOICES}


def parse(content: bytes) -> list[list[Note]]:
    """Read the notes of every part of one zipped MusicXML file (`score-partwise`)."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        container = ET.fromstring(archive.read("META-INF/container.xml"))
        file = next(e for e in container.iter() if e.tag.rpartition("}")[2] == "rootfile")
        score = ET.fromstring(archive.read(file.attrib["full-path"]))
    return [_notes(part) for part in score.findall("part")]


def roll(voices: Sequence[Sequence[Note]]) -> np.ndarray:
    """Say which of 88 keys sound at the beginning of each sixteenth: `[T, 88]` uint8.

    Examples:
        >>> rolled = roll([[Note(QUARTER, QUARTER, 60, True)], [Note(0, 4 * QUARTER, 48, True)]])
        >>> rolled.shape, np.flatnonzero(rolled[:, 60 - 21]).tolist(), int(rolled[:, 48 - 21].sum())
        ((16, 88), [4, 5, 6, 7], 16)
    """
    notes = [note for voice in voices for note in voice]
    keys = np.zeros((-(-max(n.start + n.length for n in notes) // FRAME), KEYS), np.uint8)
    for note in notes:
        first, beyond = -(-note.start // FRAME), -(-(note.start + note.length) // FRAME)
        keys[first:beyond, note.pitch - LOWEST] = 1
    return keys


def tunes(melodies: Mapping[str, Sequence[int]]) -> list[list[str]]:
    """Group pieces by tune.

    Args:
        melodies: the pitches of the soprano of each piece.

    Returns:
        The names of each tune's pieces, sorted, and the tunes in the order of their first.

    Examples:
        >>> scale = list(range(60, 76))
        >>> tunes({"a": scale, "b": [pitch + 5 for pitch in scale], "c": scale[::-1]})
        [['a', 'b'], ['c']]
    """
    leader = {name: name for name in melodies}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    first: dict[tuple[str, tuple[int, ...]], str] = {}
    for name, melody in melodies.items():
        steps = np.diff(melody).tolist()
        marks = [("opening", tuple(steps[:OPENING]))]
        marks += [("run", tuple(steps[i : i + RUN])) for i in range(len(steps) - RUN + 1)]
        for mark in marks:
            leader[find(name)] = find(first.setdefault(mark, name))
    groups: dict[str, list[str]] = {}
    for name in sorted(melodies):
        groups.setdefault(find(name), []).append(name)
    return sorted(groups.values())


def split(groups: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Deal whole tunes out to `"test"`, `"validation"` and `"training"`."""
    share = HELD_OUT * sum(map(len, groups))
    parts: dict[str, list[str]] = {"training": [], "validation": [], "test": []}
    for group in sorted(groups, key=lambda names: hashlib.sha256(names[0].encode()).digest()):
        open_ = [part for part in ("test", "validation") if len(parts[part]) < share]
        parts[open_[0] if open_ else "training"] += group
    return {part: sorted(names) for part, names in parts.items()}


def rolls() -> dict[str, list[np.ndarray]]:
    """Read, split and roll: for each part of the data its pieces, `[T, 88]` uint8 each.

    Raises:
        UserError: when the carrier can neither be found nor fetched.
    """
    pieces = read()
    melodies = {
        name: [note.pitch for note in sorted(voices[0]) if note.struck]
        for name, voices in pieces.items()
    }
    parts = split(tunes(melodies))
    return {part: [roll(pieces[name]) for name in names] for part, names in parts.items()}


def _notes(part: ET.Element) -> list[Note]:
    notes: list[Note] = []
    at, tick = 0, QUARTER
    for measure in part.findall("measure"):
        furthest = at
        for element in measure:
            if divisions := element.findtext("divisions"):
                tick = QUARTER // int(divisions)
            length = tick * int(element.findtext("duration") or 0)
            if element.tag == "backup":
                at -= length
            elif element.tag == "forward":
                at += length
            elif element.tag == "note":
                # The further notes of a chord begin where the first did.
                start = at - length if element.find("chord") is not None else at
                at = start + length
                pitch = element.find("pitch")
                if pitch is not None and length:  # no rest and no ornament without length
                    struck = all(tie.get("type") != "stop" for tie in element.findall("tie"))
                    notes.append(Note(start, length, _midi(pitch), struck))
            furthest = max(furthest, at)
        at = furthest
    return notes


def _midi(pitch: ET.Element) -> int:
    octave, alter = int(pitch.findtext("octave") or 0), int(float(pitch.findtext("alter") or 0))
    return 12 * (octave + 1) + STEPS[pitch.findtext("step") or "C"] + alter
