"""What users get wrong, and what they are told: the argument, what came, and what was expected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxlstm as jl

LSTM = jl.lstm(input_size=3, hidden_size=4)
PAIR = jl.bidirectional(LSTM, LSTM, merge="none")
SUM = jl.residual(jl.lstm(input_size=4, hidden_size=4))
PARAMS = jax.eval_shape(LSTM.init, jax.random.key(0))
X = np.zeros((2, 5, 3), "float32")
ZEROS = np.zeros((2, 4), "float32")
FLAT = np.zeros((2, 3), "float32")
INIT = jl.initializers
KEY = jax.random.key(0)
DROPPED = jl.dropout(LSTM, rate=0.5)
CONV = jl.conv_lstm(input_shape=(4, 1), filters=2)
FRAMES = np.zeros((2, 4, 1), "float32")


def _nothing():
    """A factory that forgets to return what it made."""


def params():
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), PARAMS)


def state(rows):
    return jl.LSTMCarry(*[np.zeros((rows, 4), "float32")] * 2)


def unroll(inputs=X, **options):
    return jl.unroll(LSTM, options.pop("params", None) or params(), inputs, **options)


def lstm(**options):
    return jl.lstm(**{"input_size": 3, "hidden_size": 4, **options})


def layer(*sizes, **options):
    options = {"rngs": nnx.Rngs(0), **options}
    return jl.nn.LSTM(*(sizes or (3, 4)), **options)


CARRY = "LSTMCarry(hidden=float32[2,4], cell=float32[2,4])"
WEIGHTS = "LSTMParams(kernel=float32[3,16], recurrent_kernel=float32[4,16], bias=float32[16])"
VARIABLES = (
    "LSTMParams(kernel=Param(float32[3,16]), recurrent_kernel=Param(float32[4,16]), "
    "bias=Param(float32[16]))"
)
MISTAKES = {
    # Cells.
    "no size": (
        lambda: jl.lstm(input_size=3),
        TypeError,
        "`lstm`: missing a required argument: 'hidden_size'",
    ),
    "sizes without names": (
        lambda: jl.lstm(3, 4),
        TypeError,
        "`lstm`: too many positional arguments",
    ),
    "a name of Keras": (
        lambda: lstm(unit_forget_bias=True),
        TypeError,
        "`lstm`: got an unexpected keyword argument 'unit_forget_bias'",
    ),
    "misspelt option of a projection": (
        lambda: jl.lstmp(input_size=3, hidden_size=4, projection_size=2, peephole=True),
        TypeError,
        "`lstmp`: got an unexpected keyword argument 'peephole'",
    ),
    "negative size": (
        lambda: lstm(hidden_size=-3),
        ValueError,
        "`hidden_size` must be positive, got -3",
    ),
    "no units": (lambda: lstm(hidden_size=0), ValueError, "`hidden_size` must be positive, got 0"),
    "broken size": (
        lambda: lstm(input_size=2.5),
        TypeError,
        "`input_size` must be an int, got 2.5",
    ),
    "size as bool": (
        lambda: lstm(input_size=True),
        TypeError,
        "`input_size` must be an int, got True",
    ),
    "unknown activation": (
        lambda: jl.rnn(input_size=3, hidden_size=4, activation="tan"),
        ValueError,
        "`activation` must be one of ['tanh', 'sigmoid', 'relu', 'identity'] or a fu...",
    ),
    "activation as number": (
        lambda: lstm(recurrent_activation=1),
        ValueError,
        "`recurrent_activation` must be one of ['tanh', 'sigmoid', 'relu', 'identity'] or a fu...",
    ),
    "bias as word": (lambda: lstm(use_bias="no"), TypeError, "`use_bias` must be a bool, got 'no'"),
    "forget bias as word": (
        lambda: lstm(forget_bias="one"),
        TypeError,
        "`forget_bias` must be a number, got 'one'",
    ),
    "unknown dtype": (
        lambda: lstm(param_dtype="floaty"),
        TypeError,
        "`param_dtype` must be a floating point type, got 'floaty'",
    ),
    "integer dtype": (
        lambda: lstm(dtype="int32"),
        TypeError,
        "`dtype` must be a floating point type, got 'int32'",
    ),
    "initialiser as word": (
        lambda: lstm(recurrent_init="orthogonal"),
        TypeError,
        "`recurrent_init` must be a function (key, shape, dtype), got 'orthogonal'",
    ),
    "argument that cannot be hashed": (
        lambda: lstm(output_activation={}),
        TypeError,
        "`output_activation` of lstm must be hashable, got dict",
    ),
    "step of the wrong width": (
        lambda: LSTM.step(params(), jl.LSTMCarry(ZEROS, ZEROS), np.zeros((2, 8), "float32")),
        ValueError,
        "`x` must have shape [*batch, 3], got [2, 8]",
    ),
    "step of a word": (
        lambda: LSTM.step(params(), state(2), "hello"),
        TypeError,
        "`x` must be an array, got str",
    ),
    "step with the carry of another batch": (
        lambda: LSTM.step(params(), state(3), FLAT),
        ValueError,
        "`carry.hidden` must have shape [2, 4], got [3, 4]",
    ),
    "step of a carry of words": (
        lambda: LSTM.step(params(), jl.LSTMCarry("h", "c"), FLAT),
        TypeError,
        "`carry.hidden` must be an array, got str",
    ),
    "gates to see, and none there": (
        lambda: lstm(
            input_gate=False, forget_gate=False, output_gate=False, full_gate_recurrence=True
        ),
        ValueError,
        "`full_gate_recurrence` needs a gate, got False for all three",
    ),
    "a description whose cells are no list": (
        lambda: jl.from_dict({"factory": "stack", "arguments": {"*cells": 3}}),
        ValueError,
        "`*cells` must be a list, got 3",
    ),
    "a word as the inputs of a measurement": (
        lambda: jl.gradients.jacobian_norms(LSTM, params(), "hello"),
        TypeError,
        "`inputs` must be an array, got str",
    ),
    "flossing of a layer": (
        lambda: jl.gradients.flossing(layer(), params(), X, count=1),
        TypeError,
        "`cell` must be a Cell, got LSTM",
    ),
    "a file of no cell": (
        lambda: jl.convert.safetensors.dump("lstm", params(), "lstm.safetensors"),
        TypeError,
        "`cell` must be a Cell, got str",
    ),
    "step without the batch in the carry": (
        lambda: LSTM.step(params(), LSTM.initial_carry(params()), FLAT),
        ValueError,
        "`carry.hidden` must have shape [2, 4], got [4]",
    ),
    "step with a pair": (
        lambda: LSTM.step(params(), (ZEROS, ZEROS), FLAT),
        ValueError,
        f"`carry` must be {CARRY}, got (float32[2,4], float32[2,4])",
    ),
    "step without a carry": (
        lambda: DROPPED.step(params(), None, FLAT),
        ValueError,
        f"`carry` must be Noisy(carry={CARRY}, noise=None), got None",
    ),
    "step without the noise's place": (
        lambda: DROPPED.step(params(), state(2), FLAT),
        ValueError,
        f"`carry` must be Noisy(carry={CARRY}, noise=None), got {CARRY}",
    ),
    "step with params and carry swapped": (
        lambda: LSTM.step(state(2), params(), FLAT),
        ValueError,
        f"`params` must be {WEIGHTS}, got {CARRY}",
    ),
    "step with the weights of more units": (
        lambda: lstm(hidden_size=5).step(params(), state(2), FLAT),
        ValueError,
        "`params.kernel` must have shape [3, 20], got [3, 16]",
    ),
    "carry of a convolution of another batch": (
        lambda: CONV.step(CONV.init(KEY), CONV.initial_carry(CONV.init(KEY), (3,)), FRAMES),
        ValueError,
        "`carry.hidden` must have shape [2, 4, 2], got [3, 4, 2]",
    ),
    "carry of a number of rows": (
        lambda: LSTM.initial_carry(params(), 2),
        TypeError,
        "`batch_shape` must be a tuple of ints, got 2",
    ),
    "carry of half a row": (
        lambda: LSTM.initial_carry(params(), (0.5,)),
        TypeError,
        "`batch_shape` must be a tuple of ints, got (0.5,)",
    ),
    "carry of a negative number of rows": (
        lambda: LSTM.initial_carry(params(), (-2,)),
        ValueError,
        "`batch_shape` must hold no negative size, got (-2,)",
    ),
    "carry without params": (
        lambda: LSTM.initial_carry(None),
        ValueError,
        f"`params` must be {WEIGHTS}, got None",
    ),
    "carry with a seed": (
        lambda: DROPPED.initial_carry(params(), (2,), key=0),
        TypeError,
        "`key` must come from `jax.random.key`, got 0",
    ),
    "init with a seed": (
        lambda: LSTM.init(0),
        TypeError,
        "`key` must come from `jax.random.key`, got 0",
    ),
    "init with many keys": (
        lambda: jl.stack(LSTM).init(jax.random.split(KEY, 3)),
        ValueError,
        "`key` must be one key of shape [], got key<fry> of shape [3]",
    ),
    # Combinators.
    "empty stack": (jl.stack, ValueError, "`cells` must hold at least one cell, got none"),
    "list in a stack": (
        lambda: jl.stack([LSTM]),
        TypeError,
        "`cells[0]` must be a Cell, got list",
    ),
    "layer in a stack": (
        lambda: jl.stack(LSTM, layer()),
        TypeError,
        "`cells[1]` must be a Cell, got LSTM",
    ),
    "stack that does not fit": (
        lambda: jl.stack(LSTM, jl.rnn(input_size=5, hidden_size=2)),
        ValueError,
        "`cells[1]` takes inputs of shape (5,), but `cells[0]` gives (4,)",
    ),
    "residual that changes the size": (
        lambda: jl.residual(LSTM),
        ValueError,
        "`cell` must give outputs of shape (3,), got (4,)",
    ),
    "unknown merge": (
        lambda: jl.bidirectional(LSTM, LSTM, merge="add"),
        ValueError,
        "`merge` must be one of ['concat', 'sum', 'mul', 'ave', 'none'], got 'add'",
    ),
    "dropping all": (
        lambda: jl.dropout(LSTM, rate=1.0),
        ValueError,
        "`rate` must lie in [0, 1), got 1.0",
    ),
    "pair into a stack": (
        lambda: jl.stack(PAIR, LSTM),
        ValueError,
        f"`cell` must give one array, as no `merge` 'none' does, got {PAIR}",
    ),
    "pair and its input": (
        lambda: jl.residual(PAIR),
        ValueError,
        f"`cell` must give one array, as no `merge` 'none' does, got {PAIR}",
    ),
    "pair merged": (
        lambda: jl.bidirectional(PAIR, LSTM),
        ValueError,
        f"`cell` must give one array, as no `merge` 'none' does, got {PAIR}",
    ),
    "zoneout of what has units": (
        lambda: jl.zoneout(jl.slstm(input_size=2, hidden_size=3)),
        ValueError,
        "`cell` must have a carry without units for zoneout, got slstm(...",
    ),
    "zoneout of what adds its input": (
        lambda: jl.zoneout(SUM),
        ValueError,
        f"`cell` must give out its `hidden` for zoneout, got {SUM}",
    ),
    "space without channels": (
        lambda: jl.conv_lstm(input_shape=4, filters=2),
        TypeError,
        "`input_shape` must be a sequence of ints, got 4",
    ),
    "gate bias as word": (
        lambda: jl.lstm_1997(input_size=4, blocks=2, input_gate_bias="ab"),
        TypeError,
        "`input_gate_bias` must be a number or one for each block, got 'ab'",
    ),
    "gate bias of words": (
        lambda: jl.lstm_1997(input_size=4, blocks=2, output_gate_bias=(1.0, None)),
        TypeError,
        "`output_gate_bias` must be a number or one for each block, got (1.0, None)",
    ),
    "norm of one unit": (
        lambda: jl.layer_norm_lstm(input_size=3, hidden_size=1),
        ValueError,
        "`hidden_size` must be at least 2, got 1",
    ),
    "negative epsilon": (
        lambda: jl.layer_norm_lstm(input_size=3, hidden_size=4, epsilon=-1.0),
        ValueError,
        "`epsilon` must be positive, got -1.0",
    ),
    "clip as word": (
        lambda: lstm(cell_clip="1"),
        TypeError,
        "`cell_clip` must be a number, got '1'",
    ),
    "no output activation": (
        lambda: lstm(output_activation=""),
        ValueError,
        "`output_activation` must be one of ...",
    ),
    # Initialisers.
    "scale as word": (
        lambda: INIT.orthogonal(scale="big"),
        TypeError,
        "`scale` must be a number, got 'big'",
    ),
    "scale without its name": (
        lambda: INIT.orthogonal(2.0),
        TypeError,
        "`orthogonal`: too many positional arguments",
    ),
    "short chrono": (lambda: INIT.chrono(t_max=2), ValueError, "`t_max` must be at least 3, got 2"),
    "broken chrono": (
        lambda: INIT.chrono(t_max=99.5),
        TypeError,
        "`t_max` must be an int, got 99.5",
    ),
    "chrono of no gates": (
        lambda: INIT.chrono(t_max=9)(jax.random.key(0), (7,)),
        ValueError,
        "`chrono` draws the bias [4H] of an LSTM, got [7]",
    ),
    "identity bias": (
        lambda: lstm(bias_init=INIT.identity()).init(jax.random.key(0)),
        ValueError,
        "`bias_init`: `identity` draws a matrix, got the shape [16]",
    ),
    "orthogonal vector": (
        lambda: jl.indrnn(input_size=3, hidden_size=4, recurrent_init=INIT.orthogonal()).init(KEY),
        ValueError,
        "`recurrent_init`: `orthogonal` draws a matrix, got the shape [4]",
    ),
    "fans of a vector": (
        lambda: lstm(bias_init=INIT.glorot_uniform()).init(KEY),
        ValueError,
        "`bias_init`: `glorot_uniform` draws a matrix, got the shape [16]",
    ),
    "forget bias of a matrix": (
        lambda: lstm(kernel_init=INIT.forget_bias()).init(KEY),
        ValueError,
        "`kernel_init`: `forget_bias` draws the bias [4H] of an LSTM, got [3, 16]",
    ),
    "bias of another shape": (
        lambda: lstm(bias_init=lambda key, shape, dtype: jnp.zeros(4)).init(KEY),
        ValueError,
        "`bias_init` must give an array of shape [16], got float32[4]",
    ),
    "kernel of another shape": (
        lambda: jl.gru(
            input_size=3, hidden_size=4, kernel_init=lambda key, shape, dtype: jnp.zeros((4, 3))
        ).init(KEY),
        ValueError,
        "`kernel_init` must give an array of shape [3, 12], got float32[4,3]",
    ),
    "recurrent kernel that is none": (
        lambda: lstm(recurrent_init=lambda key, shape, dtype: None).init(KEY),
        ValueError,
        "`recurrent_init` must give an array of shape [4, 4], got None",
    ),
    "variables of a layer": (
        lambda: unroll(params=layer().weights),
        ValueError,
        f"`params` must be {WEIGHTS}, got {VARIABLES}",
    ),
    "kernel of a layer of another shape": (
        lambda: layer(kernel_initializer=lambda key, shape, dtype: jnp.zeros(3)),
        ValueError,
        "`kernel_init` must give an array of shape [3, 16], got float32[3]",
    ),
    "negative spread": (
        lambda: INIT.normal(stddev=-1.0),
        ValueError,
        "`stddev` must not be negative, got -1.0",
    ),
    "negative limit": (
        lambda: INIT.uniform(limit=-1.0),
        ValueError,
        "`limit` must not be negative, got -1.0",
    ),
    # Descriptions.
    "describing no cell": (
        lambda: jl.to_dict("lstm"),
        TypeError,
        "`cell` must be a Cell or an Initializer, got str",
    ),
    "a description without arguments": (
        lambda: jl.from_dict({"factory": "lstm", "arguments": 3}),
        ValueError,
        "`data` must hold 'factory' and 'arguments', got {'factory': 'lstm', 'arguments': 3}",
    ),
    "describing a cell without description": (
        lambda: jl.to_dict(jl.Cell(LSTM.init, LSTM.initial_carry, LSTM.step)),
        TypeError,
        "`cell` has no description: decorate its factory with `jaxlstm.described`",
    ),
    "describing a function": (
        lambda: jl.to_dict(lstm(kernel_init=jnp.ones)),
        TypeError,
        f"`kernel_init` cannot be described as plain data, got {jnp.ones!r}",
    ),
    "no description": (
        lambda: jl.from_dict({}),
        ValueError,
        "`data` must hold 'factory' and 'arguments', got {}",
    ),
    "unknown factory": (
        lambda: jl.from_dict({"factory": "os.system", "arguments": {}}),
        ValueError,
        "`factory` must be one of [...",
    ),
    "shape of no cell": (lambda: jl.output_shape(4), TypeError, "`cell` must be a Cell, got int"),
    # unroll: what is run over what.
    "no cell": (
        lambda: jl.unroll(jl.lstm, None, X),
        TypeError,
        "`cell` must be a Cell, got function",
    ),
    "layer as cell": (
        lambda: jl.unroll(layer(), None, X),
        TypeError,
        "`cell` must be a Cell, got LSTM",
    ),
    "no inputs": (
        lambda: jl.unroll(LSTM, params(), None),
        TypeError,
        "`inputs` must be an array, got NoneType",
    ),
    "words": (lambda: unroll("words"), TypeError, "`inputs` must be an array, got str"),
    "ragged lists": (
        lambda: unroll([[[1.0, 2.0, 3.0]], [[1.0]]]),
        TypeError,
        "`inputs` must be an array, got list",
    ),
    "integers": (
        lambda: unroll(np.ones((2, 5, 3), int)),
        TypeError,
        "`inputs` must be floating point, got int32",
    ),
    "truths": (lambda: unroll(X > 0), TypeError, "`inputs` must be floating point, got bool"),
    "features": (
        lambda: unroll(np.zeros((2, 5, 7), "float32")),
        ValueError,
        "`inputs` must have shape [*batch, T, 3], got [2, 5, 7]",
    ),
    "no time": (
        lambda: unroll(np.zeros(3, "float32")),
        ValueError,
        "`inputs` must have shape [*batch, T, 3], got [3]",
    ),
    "no time, time-major": (
        lambda: unroll(np.zeros(3, "float32"), time_major=True),
        ValueError,
        "`inputs` must have shape [T, *batch, 3], got [3]",
    ),
    "no parameters": (
        lambda: jl.unroll(LSTM, None, X),
        ValueError,
        f"`params` must be {WEIGHTS}, got None",
    ),
    "parameters as tuple": (
        lambda: unroll(params=tuple(params())),
        ValueError,
        f"`params` must be {WEIGHTS}, got (float32[3,16], float32[4,16], float32[16])",
    ),
    "parameters of another size": (
        lambda: unroll(params=params()._replace(kernel=jnp.zeros((2, 16)))),
        ValueError,
        "`params.kernel` must have shape [3, 16], got [2, 16]",
    ),
    "parameters of whole numbers": (
        lambda: unroll(params=params()._replace(kernel=jnp.ones((3, 16), int))),
        TypeError,
        "`params.kernel` must be float32, got int32",
    ),
    "parameters of truths": (
        lambda: unroll(params=params()._replace(bias=jnp.ones(16, bool))),
        TypeError,
        "`params.bias` must be float32, got bool",
    ),
    # unroll: the carry.
    "carry as tuple": (
        lambda: unroll(carry=(ZEROS, ZEROS)),
        ValueError,
        f"`carry` must be {CARRY}, got (float32[2,4], float32[2,4])",
    ),
    "carry as array": (
        lambda: unroll(carry=ZEROS),
        ValueError,
        f"`carry` must be {CARRY}, got float32[2,4]",
    ),
    "half a carry": (
        lambda: unroll(carry=jl.LSTMCarry(ZEROS, None)),
        ValueError,
        f"`carry` must be {CARRY}, got LSTMCarry(hidden=float32[2,4], cell=None)",
    ),
    "carry of another batch": (
        lambda: unroll(carry=LSTM.initial_carry(params(), (3,))),
        ValueError,
        "`carry.hidden` must have shape [2, 4], got [3, 4]",
    ),
    "carry without batch": (
        lambda: unroll(carry=jl.LSTMCarry(ZEROS, ZEROS[0])),
        ValueError,
        "`carry.cell` must have shape [2, 4], got [4]",
    ),
    "complex carry": (
        lambda: unroll(carry=jl.LSTMCarry(ZEROS, ZEROS.astype("complex64"))),
        TypeError,
        "`carry.cell` must be float32, got complex64",
    ),
    "carry of a stack": (
        lambda: jl.unroll(jl.stack(LSTM), (params(),), X, carry=jl.LSTMCarry(ZEROS, ZEROS)),
        ValueError,
        f"`carry` must be ({CARRY},), got {CARRY}",
    ),
    # unroll: what is valid.
    "broken lengths": (
        lambda: unroll(lengths=[1.5, 2.0]),
        TypeError,
        "`lengths` must be integers, got float32",
    ),
    "too long": (
        lambda: unroll(lengths=[5, 6]),
        ValueError,
        "`lengths` must lie in [0, 5], got 6 at index 1",
    ),
    "negative length": (
        lambda: unroll(lengths=[-1, 5]),
        ValueError,
        "`lengths` must lie in [0, 5], got -1 at index 0",
    ),
    "one length for a batch": (
        lambda: unroll(lengths=5),
        ValueError,
        "`lengths` must have the batch shape [2], got []",
    ),
    "lengths of another batch": (
        lambda: unroll(lengths=[1, 2, 3]),
        ValueError,
        "`lengths` must have the batch shape [2], got [3]",
    ),
    "mask of numbers": (
        lambda: unroll(mask=np.ones((2, 5), "float32")),
        TypeError,
        "`mask` must be bool, got float32",
    ),
    "mask time-major": (
        lambda: unroll(mask=np.ones((5, 2), bool)),
        ValueError,
        "`mask` must have shape [2, 5], got [5, 2]",
    ),
    "mask of features": (
        lambda: unroll(mask=np.ones((2, 5, 3), bool)),
        ValueError,
        "`mask` must have shape [2, 5], got [2, 5, 3]",
    ),
    "resets of numbers": (
        lambda: unroll(resets=np.ones((2, 5), int)),
        TypeError,
        "`resets` must be bool, got int32",
    ),
    "resets for one row": (
        lambda: unroll(resets=np.ones(5, bool)),
        ValueError,
        "`resets` must have shape [2, 5], got [5]",
    ),
    # unroll: options.
    "reverse as word": (
        lambda: unroll(reverse="no"),
        TypeError,
        "`reverse` must be a bool, got 'no'",
    ),
    "unknown idle output": (
        lambda: unroll(masked_outputs="last"),
        ValueError,
        "`masked_outputs` must be one of ['zero', 'hold'], got 'last'",
    ),
    "initial without carries": (
        lambda: unroll(include_initial=True),
        ValueError,
        "`include_initial` needs `return_carries=True`, got False",
    ),
    "truncate at nothing": (
        lambda: unroll(truncate=0),
        ValueError,
        "`truncate` must be positive, got 0",
    ),
    "unroll as bool": (lambda: unroll(unroll=True), TypeError, "`unroll` must be an int, got True"),
    "unknown remat": (
        lambda: unroll(remat="log"),
        ValueError,
        "`remat` must be one of ['none', 'chunk', 'sqrt'], got 'log'",
    ),
    "negative remat": (lambda: unroll(remat=-1), ValueError, "`remat` must be positive, got -1"),
    "unknown backend": (
        lambda: unroll(backend="cuda"),
        ValueError,
        "`backend` must be one of ['auto', 'scan', 'fused', 'associative', 'chunked', 'cudnn', "
        "'newton', 'quasi-newton'], got 'cuda'",
    ),
    "seed as key": (
        lambda: unroll(key=0),
        TypeError,
        "`key` must come from `jax.random.key`, got 0",
    ),
    "keys for the rows": (
        lambda: unroll(key=jax.random.split(jax.random.key(0), 2)),
        ValueError,
        "`key` must be one key of shape [], got key<fry> of shape [2]",
    ),
    "old keys for the rows": (
        lambda: unroll(key=jax.random.split(jax.random.PRNGKey(0), 2)),
        ValueError,
        "`key` must be one key of shape [2], got uint32 of shape [2, 2]",
    ),
    "broken old key": (
        lambda: unroll(key=jnp.zeros(3, "uint32")),
        ValueError,
        "`key` must be one key of shape [2], got uint32 of shape [3]",
    ),
    "unknown option": (
        lambda: unroll(initial_state=ZEROS),
        TypeError,
        "...got an unexpected keyword argument 'initial_state'",
    ),
    # The layers of Flax.
    "layer without units": (lambda: layer(8, 0), ValueError, "`units` must be positive, got 0"),
    "layer of broken width": (
        lambda: layer("8", 4),
        TypeError,
        "`in_features` must be an int, got '8'",
    ),
    "seed as rngs": (lambda: layer(rngs=0), TypeError, "`rngs` must be a flax.nnx.Rngs, got 0"),
    "no stream of parameters": (
        lambda: layer(rngs=nnx.Rngs(dropout=0)),
        ValueError,
        "`rngs` must have a stream `params` or `default`, got ['dropout']",
    ),
    "no stream of dropout": (
        lambda: layer(dropout=0.5)(X, rngs=nnx.Rngs(params=0)),
        ValueError,
        "`rngs` must have a stream `dropout` or `default`, got ['params']",
    ),
    "forget bias of a layer as word": (
        lambda: layer(unit_forget_bias="no"),
        TypeError,
        "`unit_forget_bias` must be a bool, got 'no'",
    ),
    "broken strides": (
        lambda: jl.nn.ConvLSTM2D((8, 8, 1), 2, 3, strides=1.5, rngs=nnx.Rngs(0)),
        TypeError,
        "`strides` must be an int, got 1.5",
    ),
    "a step of a list": (
        lambda: jl.lstm(input_size=2, hidden_size=3).step(None, None, [1.0, 2.0]),
        TypeError,
        "`x` must be an array, got list",
    ),
    "an input shape that is a number": (
        lambda: jl.Cell(None, None, None, 4),
        TypeError,
        "`input_shape` must be a tuple, got 4",
    ),
    "a factory that returns nothing": (
        lambda: jl.described(_nothing)(),
        TypeError,
        "`_nothing` must return a Cell or an Initializer, got None",
    ),
    "places of a window too far apart": (
        lambda: jl.conv_lstm(
            input_shape=(8, 5, 1), filters=2, dilation_rate=(1, 2), padding="valid", kernel_size=4
        ),
        ValueError,
        "`kernel_size` (4, 4) with `dilation_rate` (1, 2) must fit into `input_shape` (8, 5, 1)",
    ),
    "no window": (
        lambda: jl.nn.ConvLSTM2D((8, 8, 1), 2, None, rngs=nnx.Rngs(0)),
        TypeError,
        "`kernel_size` must be an int, got None",
    ),
    "states of layers as number": (
        lambda: jl.nn.Stacked(layer())(X, initial_state=3),
        TypeError,
        "`initial_state` must be a list with an entry for each of 1 layers, got int",
    ),
    "states of too many layers": (
        lambda: jl.nn.Stacked(layer())(X, initial_state=[None, None]),
        ValueError,
        "`initial_state` must have an entry for each of 1 layers, got 2",
    ),
    "misspelt option": (
        lambda: layer(return_sequence=True),
        TypeError,
        "`LSTM`: got an unexpected keyword argument 'return_sequence'",
    ),
    "misspelt lengths of a gradient's flow": (
        lambda: jl.gradients.flow(LSTM, PARAMS, X, jnp.sum, lenghts=[5, 3]),
        TypeError,
        "`flow`: got an unexpected keyword argument 'lenghts'",
    ),
    "misspelt mask of weights in time": (
        lambda: jl.gradients.weight_flow(LSTM, PARAMS, X, jnp.sum, masks=None),
        TypeError,
        "`weight_flow`: got an unexpected keyword argument 'masks'",
    ),
    "misspelt lengths of both directions": (
        lambda: jl.nn.Bidirectional(layer(), rngs=nnx.Rngs(1))(X, lenghts=[5, 3]),
        TypeError,
        "Bidirectional.__call__() got an unexpected keyword argument 'lenghts'...",
    ),
    "misspelt mask of layers": (
        lambda: jl.nn.Stacked(layer())(X, masks=None),
        TypeError,
        "Stacked.__call__() got an unexpected keyword argument 'masks'...",
    ),
    "option as number": (
        lambda: layer(return_sequences=1),
        TypeError,
        "`return_sequences` must be a bool, got 1",
    ),
    "option out of range": (
        lambda: layer(truncate=-5),
        ValueError,
        "`truncate` must be positive, got -5",
    ),
    "unknown initialiser": (
        lambda: layer(kernel_initializer="he_normal"),
        ValueError,
        "`kernel_initializer` must be one of ['glorot_uniform', 'orthogonal', 'identity', 'zeros',"
        " 'ones'], got 'he_normal'",
    ),
    "initialiser as number": (
        lambda: layer(bias_initializer=1.0),
        TypeError,
        "`bias_initializer` must be a name or a function, got 1.0",
    ),
    "layer of no cell": (
        lambda: jl.nn.RNN(4, rngs=nnx.Rngs(0)),
        TypeError,
        "`cell` must be a Cell, got int",
    ),
    "last output of two directions": (
        lambda: jl.nn.RNN(jl.bidirectional(LSTM, LSTM), rngs=nnx.Rngs(0)),
        ValueError,
        f"`return_sequences` must be True for bidirectional(forward={LSTM}, backward={LSTM}),"
        " got False",
    ),
    "inputs of a layer": (
        lambda: layer(8, 4)(X, initial_state=[ZEROS, ZEROS]),
        ValueError,
        "`inputs` must have shape [*batch, T, 8], got [2, 5, 3]",
    ),
    "flat inputs of a layer": (
        lambda: layer(time_major=True)(FLAT[0]),
        ValueError,
        "`inputs` must have shape [T, *batch, 3], got [3]",
    ),
    "half a state": (
        lambda: layer()(X, initial_state=[ZEROS]),
        ValueError,
        f"`initial_state` must be {CARRY}, got [float32[2,4]]",
    ),
    "state of another batch": (
        lambda: layer()(X, initial_state=[ZEROS[:1], ZEROS]),
        ValueError,
        "`initial_state.hidden` must have shape [2, 4], got [1, 4]",
    ),
    "state of words": (
        lambda: layer()(X, initial_state=["h", "c"]),
        TypeError,
        "`initial_state.hidden` must be an array, got str",
    ),
    "mask of a layer": (
        lambda: layer()(X, mask=np.ones((2, 4), bool)),
        ValueError,
        "`mask` must have shape [2, 5], got [2, 4]",
    ),
}


@pytest.mark.parametrize(("mistake", "kind", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named(mistake, kind, said):
    with pytest.raises(kind) as caught:
        mistake()
    message = str(caught.value)
    if said.startswith("..."):
        assert said[3:] in message
    elif said.endswith("..."):
        assert message.startswith(said[:-3])
    else:
        assert message == said
    assert "\n" not in message


def test_mistakes_are_found_while_tracing_too():
    with pytest.raises(ValueError, match=r"`lengths` must have the batch shape \[2\], got \[1\]"):
        jax.jit(lambda lengths: unroll(lengths=lengths))(np.ones(1, int))
    with pytest.raises(ValueError, match=r"`carry.hidden` must have shape"):
        jax.vmap(lambda carry: unroll(carry=carry))(jl.LSTMCarry(ZEROS, ZEROS))
    with pytest.raises(ValueError, match=r"`lengths` must lie in \[0, 5\], got 6 at index 1"):
        jax.jit(lambda inputs: unroll(inputs, lengths=np.array([5, 6])))(X)
