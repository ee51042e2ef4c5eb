"""Our own file: a safetensors file whose metadata describe the cell.

The tensors are the parameters in our layout, named by their place in the pytree: `kernel`,
`0.kernel` in a stack, `forward.kernel` in a bidirectional cell. The metadata hold, under
`jaxlstm.cell`, what `jaxlstm.to_dict` says of the cell, as JSON, so that the file alone builds it
again. Nothing in such a file is executed.
"""

import json
from collections.abc import Mapping
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxlstm.cells import Cell, from_dict, to_dict
from jaxlstm.cells.base import Params, check_cell, shapes_of
from jaxlstm.cells.trees import check_tree
from jaxlstm.convert import files
from jaxlstm.convert.parts import floating, refuse_wide, to_numpy

KEY, OTHERS = "jaxlstm.cell", "jaxlstm.others"
DTYPES = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# What others write besides: `read` gives it, no cell takes it.
READABLE = DTYPES | {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "BOOL": np.dtype("bool"),
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}


def dump(
    cell: Cell,
    params: Params,
    path: str | PathLike[str],
    *,
    others: Mapping[str, Any] | None = None,
) -> None:
    """Write a cell and its params into one file.

    Args:
        cell: a cell whose factories are `described`.
        params: its params, of float64, float32, float16 or bfloat16.
        path: the file; replaced in one step when all has been written.
        others: more arrays by name, such as those of a readout; `read` gives them, `load` does not.

    Raises:
        TypeError: when the cell cannot be described, or others are no floating-point arrays.
        ValueError: when the params are not those of the cell, or others have a name of theirs.
        ModuleNotFoundError: without the package safetensors.

    Examples:
        >>> import jax, jaxlstm as jl, tempfile, pathlib
        >>> cell = jl.lstm(input_size=3, hidden_size=4)
        >>> params = cell.init(jax.random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "lstm.safetensors")
        ...     jl.convert.safetensors.dump(cell, params, file)
        ...     again, same = jl.convert.safetensors.load(file)
        >>> again == cell, bool((same.kernel == params.kernel).all())
        (True, True)
    """
    check_cell("cell", cell)
    check_tree("params", params, shapes_of(cell))
    arrays = flat(params)
    others = {name: floating(f"`others` '{name}'", a) for name, a in (others or {}).items()}
    if taken := sorted(arrays.keys() & others.keys()):
        raise ValueError(f"`others` must have names that the params have not, got {taken}")
    metadata = {KEY: json.dumps(to_dict(cell)), OTHERS: json.dumps(sorted(others))}
    write(path, {**others, **arrays}, metadata)


def load(
    path: str | PathLike[str], factories: Mapping[str, Any] | None = None
) -> tuple[Cell, Params]:
    """Read a cell and its params.

    Args:
        path: a file of `dump`.
        factories: factories of your own by name, as for `jaxlstm.from_dict`.

    Returns:
        The cell, and its params, bit for bit.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no such file, or its weights do not fit its cell.
    """
    with files.named(path):
        arrays, metadata = read(path)
        if KEY not in metadata:
            raise ValueError(f"`weights` must describe their cell under '{KEY}', got {metadata}")
        try:
            cell = from_dict(json.loads(metadata[KEY]), factories)
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(f"`weights` must describe their cell as JSON ({error})") from None
        for name in json.loads(metadata.get(OTHERS, "[]")):
            arrays.pop(name, None)
        like = shapes_of(cell)
        names = [name for name, _ in _named(like)]
        if sorted(names) != sorted(arrays):
            raise ValueError(f"`weights` must hold {sorted(names)}, got {sorted(arrays)}")
        arrays = {name: to_numpy(name, array) for name, array in arrays.items()}
        refuse_wide(arrays.values())
        leaves = [jnp.asarray(arrays[name]) for name in names]
        params = jax.tree.unflatten(jax.tree.structure(like), leaves)
        check_tree("weights", params, like)
        return cell, params


def flat(tree: Any) -> dict[str, np.ndarray]:
    """A pytree of arrays as arrays by name."""
    return {name: np.asarray(leaf) for name, leaf in _named(tree)}


def write(
    path: str | PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write arrays by name."""
    library = files.need("safetensors.numpy", "a safetensors file")
    for name, array in arrays.items():
        if array.dtype not in DTYPES.values():
            raise ValueError(f"`params` '{name}' must be floating point, got {array.dtype}")
    data = library.save({n: np.ascontiguousarray(a) for n, a in arrays.items()}, dict(metadata))
    with files.whole(path) as name, open(name, "wb") as file:
        file.write(data)


def read(path: str | PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of any safetensors file by name, and its metadata."""
    library = files.need("safetensors", "a safetensors file")
    with open(path, "rb") as file:
        data = file.read()
    try:
        entries = library.deserialize(data)
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    except Exception as error:  # the library has an exception of its own
        raise ValueError(f"`weights` must be a safetensors file ({error})") from None
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in READABLE:
            raise ValueError(f"`weights` '{name}' must be of NumPy's types, got {entry['dtype']}")
        flat_array = np.frombuffer(entry["data"], READABLE[entry["dtype"]])
        arrays[name] = flat_array.reshape(entry["shape"])
    return arrays, metadata


def _named(tree: Any) -> list[tuple[str, Any]]:
    def name(path: Any) -> str:
        parts = [
            getattr(key, "name", getattr(key, "idx", getattr(key, "key", key))) for key in path
        ]
        return ".".join(map(str, parts)) or "params"

    return [(name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
