"""A trained run as one file for another program."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm import convert
from jaxlstm.errors import UserError
from jaxlstm.training import model
from jaxlstm.training.restore import Trained, trained

FILES = {
    "onnx": "model.onnx",
    "torch": "torch.safetensors",
    "keras": "model.keras",
    "safetensors": "model.safetensors",
}
"""What a run can be exported to, and the file that is written into its folder."""


def export(
    folder: str | Path, to: str, path: str | Path | None = None, seed: int | None = None
) -> Path:
    """Write the network of a run, as its latest checkpoint has it, into one file.

    - "onnx": a model with the inputs `inputs` and `lengths` and the output `outputs`.
    - "torch": a safetensors file with the names of `nn.Embedding` (`embedding`), `nn.LSTM`,
      `nn.GRU` or `nn.RNN` (`recurrent`) and `nn.Linear` (`readout`) in one module.
    - "keras": a Sequential model for `keras.models.load_model`.
    - "safetensors": our own, for `jaxlstm.convert.safetensors.load`, with the embedding and the
      readout beside the cell.

    Args:
        folder: the run.
        to: one of these.
        path: the file, with the ending of its kind; in the run's folder if None.
        seed: which network of a run with several seeds; the first if None.

    Returns:
        The path of the file.

    Raises:
        UserError: when the folder is no training, has no checkpoint or no such seed, the file
            cannot be written, or ends as one of another kind.
    """
    folder = Path(folder)
    file = folder / FILES[to] if path is None else Path(path)
    suffix = Path(FILES[to]).suffix
    if file.suffix != suffix:
        raise UserError(f"--out: expected a name that ends with {suffix}, got '{file}'")
    try:
        found = trained(folder)
    except UserError as error:
        raise UserError(f"export: {error}") from None
    params = found.params(seed)
    try:
        WRITERS[to](file, found, params)
    except OSError as error:
        raise UserError(f"export: cannot write '{file}' ({error.strerror})") from None
    except (ModuleNotFoundError, ValueError) as error:
        raise UserError(f"export: {error}") from None
    return file


def _embedding(found: Trained, params: model.Params) -> np.ndarray | None:
    """A vector for each symbol: learnt, or one-hot; None where inputs are features."""
    if not found.sizes.tokens:
        return None
    if params.embedding is not None:
        return np.asarray(params.embedding)
    return np.eye(found.sizes.input_size, dtype=np.float32)


def _readout(params: model.Params) -> tuple[np.ndarray, np.ndarray]:
    """The kernel and the bias; a readout without one has a bias of zero."""
    kernel, bias = params.readout
    return np.asarray(kernel), np.zeros(
        kernel.shape[1], kernel.dtype
    ) if bias is None else np.asarray(bias)


def _onnx(file: Path, found: Trained, params: model.Params) -> None:
    _whole(convert.onnx_model.write, file, found, params)


def _keras(file: Path, found: Trained, params: model.Params) -> None:
    _whole(convert.keras_model.write, file, found, params)


def _whole(write: Callable[..., None], file: Path, found: Trained, params: Any) -> None:
    network = found.network
    write(
        file,
        network.cell,
        params.cell,
        embedding=_embedding(found, params),
        readout=_readout(params),
        every_step=network.every_step,
    )


def _torch(file: Path, found: Trained, params: model.Params) -> None:
    arrays = convert.torch.dump(found.network.cell, params.cell, prefix="recurrent.")
    embedding = _embedding(found, params)
    if embedding is not None:
        arrays["embedding.weight"] = embedding
    kernel, arrays["readout.bias"] = _readout(params)
    arrays["readout.weight"] = kernel.T
    convert.safetensors.write(file, arrays, {"framework": "torch"})


def _safetensors(file: Path, found: Trained, params: model.Params) -> None:
    others = {"readout.kernel": np.asarray(params.readout.kernel)}
    if params.readout.bias is not None:
        others["readout.bias"] = np.asarray(params.readout.bias)
    if params.embedding is not None:
        others["embedding"] = np.asarray(params.embedding)
    convert.safetensors.dump(found.network.cell, params.cell, file, others=others)


WRITERS: dict[str, Callable[[Path, Trained, model.Params], None]] = {
    "onnx": _onnx,
    "torch": _torch,
    "keras": _keras,
    "safetensors": _safetensors,
}
