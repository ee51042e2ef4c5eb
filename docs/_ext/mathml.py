"""Formulas as MathML, which browsers set by themselves: no script and no fonts from elsewhere."""

import html

import latex2mathml.converter
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def _convert(formula: str, display: str) -> str:
    written = latex2mathml.converter.convert(formula, display=display)
    # What the converter does not know it sets as letters.
    if "<mi>&</mi>" in written or "<mi>\\" in written:
        raise ExtensionError(f"cannot set the formula {formula!r} as MathML")
    return written


def _inline(self, node: nodes.math) -> None:
    self.body.append(_convert(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(self, node: nodes.math_block) -> None:
    label = html.escape(node.astext(), quote=True)
    self.body.append(
        f'<div class="formula" title="{label}">{_convert(node.astext(), "block")}</div>'
    )
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
