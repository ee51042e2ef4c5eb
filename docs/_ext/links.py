"""Code in the text that is the name of something in the reference leads there."""

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

PLACES = ("jaxlstm.", "jaxlstm.gradients.", "jaxlstm.nn.", "")


def _target(text: str, objects: dict, bare: bool) -> str | None:
    name = text.removesuffix("()").replace("jl.", "jaxlstm.", 1) if text.startswith("jl.") else text
    if name in objects:
        return name
    if bare:
        return next((place + name for place in PLACES if place + name in objects), None)
    return None


def link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Wrap each such literal in a reference; names alone only within the reference."""
    domain = app.env.domains.python_domain
    for literal in list(doctree.findall(nodes.literal)):
        parents = []
        node = literal.parent
        while node is not None:
            parents.append(node)
            node = node.parent
        skip = (nodes.reference, nodes.title, nodes.term, addnodes.desc_signature)
        if any(isinstance(parent, skip) for parent in parents):
            continue
        target = _target(literal.astext(), domain.objects, docname.startswith("reference/"))
        here = next((p for p in parents if isinstance(p, addnodes.desc)), None)
        if target is None or (here is not None and here[0].get("ids") == [target]):
            continue
        found = domain.objects[target]
        uri = app.builder.get_relative_uri(docname, found.docname) + "#" + found.node_id
        reference = nodes.reference("", "", internal=True, refuri=uri)
        literal.replace_self(reference)
        reference += literal


def setup(app: Sphinx) -> dict[str, bool]:
    """Link once every name is known."""
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
