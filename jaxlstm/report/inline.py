"""Makes an SVG document part of a page: small, themed, and with ids that meet no others."""

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from jaxlstm.report.style import THEMED

_REFERENCE = re.compile(r"#([A-Za-z_][\w.-]*)")
_LONG = re.compile(r"-?\d+\.\d{3,}")
_SIZE = re.compile(r"^([\d.]+)pt$")


def inline(document: str, prefix: str, label: str, names: Mapping[str, str] | None = None) -> str:
    """Turn a drawn SVG document into an `<svg>` element for HTML.

    Metadata, styles that would leak into the page and ids that nothing refers to go; the ids left
    get the prefix; coordinates keep two decimals; colours of the palette become variables of the
    page, which follow light and dark; text takes the page's font.

    Args:
        document: what `draw` made.
        prefix: an id of its own for this element.
        label: what the picture shows, in words, for those who do not see it; "" hides it from them.
        names: the id of a drawn group → its name, which the page shows when pointed at.

    Returns:
        The element, with every text in it escaped.
    """
    root = ElementTree.fromstring(document)
    used = {
        name
        for element in root.iter()
        for key, value in element.attrib.items()
        if "url(" in value or key.endswith("href")
        for name in _REFERENCE.findall(value)
    }
    for element in list(root.iter()):
        for child in list(element):
            if _plain(child.tag) in ("metadata", "style") or _is_empty(child):
                element.remove(child)
    for element in root.iter():
        element.tag = _plain(element.tag)
        name = element.attrib.pop("id", "")
        if name in used:
            element.set("id", f"{prefix}-{name}")
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.set(_plain(key), _value(_plain(key), value, prefix))
        element.text = element.text if element.tag == "text" else None
        element.tail = None
        if names and name in names:
            title = ElementTree.Element("title")
            title.text = names[name]
            element.insert(0, title)
            element.set("data-name", names[name])
    width, height = (_SIZE.sub(r"\1", root.get(key, "")) for key in ("width", "height"))
    root.attrib = {"viewBox": root.get("viewBox", ""), "width": width, "height": height}
    root.attrib |= {"role": "img", "aria-label": label} if label else {"aria-hidden": "true"}
    return ElementTree.tostring(root, encoding="unicode")


def _plain(name: str) -> str:
    return name.rpartition("}")[2]


def _is_empty(element: ElementTree.Element) -> bool:
    return _plain(element.tag) in ("g", "defs") and not len(element)


def _value(key: str, value: str, prefix: str) -> str:
    if key == "style":
        parts = (part.strip() for part in value.split(";"))
        value = ";".join(part for part in parts if part and not part.startswith("font-family"))
        for colour, variable in THEMED.items():
            value = value.replace(colour, variable)
    if key == "d":
        value = " ".join(value.split())
    if "url(" in value or key == "href":
        value = _REFERENCE.sub(rf"#{prefix}-\1", value)
    elif key in ("d", "x", "y", "width", "height"):
        value = _LONG.sub(lambda match: f"{float(match[0]):.2f}", value)
    return value
