"""One step of every family of cells against the equations of its paper, in NumPy and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells_table import CELLS, random_carry, random_inputs, random_params
from jax.flatten_util import ravel_pytree
from reference import sigmoid
from scipy import ndimage

import jaxlstm as jl

pytestmark = pytest.mark.usefixtures("x64")
I, H, B = 3, 4, 2
SIZES = {"input_size": I, "hidden_size": H}


def prepared(cell):
    """Random parameters, carry and input of a batch, and what a step makes of them."""
    params = random_params(cell)
    carry, x = random_carry(cell, params, B), random_inputs(cell, B)
    new, output = cell.step(params, carry, x)
    numbers = jax.tree.map(np.asarray, (params, carry, x))
    return *numbers, new, output


def same(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


def blocks(z, count):
    return np.split(z, count, axis=-1)


@pytest.mark.parametrize("reset_after", [True, False])
def test_gru(reset_after):
    p, c, x, new, output = prepared(jl.gru(**SIZES, reset_after=reset_after))
    h = c.hidden
    x_r, x_z, x_n = blocks(x @ p.kernel + p.bias, 3)
    u_r, u_z, u_n = blocks(p.recurrent_kernel, 3)
    b_r, b_z, b_n = blocks(p.recurrent_bias, 3) if reset_after else (0, 0, 0)
    r, z = sigmoid(x_r + h @ u_r + b_r), sigmoid(x_z + h @ u_z + b_z)
    inner = r * (h @ u_n + b_n) if reset_after else (r * h) @ u_n
    wanted = (1 - z) * np.tanh(x_n + inner) + z * h
    same(output, wanted)
    same(new.hidden, wanted)


def test_mgu():
    p, c, x, _, output = prepared(jl.mgu(**SIZES))
    x_f, x_n = blocks(x @ p.kernel + p.bias, 2)
    u_f, u_n = blocks(p.recurrent_kernel, 2)
    f = sigmoid(x_f + c.hidden @ u_f)
    same(output, (1 - f) * c.hidden + f * np.tanh(x_n + (f * c.hidden) @ u_n))


def test_indrnn():
    p, c, x, _, output = prepared(jl.indrnn(**SIZES))
    same(output, np.maximum(x @ p.kernel + p.recurrent_kernel * c.hidden + p.bias, 0))


VARIANTS = {
    "NIG": {"input_gate": False},
    "NFG": {"forget_gate": False},
    "NOG": {"output_gate": False},
    "NIAF": {"activation": "identity", "output_activation": "tanh"},
    "NOAF": {"output_activation": "identity"},
    "CIFG": {"coupled": True},
    "peepholes": {"peepholes": True},
    "FGR": {"full_gate_recurrence": True},
    "clipped": {"cell_clip": 0.3},
    "projected": {"projection_size": 2},
    "all at once": {
        "coupled": True, "peepholes": True, "full_gate_recurrence": True, "cell_clip": 0.5,
        "projection_size": 3, "activation": "relu", "output_activation": "tanh",
    },
    "no output gate, peepholes, FGR": {
        "output_gate": False, "peepholes": True, "full_gate_recurrence": True,
    },
}  # fmt: skip
FUNCTIONS = {"tanh": np.tanh, "identity": lambda z: z, "relu": lambda z: np.maximum(z, 0)}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_lstm_variants(options):
    cell = jl.lstm(**SIZES, **options)
    p, c, x, new, output = prepared(cell)
    on = {
        "i": options.get("input_gate", True) and not options.get("coupled"),
        "f": options.get("forget_gate", True),
        "g": True,
        "o": options.get("output_gate", True),
    }
    names = [gate for gate in "ifgo" if on[gate]]
    assert p.kernel.shape == (I, len(names) * H)
    z = x @ p.kernel + c.hidden @ p.recurrent_kernel + p.bias
    net = dict(zip(names, blocks(z, len(names)), strict=True))
    gates = [gate for gate in names if gate != "g"]
    if options.get("full_gate_recurrence"):
        for gate, more in zip(gates, blocks(c.gates @ p.gate_kernel, len(gates)), strict=True):
            net[gate] = net[gate] + more
    peep = p.peephole if options.get("peepholes") else np.zeros((3, H))
    phi = FUNCTIONS[options.get("activation", "tanh")]
    psi = FUNCTIONS[options.get("output_activation", options.get("activation", "tanh"))]
    f = sigmoid(net["f"] + peep[1] * c.cell) if on["f"] else 1.0
    i = 1 - f if options.get("coupled") else 1.0
    if on["i"]:
        i = sigmoid(net["i"] + peep[0] * c.cell)
    memory = f * c.cell + i * phi(net["g"])
    if clip := options.get("cell_clip"):
        assert np.abs(memory).max() > clip
        memory = np.clip(memory, -clip, clip)
    o = sigmoid(net["o"] + peep[2] * memory) if on["o"] else 1.0
    hidden = o * psi(memory)
    if options.get("projection_size"):
        hidden = hidden @ p.projection
    same(new.cell, memory)
    same(output, hidden)
    if options.get("full_gate_recurrence"):
        opened = {"i": i, "f": f, "o": o}
        same(new.gates, np.concatenate([opened[gate] for gate in gates], axis=-1))


def test_lstmp_is_lstm_with_a_projection():
    cell = jl.lstmp(**SIZES, projection_size=2, forget_bias=0.0)
    plain = jl.lstm(**SIZES, projection_size=2, forget_bias=0.0)
    params = cell.init(jax.random.key(0))
    assert params.recurrent_kernel.shape == (2, 16)
    assert params.projection.shape == (4, 2)
    x = random_inputs(cell, 5)
    same(jl.unroll(cell, params, x).outputs, jl.unroll(plain, params, x).outputs)


def test_layer_norm_lstm():
    cell = jl.layer_norm_lstm(**SIZES)
    p, c, x, new, output = prepared(cell)

    def norm(z):
        mean = z.mean(axis=-1, keepdims=True)
        return (z - mean) / np.sqrt(z.var(axis=-1, keepdims=True) + 1e-5)

    z = norm(x @ p.kernel) * p.kernel_scale
    z = z + norm(c.hidden @ p.recurrent_kernel) * p.recurrent_scale + p.bias
    i, f, g, o = blocks(z, 4)
    memory = sigmoid(f) * c.cell + sigmoid(i) * np.tanh(g)
    same(new.cell, memory)
    same(output, sigmoid(o) * np.tanh(norm(memory) * p.cell_scale + p.cell_bias))


def test_lstm_1997():
    p, c, x, new, output = prepared(jl.lstm_1997(input_size=I, blocks=2, block_size=3))
    y = np.concatenate([c.gates, c.hidden], axis=-1)
    z = x @ p.kernel + y @ p.recurrent_kernel + np.concatenate([p.gate_bias, p.cell_bias])
    i, o = sigmoid(z[:, :2]), sigmoid(z[:, 2:4])
    g = 4 * sigmoid(z[:, 4:]) - 2
    share = lambda gate: np.repeat(gate, 3, axis=-1)  # noqa: E731
    memory = c.cell + share(i) * g
    same(new.cell, memory)
    same(output, share(o) * (2 * sigmoid(memory) - 1))
    same(new.gates, np.concatenate([i, o], axis=-1))


@pytest.mark.parametrize(
    ("count", "net", "head"),
    [
        # Published totals, with the weights of the output units beside the cell's own.
        (93, {"input_size": 2, "blocks": 2, "block_size": 2}, 4 + 1),
        (156, {"input_size": 8, "blocks": 2, "block_size": 2}, 4 * (4 + 1)),
        (308, {"input_size": 8, "blocks": 3, "block_size": 2}, 8 * (6 + 1)),
        (102, {"input_size": 1, "blocks": 3, "block_size": 1}, 3),
        (264, {"input_size": 7, "blocks": 4, "block_size": 1, "cell_bias": False}, 7 * 4),
        (276, {"input_size": 7, "blocks": 3, "block_size": 2, "cell_bias": False}, 7 * 6),
    ],
)
def test_lstm_1997_has_the_published_number_of_weights(count, net, head):
    params = jax.eval_shape(jl.lstm_1997(**net).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) + head == count


def test_lstm_1997_truncation_is_exact_without_recurrent_weights_only():
    nets = [jl.lstm_1997(input_size=I, blocks=2, truncated=cut) for cut in (True, False)]
    params, inputs = random_params(nets[0]), random_inputs(nets[0], 6)

    def gradients(params):
        loss = lambda cell, p: jnp.sum(jl.unroll(cell, p, inputs).outputs[-1])  # noqa: E731
        return [jax.grad(loss, argnums=1)(cell, params).kernel for cell in nets]

    cut, full = gradients(params)
    assert np.abs(cut - full).max() > 1e-3
    cut, full = gradients(params._replace(recurrent_kernel=0 * params.recurrent_kernel))
    same(cut, full)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((5, 2), {}),
        ((5, 4, 2), {"peepholes": True}),
        ((3, 4, 3, 2), {}),
        ((6, 5, 2), {"strides": 2, "padding": "valid"}),
        ((7, 2), {"strides": 2}),
    ],
)
def test_conv_lstm(shape, options):
    cell = jl.conv_lstm(input_shape=shape, filters=2, **options)
    p, c, x, new, output = prepared(cell)
    dims = len(shape) - 1
    stride = options.get("strides", 1)

    def correlate(images, kernel, stride=1, valid=False):
        result = []
        for image in images:
            channels = []
            for k in range(kernel.shape[-1]):
                whole = sum(
                    ndimage.correlate(image[..., j], kernel[..., j, k], mode="constant")
                    for j in range(kernel.shape[-2])
                )
                # A stride of 2 over an odd size starts at the first pixel, over an even at the
                # second, as "same" padding pads one more at the end.
                start = [1 if valid or (stride == 2 and n % 2 == 0) else 0 for n in whole.shape]
                end = [n - 1 if valid else n for n in whole.shape]
                cut = tuple(slice(a, b, stride) for a, b in zip(start, end, strict=True))
                channels.append(whole[cut])
            result.append(np.stack(channels, axis=-1))
        return np.stack(result)

    z = correlate(x, p.kernel, stride, options.get("padding") == "valid") + p.bias
    z = z + correlate(c.hidden, p.recurrent_kernel)
    i, f, g, o = blocks(z, 4)
    peep = p.peephole if options.get("peepholes") else np.zeros(3)
    memory = sigmoid(f + peep[1] * c.cell) * c.cell
    memory = memory + sigmoid(i + peep[0] * c.cell) * np.tanh(g)
    assert output.ndim == dims + 2
    same(new.cell, memory)
    same(output, sigmoid(o + peep[2] * memory) * np.tanh(memory))


@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
def test_slstm_without_its_stabiliser(forget):
    """The stabiliser cancels: the plain exponentials of the paper give the same outputs."""
    cell = jl.slstm(**SIZES, forget_activation=forget)
    params, inputs = random_params(cell), random_inputs(cell, 6)
    found = jl.unroll(cell, params, inputs).outputs
    h, c, n = np.zeros(H), np.zeros(H), np.zeros(H)
    for t, x in enumerate(np.asarray(inputs)):
        z = x @ params.kernel + h @ params.recurrent_kernel + params.bias
        i, f, g, o = blocks(np.asarray(z), 4)
        keep = sigmoid(f) if forget == "sigmoid" else np.exp(f)
        c, n = keep * c + np.exp(i) * np.tanh(g), keep * n + np.exp(i)
        h = sigmoid(o) * c / n
        same(found[t], h)


@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
def test_mlstm_without_its_stabiliser(forget):
    cell = jl.mlstm(**SIZES, heads=2, forget_activation=forget)
    p, inputs = random_params(cell), random_inputs(cell, 6)
    found = jl.unroll(cell, p, inputs).outputs
    memory, norm = np.zeros((2, 2, 2)), np.zeros((2, 2))
    for t, x in enumerate(np.asarray(inputs)):
        q, k, v, o = np.asarray(x @ p.kernel + p.bias).reshape(4, 2, 2)
        i, f = np.asarray(x @ p.gate_kernel + p.gate_bias).reshape(2, 2)
        keep = sigmoid(f) if forget == "sigmoid" else np.exp(f)
        k = k / np.sqrt(2)
        for head in range(2):
            memory[head] = keep[head] * memory[head] + np.exp(i[head]) * np.outer(v[head], k[head])
            norm[head] = keep[head] * norm[head] + np.exp(i[head]) * k[head]
            scale = max(abs(norm[head] @ q[head]), 1.0)
            read = sigmoid(o[head]) * (memory[head] @ q[head]) / scale
            same(found[t, 2 * head : 2 * head + 2], read)


def test_exponential_gates_stay_in_range():
    for cell in (jl.slstm(**SIZES), jl.mlstm(**SIZES)):
        params = jax.tree.map(lambda leaf: 300 * leaf, random_params(cell))
        outputs = jl.unroll(cell, params, random_inputs(cell, 50)).outputs
        assert jnp.isfinite(outputs).all()


def test_minimal_units():
    p, c, x, _, output = prepared(jl.min_gru(**SIZES))
    z, n = blocks(x @ p.kernel + p.bias, 2)
    same(output, (1 - sigmoid(z)) * c.hidden + sigmoid(z) * n)
    p, c, x, _, output = prepared(jl.min_lstm(**SIZES))
    i, f, g = blocks(x @ p.kernel + p.bias, 3)
    i, f = sigmoid(i), sigmoid(f)
    same(output, f / (f + i) * c.hidden + i / (f + i) * g)


@pytest.mark.ability("fast path")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", [CELLS["min-gru"], CELLS["min-lstm"]], ids=["gru", "lstm"])
def test_parallel_scans_are_the_scan(cell, reverse):
    params, inputs = random_params(cell), random_inputs(cell, B, 9)
    # Of keys of their own, so that resets come at steps that are not valid too.
    options = {
        "mask": jax.random.bernoulli(jax.random.key(0), 0.7, (B, 9)),
        "resets": jax.random.bernoulli(jax.random.key(3), 0.2, (B, 9)),
        "lengths": jnp.array([9, 4]),
        "reverse": reverse,
        "return_carries": True,
        "include_initial": True,
    }
    valid = options["mask"] & (jnp.arange(9)[None] < options["lengths"][:, None])
    given = params, jnp.where(valid[..., None], inputs, jnp.nan), random_carry(cell, params, B)

    def loss(params, inputs, carry, backend):
        out = jl.unroll(cell, params, inputs, carry=carry, backend=backend, **options)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(out)), out

    found = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
    scan, parallel = (found(*given, backend) for backend in ("scan", "associative"))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(scan))
    jax.tree.map(same, parallel, scan)


def test_a_parallel_scan_of_no_steps_gives_the_carry_back():
    cell = CELLS["min-gru"]
    params = random_params(cell)
    carry = random_carry(cell, params, B)
    for reverse in (False, True):
        options = {"carry": carry, "reverse": reverse, "backend": "associative"}
        out = jl.unroll(cell, params, random_inputs(cell, B, 0), **options)
        np.testing.assert_array_equal(out.carry.hidden, carry.hidden)
        assert out.outputs.shape == (B, 0, H)


def test_what_cannot_run_in_parallel_says_so():
    cell = jl.lstm(**SIZES)
    with pytest.raises(ValueError, match=r"`backend` 'associative' needs a cell linear in its"):
        jl.unroll(cell, random_params(cell), random_inputs(cell, 4), backend="associative")
    cell = jl.min_gru(**SIZES)
    with pytest.raises(ValueError, match=r"`truncate` has no parallel form"):
        jl.unroll(
            cell, random_params(cell), random_inputs(cell, 4), backend="associative", truncate=2
        )


@pytest.mark.parametrize(("dtype", "bias"), [("float32", -120.0), ("float16", -20.0)])
def test_an_slstm_reads_its_first_input_however_little_its_gate_opens(dtype, bias):
    """h_1 = σ(o) tanh(g) whatever the input gate, which scales c and n alike."""
    cell = jl.slstm(input_size=1, hidden_size=1, param_dtype=dtype)
    params = cell.init(jax.random.key(0))
    params = params._replace(
        bias=params.bias.at[0].set(bias), kernel=jnp.array([[0, 0, 1.0, 0]], dtype)
    )
    run = lambda p: jl.unroll(cell, p, jnp.ones((5, 1), dtype)).outputs  # noqa: E731
    assert run(params)[0, 0] == pytest.approx(np.tanh(1.0) / 2, rel=1e-3)
    gradient = jax.grad(lambda p: run(p).sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("cell", [CELLS["slstm"], CELLS["mlstm"]], ids=["slstm", "mlstm"])
def test_an_empty_memory_has_the_derivatives_of_its_values(cell):
    """The first input is nothing: the memory stays empty, and still each number counts."""
    params, inputs = random_params(cell), random_inputs(cell, 4).at[0].set(0)
    params = jax.tree.map(lambda a: jnp.zeros_like(a) if a.ndim == 1 else a, params)
    carry = cell.initial_carry(params)
    where, unravel = ravel_pytree((params, carry))

    def loss(where):
        params, carry = unravel(where)
        return jnp.sum(jl.unroll(cell, params, inputs, carry=carry).outputs ** 2)

    steps = 1e-6 * jnp.eye(len(where))
    measured = jax.vmap(lambda step: (loss(where + step) - loss(where - step)) / 2e-6)(steps)
    np.testing.assert_allclose(jax.grad(loss)(where), measured, rtol=1e-5, atol=1e-8)


def test_every_carry_can_be_donated():
    for cell in CELLS.values():
        carry = cell.initial_carry(random_params(cell), (2,))
        step = jax.jit(cell.step, donate_argnums=1)
        step(random_params(cell), carry, random_inputs(cell, 2))


@pytest.mark.parametrize(("backend", "off"), [("scan", 1e-6), ("chunked", 5e-6)])
def test_an_mlstm_with_wide_gates_is_that_of_float64(backend, off):
    for gates, forget in (((0.0, 95.0), "exp"), ((-95.0, -95.0), "sigmoid")):
        found = []
        for dtype in ("float32", "float64"):
            with jax.enable_x64(dtype == "float64"):
                cell = jl.mlstm(
                    input_size=1, hidden_size=2, forget_activation=forget, param_dtype=dtype
                )
                params = jax.tree.map(lambda a: 0 * a + 1, cell.init(jax.random.key(0)))
                params = params._replace(
                    gate_kernel=0 * params.gate_kernel, gate_bias=jnp.array(gates, dtype)
                )

                def run(params, cell=cell, dtype=dtype):
                    inputs = jnp.ones((3, 1), dtype)
                    return jl.unroll(cell, params, inputs, backend=backend).outputs.sum()

                found.append(jax.tree.map(np.asarray, (run(params), jax.grad(run)(params))))
        for narrow, wide in zip(*map(jax.tree.leaves, found), strict=True):
            np.testing.assert_allclose(narrow, wide, rtol=1e-4, atol=off)


def test_layer_norm_of_equal_numbers_has_a_gradient_in_half_precision():
    cell = jl.layer_norm_lstm(input_size=2, hidden_size=3, dtype="float16")
    params = cell.init(jax.random.key(0))
    loss = lambda p: jl.unroll(cell, p, jnp.ones((4, 2))).outputs.astype("float32").sum()  # noqa: E731
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(loss)(params)))
