"""The plays of Shakespeare as plain text, with a fixed split by whole plays.

The carrier holds 38 plays as Markdown; *Edward III*, whose author is disputed, is left out. The
text is in the public domain. Romeo and Juliet and Twelfth Night are for validation, King John and
Macbeth for testing: a tragedy, a comedy, a history and a tragedy again, none of which shares its
people with a play that is trained on. They are a tenth of all characters; the other 33 plays are
for training.
"""

import html
import re
from pathlib import PurePosixPath
from typing import NamedTuple

from jaxlstm.tasks import carriers

LEFT_OUT = ("edward-iii",)
VALIDATION = ("romeo-and-juliet", "twelfth-night")
TEST = ("king-john", "macbeth")
HOLDOUT = 0.1  # the share of both, rounded


class Split(NamedTuple):
    """One text for each use."""

    training: str
    validation: str
    test: str


def split() -> Split:
    """Read the plays, in the order of their titles, and join those of each part.

    Raises:
        UserError: when the carrier can neither be found nor fetched.
    """
    plays = read_plays()
    held_out = (*VALIDATION, *TEST)
    return Split(
        training="\n".join(text for play, text in plays.items() if play not in held_out),
        validation="\n".join(plays[play] for play in VALIDATION),
        test="\n".join(plays[play] for play in TEST),
    )


def read_plays() -> dict[str, str]:
    """Read the 37 plays as plain text by title, such as `"twelfth-night"`, sorted by title.

    Raises:
        UserError: when the carrier can neither be found nor fetched.
    """
    files = carriers.read(
        carriers.SHAKESPEARE, lambda name: bool(re.search(r"/plays/.*\.md$", name))
    )
    texts = {PurePosixPath(name).stem: plain_text(file.decode()) for name, file in files.items()}
    return {play: texts[play] for play in sorted(texts) if play not in LEFT_OUT}


def plain_text(markdown: str) -> str:
    r"""Turn a play's Markdown into plain text.

    - A speaker `**HAMLET**` becomes the line `HAMLET:`.
    - A stage direction `_Exit_` becomes `[Exit]`; one that has brackets keeps just those.
    - A heading `## ACT I` becomes `ACT I`.
    - Escapes (`\[`, `&amp;`) become the character; spaces at the ends of lines go; several empty
      lines become one.

    Spelling, punctuation, line breaks and misprints stay as they are.

    Args:
        markdown: one play.

    Returns:
        The text, which ends with one line break.

    Examples:
        >>> print(plain_text("**HAMLET**  \nThe rest is silence.\n\n_Dies_\n"), end="")
        HAMLET:
        The rest is silence.
        <BLANKLINE>
        [Dies]
    """
    text = html.unescape(markdown.replace("\r\n", "\n")).replace("\\", "")
    text = re.sub(r"^#+ *", "", text, flags=re.MULTILINE)
    text = re.sub(
        r"^\*\*(.*?)\*\*",
        lambda speaker: speaker[1].replace(":", "") + ":",
        text,
        flags=re.MULTILINE,
    )
    text = re.sub(r"_+\[", "[", text)
    text = re.sub(r"\]_+", "]", text)
    text = re.sub(r"_([^_]*)_", r"[\1]", text)
    text = re.sub(r" +$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\n{3,}", "\n\n", text)
    return text.strip() + "\n"
