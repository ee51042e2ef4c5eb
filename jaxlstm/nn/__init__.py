"""The Flax NNX face: cells as layers, with the names and defaults that Keras users know.

Every layer is an `RNN` around a cell, or made of such layers. It holds its parameters, as
`nnx.Param`s in the pytree that the functions take, so that `jax.jit`, `jax.grad` and `jax.vmap`
work on it as well as their namesakes of NNX do, and `jaxlstm.unroll(layer.cell, layer.params,
inputs)` is the same computation. A stateful layer holds its carry besides; none holds random
numbers, which come with the call.
"""

try:
    import flax.nnx  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("`jaxlstm.nn` needs flax: pip install flax") from error

from jaxlstm.nn.conv import ConvLSTM1D as ConvLSTM1D
from jaxlstm.nn.conv import ConvLSTM2D as ConvLSTM2D
from jaxlstm.nn.conv import ConvLSTM3D as ConvLSTM3D
from jaxlstm.nn.layers import GRU as GRU
from jaxlstm.nn.layers import LSTM as LSTM
from jaxlstm.nn.layers import SimpleRNN as SimpleRNN
from jaxlstm.nn.rnn import RNN as RNN
from jaxlstm.nn.travel import RNNState as RNNState
from jaxlstm.nn.wrappers import Bidirectional as Bidirectional
from jaxlstm.nn.wrappers import Stacked as Stacked
