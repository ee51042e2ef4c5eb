"""Drawings in SVG made of a few marks, in the colours of the page."""

import html
from collections.abc import Iterable

INK, MUTED, PAPER = "var(--ink)", "var(--muted)", "var(--paper)"
MEMORY, HIDDEN, GATE = "var(--series-1)", "var(--series-0)", "var(--series-2)"


def drawing(width: int, height: int, label: str, marks: Iterable[str]) -> str:
    """The picture; `label` says what it shows to those who do not see it."""
    heads = "".join(
        f'<marker id="head-{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto-start-reverse"><path d="M0 .8L7 4L0 7.2z" fill="{colour}"/>'
        "</marker>"
        for name, colour in _HEADS.items()
    )
    return (
        f'<svg class="diagram" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{html.escape(label, quote=True)}"><defs>{heads}</defs>'
        f"{''.join(marks)}</svg>"
    )


_HEADS = {"ink": INK, "memory": MEMORY, "hidden": HIDDEN, "gate": GATE, "muted": MUTED}
_NAMES = {colour: name for name, colour in _HEADS.items()}


def box(
    x: float, y: float, w: float, h: float, words: str = "", colour: str = INK, fill: str = PAPER
) -> str:
    """A rectangle around its middle (x, y), with words in it."""
    return (
        f'<rect x="{x - w / 2:g}" y="{y - h / 2:g}" width="{w:g}" height="{h:g}" rx="7" '
        f'fill="{fill}" stroke="{colour}" stroke-width="1.6"/>'
        + (says(x, y, words) if words else "")
    )


def circle(x: float, y: float, words: str, colour: str = INK, radius: float = 13) -> str:
    """A small circle with a sign in it."""
    return (
        f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{PAPER}" stroke="{colour}" '
        f'stroke-width="1.6"/>{says(x, y, words)}'
    )


def says(
    x: float, y: float, words: str, colour: str = INK, size: float = 15, anchor: str = "middle"
) -> str:
    """Words around (x, y); what follows `_` up to a blank stands lower, as `h_t`."""
    parts = []
    for i, word in enumerate(words.split(" ")):
        base, mark, low = word.partition("_")
        blank = " " if i else ""
        parts.append(html.escape(blank + base))
        if mark:
            parts.append(
                f'<tspan dy="4" font-size="{size * 0.72:g}">{html.escape(low)}</tspan>'
                '<tspan dy="-4">&#8203;</tspan>'
            )
    return (
        f'<text x="{x:g}" y="{y + size * 0.34:g}" text-anchor="{anchor}" font-size="{size:g}" '
        f'fill="{colour}">{"".join(parts)}</text>'
    )


def arrow(
    *points: tuple[float, float], colour: str = INK, dash: bool = False, head: bool = True
) -> str:
    """A line through the points, with a head at its end."""
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    end = f' marker-end="url(#head-{_NAMES[colour]})"' if head else ""
    dashed = ' stroke-dasharray="5 4"' if dash else ""
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8" '
        f'stroke-linejoin="round"{dashed}{end}/>'
    )
