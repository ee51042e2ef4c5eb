"""jaxlstm: optax for recurrence.

Pure recurrent cells, scanned over time with `jax.lax.scan`, and the gradients that flow through
them, measured. Importing the package imports jax and nothing heavier; `jaxlstm.nn` is imported when
it is first used, and needs flax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxlstm import gradients as gradients
from jaxlstm.cells import GATES as GATES
from jaxlstm.cells import Cell as Cell
from jaxlstm.cells import LSTMCarry as LSTMCarry
from jaxlstm.cells import LSTMParams as LSTMParams
from jaxlstm.cells import RNNCarry as RNNCarry
from jaxlstm.cells import RNNParams as RNNParams
from jaxlstm.cells import described as described
from jaxlstm.cells import from_dict as from_dict
from jaxlstm.cells import initializers as initializers
from jaxlstm.cells import lstm as lstm
from jaxlstm.cells import output_shape as output_shape
from jaxlstm.cells import rnn as rnn
from jaxlstm.cells import stack as stack
from jaxlstm.cells import to_dict as to_dict
from jaxlstm.unroll import Unrolled as Unrolled
from jaxlstm.unroll import unroll as unroll

if TYPE_CHECKING:
    from jaxlstm import nn as nn

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "nn":
        return importlib.import_module("jaxlstm.nn")
    raise AttributeError(f"module 'jaxlstm' has no attribute {name!r}")
