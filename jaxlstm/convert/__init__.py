"""Weights in and out, to and from the neighbours.

Every neighbour is a module with two functions on arrays that import nothing of it; our own files
bring their cell along (`safetensors.load(path)`, `safetensors.dump(cell, params, path)`).

    cell, params = jl.convert.NEIGHBOUR.load(weights)      # or load(weights, cell) for a given cell
    weights = jl.convert.NEIGHBOUR.dump(cell, params)      # what the neighbour takes

| Neighbour | Takes in | Gives back |
|---|---|---|
| `keras` | layers, models, `get_weights()`, `.keras`, `.weights.h5` | `get_weights()` |
| `torch` | modules, `state_dict`, `.safetensors`, `.pt` | `state_dict` |
| `flax` | `nnx.state`, linen's variables | nested dicts |
| `haiku` | the parameters of `hk.LSTM`, `hk.GRU` | the same |
| `equinox` | cells, or their arrays by name | arrays by name |
| `packed` | the flat array of `jax.experimental.rnn` (cuDNN) | the same |
| `onnx` | operators, models, `.onnx` | operators |
| `safetensors` | our own files, the cell described in them | the same |

Whole networks, with an embedding and a readout, are written by `onnx_model.write` and
`keras_model.write`; `jaxlstm export RUN --to onnx` is the command that uses them.

A round trip gives back the bits, but where a module says otherwise: the forget bias that Haiku adds
at run time, and pairs of biases where the cell given has one. What the other side cannot express is
refused by name, and so is a given cell that computes something else than the weights are of, as far
as they say it: arrays alone do not tell activations that the other side lets one choose. Of a whole
model the recurrent layers are taken where they are a chain, behind nothing but an embedding; a
readout is passed over, what is computed between the layers or beside them is refused. Files are
read without executing anything in them, and written whole or not at all.

Where we differ on purpose, whatever the weights:

- **Masks.** A masked step holds the carry in every cell, whatever pattern the mask has. torch packs
  and so knows right padding alone; ONNX likewise. Keras has patterns, but its convolutional mask is
  wrong for some shapes.
- **Length 0** gives the initial carry; torch refuses it.
- **NaN in the padding** reaches nothing; in Keras it reaches the gradients.
- **State order.** Named, `LSTMCarry(hidden, cell)`; Flax has (c, h).
- **float64** is float64 throughout; Keras' own tanh computes in float32.
- **Outputs at padding** are zeros by default as in torch and ONNX; Keras repeats the last one, as
  `masked_outputs="hold"` does. Before the first valid step Keras on JAX shows the initial state
  that it is given, we zeros.
- **`zero_output_for_mask`** zeroes the output of a Keras layer on JAX that returns no sequences
  too, where the last step is masked; `jaxlstm.nn` gives the last valid output, as Keras' words say.

To add a neighbour: write where its arrays lie, with `parts.build` and `parts.take_apart`, and put
the module in `NEIGHBOURS`.
"""

import importlib
from types import ModuleType

NEIGHBOURS = (
    "keras",
    "keras_model",
    "torch",
    "flax",
    "haiku",
    "equinox",
    "packed",
    "onnx",
    "onnx_model",
    "safetensors",
)
"""The modules of this package that convert."""


def __getattr__(name: str) -> ModuleType:
    if name in NEIGHBOURS:
        return importlib.import_module(f"jaxlstm.convert.{name}")
    raise AttributeError(f"module 'jaxlstm.convert' has no attribute {name!r}")
