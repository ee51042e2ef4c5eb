"""What a terminal shows of a long computation."""

import io

import pytest
from rich.console import Console

from jaxlstm.progress import Bar


@pytest.mark.parametrize("width", [120, 80, 40])
def test_a_narrow_terminal_shows_the_beginning_and_how_far_it_is(width):
    bar = Bar("my-forecast", 2500)
    said = io.StringIO()
    bar._console = Console(file=said, force_terminal=True, width=width, color_system=None)
    with bar:
        bar.update(1200, loss="0.4741", at="20,525 sequences/s and some more of this kind")
        said.truncate(0)
        assert bar._bar is not None
        bar._console.print(bar._bar.get_renderable())
    lines = [line for line in said.getvalue().splitlines() if "my-fore" in line]
    assert any("1200/2500" in line and line.rstrip().endswith("left") for line in lines)
    assert "loss 0.4741  at 20,5" in said.getvalue()
