"""Numbers as a reader wants them: few digits, true signs, powers of ten written as such."""

import math
import re
from collections.abc import Sequence

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_IN_TEXT = re.compile(r"(?<![\w.+-])-?\d+(\.\d+)?([eE][+-]?\d+)?(?![\w.])")


def number(value: float | None, digits: int = 4) -> str:
    """Write a number with that many significant digits; what is not finite is a dash.

    Whole numbers, and those that have more digits before the point, are written out.

    Examples:
        >>> number(2.31849), number(81234.5), number(-0.00002), number(1e10), number(float("nan"))
        ('2.318', '81,234', '−2×10⁻⁵', '10¹⁰', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 1e15 and (isinstance(value, int) or 10**digits <= abs(value) < 1e7):
        return _signs(f"{value:,.0f}")
    text = f"{value:.{digits}g}"
    if abs(value) >= 1000 and "e" not in text:
        head, point, tail = text.partition(".")
        text = f"{int(head):,}{point}{tail}"
    return _signs(text)


def typeset(text: str) -> str:
    """Give the numbers in a text true minus signs and powers of ten.

    Examples:
        >>> typeset("-0.1054 ± 1e-09 of it, 7.889e-31, forget-bias-1")
        '−0.1054 ± 10⁻⁹ of it, 7.889×10⁻³¹, forget-bias-1'
    """
    return _IN_TEXT.sub(lambda found: _signs(found[0]), text)


def _signs(text: str) -> str:
    mantissa, _, exponent = text.lower().partition("e")
    if exponent:
        mantissa = {"1": "", "-1": "-"}.get(mantissa, f"{mantissa}×") + power(int(exponent))
    return mantissa.replace("-", "−")


def power(exponent: int) -> str:
    """Write a power of ten.

    Examples:
        >>> power(-12)
        '10⁻¹²'
    """
    return "10" + str(exponent).translate(_SUPERSCRIPT)


def duration(seconds: float) -> str:
    """Write a time span in its two largest units.

    Examples:
        >>> duration(0.41), duration(9.96), duration(59.7), duration(93.2), duration(7384)
        ('0.4 s', '10 s', '1 min 0 s', '1 min 33 s', '2 h 3 min')
    """
    if round(seconds) < 60:
        return f"{seconds:.1f} s" if round(seconds, 1) < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def listed(numbers: Sequence[int]) -> str:
    """Write whole numbers, three and more that follow on each other by the first and the last.

    Examples:
        >>> listed(range(200)), listed([0, 1, 2, 3, 7]), listed([3, 4])
        ('0 to 199', '0 to 3, 7', '3, 4')
    """
    spans: list[list[int]] = []
    for value in numbers:
        if spans and value == spans[-1][-1] + 1:
            spans[-1].append(value)
        else:
            spans.append([value])
    return ", ".join(
        f"{span[0]} to {span[-1]}" if len(span) > 2 else ", ".join(map(str, span)) for span in spans
    )
