"""The cuDNN backend: on a CPU with the reference that JAX has for it, on a GPU with the kernels."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import random_like, random_params
from jax.experimental import rnn

import jaxlstm as jl
from jaxlstm.unroll import cudnn

pytestmark = pytest.mark.usefixtures("compile_fast")

B, T, SIZE = 4, 9, 5
LENGTHS = jnp.array([T, 0, 3, 7], jnp.int32)
LSTM = jl.lstm(input_size=3, hidden_size=SIZE)
CELLS = {
    "plain": LSTM,
    "two biases": jl.lstm(input_size=3, hidden_size=SIZE, recurrent_bias=True),
    "no bias": jl.lstm(input_size=3, hidden_size=SIZE, use_bias=False),
    "layers": jl.stack(
        jl.bidirectional(LSTM, jl.lstm(input_size=3, hidden_size=2)),
        jl.lstm(input_size=SIZE + 2, hidden_size=4),
    ),
}
OPTIONS = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "reverse": {"lengths": LENGTHS, "reverse": True},
}


def reference(inputs, hidden, memory, weights, lengths, features, units):
    unpacked = rnn.unpack_lstm_weights(weights, features, units, 1, False)
    found = rnn.lstm_ref(inputs, hidden, memory, *unpacked, lengths, features, units, 1, 0.0, False)
    return found[:3]


@pytest.fixture
def stand_in(monkeypatch):
    """Where there is no such GPU, the reference takes the kernels' place."""
    if cudnn._platform() != "cuda":
        jax.clear_caches()
        monkeypatch.setattr(cudnn, "_platform", lambda: "cuda")
        monkeypatch.setattr(cudnn, "_lstm", reference)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(
            name, options, marks=[] if name == "plain" or options == "reverse" else pytest.mark.slow
        )
        for name in CELLS
        for options in OPTIONS
    ],
)
def test_values_and_gradients_are_those_of_the_scan(name, options):
    cell = CELLS[name]
    params = random_params(cell, dtype=float)
    inputs = jax.random.normal(jax.random.key(2), (B, T, 3))
    if options != "plain":
        valid = jnp.arange(T, dtype=jnp.int32)[None] < LENGTHS[:, None]
        inputs = jnp.where(valid[..., None], inputs, jnp.nan)
    carry = random_like(cell.initial_carry(params, (B,)), 3, float)

    def loss(params, inputs, carry, backend):
        out = jl.unroll(cell, params, inputs, carry=carry, backend=backend, **OPTIONS[options])
        leaves = enumerate(jax.tree.leaves(out))
        return sum((jnp.sum(jnp.sin((i + 1) * leaf)) for i, leaf in leaves), jnp.zeros(())), out

    found = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
    given = (params, inputs, carry)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    with jax.default_matmul_precision("highest"):
        jax.tree.map(close, found(*given, "cudnn"), found(*given, "scan"))


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((0, 3), {}),
        ((6, 3), {}),
        ((2, 3, 6, 3), {"lengths": jnp.array([[6, 0, 2], [1, 5, 6]]), "reverse": True}),
        ((0, 6, 3), {}),
    ],
)
def test_any_batch_and_length(shape, options):
    params = LSTM.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(2), shape)
    found, scan = (jl.unroll(LSTM, params, inputs, backend=b, **options) for b in ("cudnn", "scan"))
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, scan)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, scan)


@pytest.mark.parametrize(
    ("cell", "options", "line"),
    [
        (LSTM, {"truncate": 3}, "`truncate` is given"),
        (LSTM, {"remat": "sqrt"}, "`remat` is given"),
        (LSTM, {"return_carries": True}, "`return_carries` is given"),
        (LSTM, {"resets": np.zeros((B, T), bool)}, "`resets` is given"),
        (LSTM, {"mask": np.ones((B, T), bool)}, "`mask` is given"),
        (jl.gru(input_size=3, hidden_size=4), {}, "`cell` must be an lstm, got gru"),
        (
            jl.lstm(input_size=3, hidden_size=4, peepholes=True),
            {},
            "`peepholes` must be False, got True",
        ),
        (
            jl.lstm(input_size=3, hidden_size=4, dtype="bfloat16"),
            {},
            "`dtype` must be float32 throughout, got bfloat16",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(cell, options, line):
    with pytest.raises(ValueError, match=line):
        jl.unroll(
            cell, cell.init(jax.random.key(0)), jnp.ones((B, T, 3)), backend="cudnn", **options
        )


@pytest.mark.parametrize(
    ("platform", "version", "wanted"),
    [
        ("gpu", "PJRT C API\ncuda 13000", "cuda"),
        ("gpu", "cuda 12080", "cuda"),
        ("gpu", "PJRT C API\nrocm 60300", "rocm"),
        ("tpu", "PJRT C API\nTFRT TPU v4", "tpu"),
        ("cpu", "cpu", "cpu"),
    ],
)
def test_a_gpu_is_known_by_what_its_client_says(monkeypatch, platform, version, wanted):
    device = SimpleNamespace(platform=platform, client=SimpleNamespace(platform_version=version))
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert cudnn._platform() == wanted


@pytest.mark.skipif(cudnn._platform() == "cuda", reason="there is an NVIDIA GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(ValueError, match="'cudnn' needs an NVIDIA GPU, JAX runs on 'cpu'"):
        jl.unroll(LSTM, LSTM.init(jax.random.key(0)), jnp.ones((B, T, 3)), backend="cudnn")


@pytest.mark.skipif(cudnn._platform() != "cuda", reason="needs an NVIDIA GPU for cuDNN")
def test_the_kernels_are_in_the_program():
    params = LSTM.init(jax.random.key(0))
    lowered = jax.jit(lambda p, x: jl.unroll(LSTM, p, x, backend="cudnn").outputs).lower(
        params, jnp.ones((B, T, 3))
    )
    assert "cudnn_rnn" in lowered.as_text()
