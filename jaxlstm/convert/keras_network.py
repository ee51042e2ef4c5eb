"""The recurrent layers of a model of Keras, where they are a chain: each reads the one before."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

# What does nothing to the numbers once a model is trained.
IDLE = (
    "InputLayer",
    "Masking",
    "Identity",
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "AlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
    "ActivityRegularization",
)

Layer = Mapping[str, Any]
# The name of a layer, which call of it, and which of its results.
Tensor = tuple[str, int, int]


def recurrent(layers: Sequence[Layer]) -> list[Layer]:
    """The recurrent layers of a Sequential or functional model, in their order.

    Args:
        layers: what its config says of every layer.

    Returns:
        Those that are recurrent.

    Raises:
        ValueError: when there is none, they are no chain, or something is computed before or
            between them; an embedding before them, and what follows the last, are passed over.
    """
    network = _Network(layers)
    if not network.chain:
        raise ValueError("`weights` must hold a recurrent layer, got none")
    network.check()
    return [network.layers[name] for name in network.chain]


def name_of(layer: Layer) -> str:
    """The name of a layer, which is its own within a model."""
    return layer["config"]["name"]


class _Network:
    def __init__(self, layers: Sequence[Layer]):
        self.layers = {name_of(layer): layer for layer in layers}
        self.calls = self._calls()
        self.chain = [name for name, layer in self.layers.items() if _is_recurrent(layer)]

    def _calls(self) -> dict[str, list[list[Tensor]]]:
        """The tensors that each call of each layer is given, its masks left out."""
        if any("inbound_nodes" in layer for layer in self.layers.values()):
            return {
                name: [list(self._tensors(node)) for node in layer["inbound_nodes"]]
                for name, layer in self.layers.items()
            }
        first = {name: [[]] for name in list(self.layers)[:1]}
        return first | {name: [[(before, 0, 0)]] for before, name in pairwise(self.layers)}

    def _tensors(self, said: Any, masks: bool = False, within: bool = False) -> Iterator[Tensor]:
        """The tensors in what a call says: those that are its masks, or the others."""
        if isinstance(said, Mapping):
            for key, value in said.items():
                yield from self._tensors(value, masks, within or key == "mask")
        elif isinstance(said, list | tuple):
            if len(said) > 2 and isinstance(said[0], str) and said[0] in self.layers:
                if within == masks:
                    yield said[0], said[1], said[2]
            else:
                for value in said:
                    yield from self._tensors(value, masks, within)

    def _maskers(self) -> set[str]:
        """The layers that masks are computed by: a matter of the data, as masks are."""
        said = [layer.get("inbound_nodes", []) for layer in self.layers.values()]
        left, found = [name for name, *_ in self._tensors(said, masks=True)], set[str]()
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += [below for call in self.calls[name] for below, *_ in call]
        return found

    def sources(self, tensor: Tensor) -> set[Tensor]:
        """The results that one holds, looked for behind layers that are idle."""
        name, call, _ = tensor
        if not _is_idle(self.layers[name]) or not self.calls[name] or not self.calls[name][call]:
            return {tensor}
        return set().union(*(self.sources(given) for given in self.calls[name][call]))

    def check(self) -> None:
        """Refuse what is no chain."""
        inner: set[Tensor] = set()
        for before, name in zip([None, *self.chain], self.chain, strict=False):
            if len(self.calls[name]) > 1:
                raise ValueError(f"`weights` must use each layer once, got '{name}' again")
            [given] = self.calls[name]
            for tensor in given[:1]:
                found = self.sources(tensor)
                self._check_read(name, before, found)
                inner |= found
            for tensor in given[1:]:
                for state in self.sources(tensor):
                    self._check_input(state, f"for the initial state of '{name}'")
        passed = self._maskers().union(self.chain)
        for name, layer in self.layers.items():
            if name in passed or _is_idle(layer):
                continue
            for tensor in (tensor for call in self.calls[name] for tensor in call):
                if inner & self.sources(tensor):
                    raise ValueError(
                        "`weights` must be a chain of layers, got "
                        f"{layer['class_name']} '{name}' beside it"
                    )

    def _check_read(self, name: str, before: str | None, found: set[Tensor]) -> None:
        """Refuse a layer that reads another thing than the layer before, or embeddings if none."""
        for tensor in sorted(found):
            if before is None and self.layers[tensor[0]]["class_name"] != "Embedding":
                self._check_input(tensor, f"but an embedding before '{name}'")
            elif before is not None and tensor != (before, 0, 0):
                raise ValueError(
                    "`weights` must be a chain of layers, got "
                    f"{self.layers[tensor[0]]['class_name']} '{tensor[0]}' before '{name}'"
                )

    def _check_input(self, tensor: Tensor, what: str) -> None:
        layer = self.layers[tensor[0]]
        if not _is_idle(layer):
            raise ValueError(
                f"`weights` must compute nothing {what}, got {layer['class_name']} '{tensor[0]}'"
            )


def _is_idle(layer: Layer) -> bool:
    if layer["class_name"] == "TimeDistributed":
        return _is_idle(layer["config"]["layer"])
    return layer["class_name"] in IDLE


def _is_recurrent(said: Any) -> bool:
    """Whether a layer is recurrent, or has one within, whatever its class is called."""
    if isinstance(said, Mapping):
        return "return_sequences" in said or any(map(_is_recurrent, said.values()))
    return isinstance(said, list) and any(map(_is_recurrent, said))
