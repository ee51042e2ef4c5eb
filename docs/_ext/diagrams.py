"""The diagrams of the lecture, drawn by `{diagram} NAME`: cells, the box, and its unfolding."""

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from svg import GATE, HIDDEN, INK, MEMORY, MUTED, arrow, box, circle, drawing, says


def black_box() -> str:
    """A recurrent network from outside."""
    marks = [
        box(150, 75, 130, 56, "network"),
        arrow((20, 75), (83, 75)),
        says(34, 60, "x_t"),
        arrow((215, 75), (284, 75)),
        says(262, 60, "y_t"),
        arrow((185, 47), (185, 18), (115, 18), (115, 45), colour=MEMORY),
        says(150, 34, "state", MEMORY, 13),
    ]
    return drawing(
        300, 112, "A box with an input, an output, and a state that it hands itself", marks
    )


def unfolded() -> str:
    """The same network, once for each step."""
    marks = []
    for i, x in enumerate((90, 210, 330)):
        marks += [
            box(x, 80, 62, 44, "W, U, b"),
            arrow((x, 140), (x, 105)),
            arrow((x, 57), (x, 24)),
            says(x, 152, f"x_{i + 1}"),
            says(x, 12, f"h_{i + 1}", HIDDEN),
            arrow((x + 32, 80), (x + 87, 80), colour=HIDDEN),
        ]
    marks += [arrow((22, 80), (57, 80), colour=HIDDEN), says(14, 80, "h_0", HIDDEN)]
    marks += [says(432, 80, "…", MUTED)]
    label = "Three copies of one layer side by side, each handing its output to the next"
    return drawing(446, 166, label, marks)


def rnn() -> str:
    """The simple cell."""
    marks = [
        box(210, 85, 240, 100, "", MUTED),
        circle(160, 85, "+"),
        box(232, 85, 56, 34, "tanh"),
        arrow((20, 85), (146, 85), colour=HIDDEN),
        says(38, 70, "h_{t−1}".replace("{", "").replace("}", ""), HIDDEN),
        says(110, 74, "U", HIDDEN, 13),
        arrow((160, 168), (160, 99)),
        says(160, 178, "x_t"),
        says(173, 120, "W", size=13),
        arrow((174, 85), (203, 85)),
        arrow((261, 85), (400, 85), colour=HIDDEN),
        says(388, 70, "h_t", HIDDEN),
        arrow((290, 85), (290, 14), colour=HIDDEN),
        says(314, 18, "y_t =h_t".replace(" =", " = "), anchor="start", size=13),
    ]
    label = "The simple RNN: input and last output are weighed, added and squashed by tanh"
    return drawing(420, 190, label, marks)


def lstm() -> str:
    """The memory cell, with the path of the memory above that of the output."""
    gates = {"f": 150, "i": 235, "g": 305, "o": 400}
    marks = [box(295, 150, 410, 236, "", MUTED)]
    # The memory's own road, along the top.
    marks += [
        arrow((24, 70), (136, 70), colour=MEMORY),
        arrow((164, 70), (257, 70), colour=MEMORY),
        arrow((284, 70), (568, 70), colour=MEMORY),
        says(48, 54, "C_t−1", MEMORY),
        says(546, 54, "C_t", MEMORY),
    ]
    # The gates, fed from the bus below.
    marks += [
        arrow((24, 242), (400, 242), colour=HIDDEN, head=False),
        says(48, 226, "h_t−1", HIDDEN),
        arrow((100, 290), (100, 242), colour=INK, head=False),
        says(100, 300, "x_t"),
    ]
    for name, x in gates.items():
        candidate = name == "g"
        colour = INK if candidate else GATE
        marks += [
            arrow((x, 242), (x, 216), colour=HIDDEN),
            box(x, 199, 46, 32, "tanh" if candidate else "σ", colour),
            says(x + 12, 228, name, colour, 13, "start"),
        ]
    marks += [
        arrow((150, 183), (150, 85), colour=GATE),
        circle(150, 70, "×", MEMORY),
        arrow((235, 183), (235, 130), (256, 130), colour=GATE),
        arrow((305, 183), (305, 130), (286, 130)),
        circle(271, 130, "×"),
        arrow((271, 116), (271, 85)),
        circle(271, 70, "+", MEMORY),
        arrow((400, 183), (400, 161), colour=GATE),
        circle(400, 146, "×", HIDDEN),
        arrow((400, 70), (400, 86), colour=MEMORY),
        box(400, 103, 46, 30, "tanh"),
        arrow((400, 119), (400, 131)),
        arrow((415, 146), (460, 146), (460, 242), (568, 242), colour=HIDDEN),
        says(546, 226, "h_t", HIDDEN),
        arrow((460, 146), (460, 14), colour=HIDDEN),
        says(474, 18, "y_t = h_t", anchor="start", size=13),
    ]
    label = (
        "The LSTM: the memory C runs along the top, multiplied by the forget gate and added to; "
        "the output h leaves it through tanh and the output gate"
    )
    return drawing(592, 312, label, marks)


DIAGRAMS = {"black-box": black_box, "unfolded": unfolded, "rnn": rnn, "lstm": lstm}


class Diagram(SphinxDirective):
    """A drawing by name, with a caption as content."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Put the picture into the page."""
        name = directives.choice(self.arguments[0], tuple(DIAGRAMS))
        figure = nodes.container(classes=["diagram"])
        figure += nodes.raw("", DIAGRAMS[name](), format="html")
        if self.content:
            words = nodes.container(classes=["caption"])
            words += self.parse_content_to_nodes()
            figure += words
        return [figure]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("diagram", Diagram)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
