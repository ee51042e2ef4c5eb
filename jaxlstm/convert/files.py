"""Files of weights: read without executing anything in them, written whole or not at all."""

import contextlib
import importlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def named(source: Any) -> Iterator[None]:
    """Say in every error which file it is about, where `source` is a path."""
    if not isinstance(source, str | os.PathLike):
        yield
        return
    try:
        yield
    except ModuleNotFoundError:
        raise
    except FileNotFoundError:
        raise FileNotFoundError(
            f"`weights` must be a file, got '{source}': there is none"
        ) from None
    except (ValueError, TypeError) as error:
        raise type(error)(f"{error}, in '{source}'") from None


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[str]:
    """A name to write to, that becomes `path` when all has been written."""
    path = Path(path)
    name = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield str(name)
        os.replace(name, path)
    finally:
        name.unlink(missing_ok=True)


def need(module: str, what: str) -> Any:
    """Import a library that one kind of file needs."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        raise ModuleNotFoundError(f"{what} needs {package}: pip install {package}") from error


def read_torch(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The arrays of a `.safetensors` file, or of a file of `torch.save`, by name."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(path)
    if path.suffix == ".safetensors":
        from jaxlstm.convert import safetensors

        return safetensors.read(path)[0]
    torch = need("torch", "a file of torch.save")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch raise
        said = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # torch writes in bold
        first = said.splitlines()[0] if said else type(error).__name__
        raise ValueError(
            "`weights` must be a file of weights alone, as `torch.save(module.state_dict(), path)` "
            f"writes it ({first})"
        ) from None
    if not isinstance(state, Mapping):
        raise ValueError(f"`weights` must hold a state_dict, got {type(state).__name__}")
    return state
