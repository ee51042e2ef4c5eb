"""jaxlstm: optax for recurrence.

Pure recurrent cells, scanned over time with `jax.lax.scan`, and the gradients that flow through
them, measured. Importing the package imports jax and nothing heavier; `jaxlstm.nn`, which needs
flax, and `jaxlstm.convert` are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxlstm import gradients as gradients
from jaxlstm.cells import GATES as GATES
from jaxlstm.cells import GRU_GATES as GRU_GATES
from jaxlstm.cells import Bidirectional as Bidirectional
from jaxlstm.cells import Cell as Cell
from jaxlstm.cells import ConvLSTMParams as ConvLSTMParams
from jaxlstm.cells import GRUCarry as GRUCarry
from jaxlstm.cells import GRUParams as GRUParams
from jaxlstm.cells import LayerNormLSTMParams as LayerNormLSTMParams
from jaxlstm.cells import LSTM1997Carry as LSTM1997Carry
from jaxlstm.cells import LSTM1997Params as LSTM1997Params
from jaxlstm.cells import LSTMCarry as LSTMCarry
from jaxlstm.cells import LSTMGatesCarry as LSTMGatesCarry
from jaxlstm.cells import LSTMParams as LSTMParams
from jaxlstm.cells import LSTMVariantParams as LSTMVariantParams
from jaxlstm.cells import MinimalCarry as MinimalCarry
from jaxlstm.cells import MinimalParams as MinimalParams
from jaxlstm.cells import MLSTMCarry as MLSTMCarry
from jaxlstm.cells import MLSTMParams as MLSTMParams
from jaxlstm.cells import Noisy as Noisy
from jaxlstm.cells import RNNCarry as RNNCarry
from jaxlstm.cells import RNNParams as RNNParams
from jaxlstm.cells import RNNVariantParams as RNNVariantParams
from jaxlstm.cells import SLSTMCarry as SLSTMCarry
from jaxlstm.cells import bidirectional as bidirectional
from jaxlstm.cells import conv_lstm as conv_lstm
from jaxlstm.cells import described as described
from jaxlstm.cells import dropout as dropout
from jaxlstm.cells import from_dict as from_dict
from jaxlstm.cells import gru as gru
from jaxlstm.cells import indrnn as indrnn
from jaxlstm.cells import initializers as initializers
from jaxlstm.cells import layer_norm_lstm as layer_norm_lstm
from jaxlstm.cells import lstm as lstm
from jaxlstm.cells import lstm_1997 as lstm_1997
from jaxlstm.cells import lstmp as lstmp
from jaxlstm.cells import mgu as mgu
from jaxlstm.cells import min_gru as min_gru
from jaxlstm.cells import min_lstm as min_lstm
from jaxlstm.cells import mlstm as mlstm
from jaxlstm.cells import output_shape as output_shape
from jaxlstm.cells import recurrent_dropout as recurrent_dropout
from jaxlstm.cells import residual as residual
from jaxlstm.cells import rnn as rnn
from jaxlstm.cells import slstm as slstm
from jaxlstm.cells import stack as stack
from jaxlstm.cells import to_dict as to_dict
from jaxlstm.cells import weight_drop as weight_drop
from jaxlstm.cells import zoneout as zoneout
from jaxlstm.unroll import Solved as Solved
from jaxlstm.unroll import Unrolled as Unrolled
from jaxlstm.unroll import newton as newton
from jaxlstm.unroll import spread as spread
from jaxlstm.unroll import unroll as unroll

if TYPE_CHECKING:
    from jaxlstm import convert as convert
    from jaxlstm import nn as nn

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("nn", "convert"):
        return importlib.import_module(f"jaxlstm.{name}")
    raise AttributeError(f"module 'jaxlstm' has no attribute {name!r}")
