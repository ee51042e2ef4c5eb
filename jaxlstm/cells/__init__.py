"""Recurrent cells: pure functions and their descriptions, one file per family."""

from jaxlstm.cells import initializers as initializers
from jaxlstm.cells.base import Cell as Cell
from jaxlstm.cells.base import described as described
from jaxlstm.cells.base import output_shape as output_shape
from jaxlstm.cells.base import to_dict as to_dict
from jaxlstm.cells.combine import stack as stack
from jaxlstm.cells.lstm import GATES as GATES
from jaxlstm.cells.lstm import LSTMCarry as LSTMCarry
from jaxlstm.cells.lstm import LSTMParams as LSTMParams
from jaxlstm.cells.lstm import lstm as lstm
from jaxlstm.cells.registry import from_dict as from_dict
from jaxlstm.cells.rnn import RNNCarry as RNNCarry
from jaxlstm.cells.rnn import RNNParams as RNNParams
from jaxlstm.cells.rnn import rnn as rnn
