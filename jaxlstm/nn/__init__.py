"""The Flax NNX face: cells as layers, with the names and defaults that Keras users know.

Every layer is an `RNN` around a cell. It holds nothing but its parameters, as `nnx.Param`s in the
pytree that the functions take, so that `jax.jit`, `jax.grad` and `jax.vmap` work on it as well as
their namesakes of NNX do, and `jaxlstm.unroll(layer.cell, layer.params, inputs)` is the same
computation.
"""

try:
    import flax.nnx  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('`jaxlstm.nn` needs flax: pip install "jaxlstm[flax]"') from error

from jaxlstm.nn.layers import LSTM as LSTM
from jaxlstm.nn.layers import SimpleRNN as SimpleRNN
from jaxlstm.nn.rnn import RNN as RNN
