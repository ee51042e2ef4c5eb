"""The cells that the contract is tested on. A new cell joins with one line in `CELLS`."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxlstm as jl


def table(**types):
    """Every cell and combinator that can be stepped, with `dtype=` for instance."""
    I, S = {"input_size": 3, **types}, {"input_size": 4, **types}
    lstm = jl.lstm(**I, hidden_size=4)
    return {
        "rnn": jl.rnn(**I, hidden_size=4),
        "indrnn": jl.indrnn(**I, hidden_size=4, activation="tanh"),
        "lstm": lstm,
        "lstm-coupled-peepholes": jl.lstm(**I, hidden_size=4, coupled=True, peepholes=True),
        "lstm-full-gate-recurrence": jl.lstm(**I, hidden_size=2, full_gate_recurrence=True),
        "lstmp": jl.lstmp(**I, hidden_size=4, projection_size=2),
        "layer-norm-lstm": jl.layer_norm_lstm(**I, hidden_size=4),
        "lstm-1997": jl.lstm_1997(**I, blocks=2, block_size=2, truncated=False),
        "conv-lstm": jl.conv_lstm(input_shape=(4, 2), filters=2, peepholes=True, **types),
        "gru": jl.gru(**I, hidden_size=4),
        "gru-reset-before": jl.gru(**I, hidden_size=4, reset_after=False),
        "mgu": jl.mgu(**I, hidden_size=4),
        "slstm": jl.slstm(**I, hidden_size=4),
        "mlstm": jl.mlstm(**I, hidden_size=4, heads=2),
        "min-lstm": jl.min_lstm(**I, hidden_size=4),
        "min-gru": jl.min_gru(**I, hidden_size=4),
        "stack": jl.stack(lstm, jl.rnn(**S, hidden_size=2)),
        "residual": jl.residual(jl.gru(**I, hidden_size=3)),
        "dropout": jl.dropout(lstm, rate=0.5),
        "recurrent-dropout": jl.recurrent_dropout(lstm, rate=0.5),
        "zoneout": jl.zoneout(lstm),
        "weight-drop": jl.weight_drop(lstm, rate=0.5),
    }


CELLS = table()
HALF = table(dtype="bfloat16")
CORE = {name: CELLS[name] for name in ("rnn", "lstm", "stack")}


def random_like(tree, seed, dtype="float64"):
    """Normal numbers in the shapes of a pytree."""
    numbers = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(numbers.normal(size=leaf.shape), dtype), tree)


def random_params(cell, seed=0, dtype="float64"):
    """Parameters without symmetry, zeros or orthogonality."""
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    numbers = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * numbers.normal(size=leaf.shape), dtype), shapes
    )


def random_inputs(cell, *leading, seed=1, dtype="float64"):
    """Inputs of shape `[*leading, *input_shape]`."""
    numbers = np.random.default_rng(seed)
    return jnp.asarray(numbers.normal(size=(*leading, *cell.input_shape)), dtype)


def random_carry(cell, params, *batch, seed=2, dtype="float64"):
    """A carry that the cell never reached."""
    return random_like(jax.eval_shape(lambda: cell.initial_carry(params, batch)), seed, dtype)


def within(tolerance):
    """Make `close(a, b)`: two pytrees of one structure, their numbers equal up to a tolerance."""

    def close(a, b, tolerance=tolerance):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)

    return close
