"""Long short-term memory: Hochreiter & Schmidhuber (1997) with the forget gate of Gers (2000)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name as named

from jaxlstm.cells import initializers
from jaxlstm.cells.activations import Activation, function_of
from jaxlstm.cells.base import (
    Cell,
    Split,
    check_keywords,
    check_size,
    described,
    like,
    serialized,
    wide,
)
from jaxlstm.cells.products import affine, gated_affine

GATES: tuple[str, ...] = ("i", "f", "g", "o")
"""The order of the four blocks of every LSTM kernel and bias: input, forget, candidate, output."""


@serialized
class LSTMParams(NamedTuple):
    """Weights of an LSTM: `kernel` [I, 4H], `recurrent_kernel` [H, 4H], `bias` [4H] or None.

    The columns are the gates i, f, g, o, each a block of H.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None


@serialized
class LSTMVariantParams(NamedTuple):
    """Weights of an LSTM with more than the four blocks; a part that is not there is None.

    Args:
        kernel: [I, nH], the blocks of those of the gates i, f, g, o that there are.
        recurrent_kernel: [H, nH], or [P, nH] with a projection.
        bias: [nH].
        peephole: [3, H], what i, f and o see of the memory; rows of missing gates are not used.
        gate_kernel: [mH, mH], from the gates of the step before (all but g) to those of this one.
        projection: [H, P].
        recurrent_bias: [nH], a second bias.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None
    peephole: Array | None = None
    gate_kernel: Array | None = None
    projection: Array | None = None
    recurrent_bias: Array | None = None


@serialized
class LSTMCarry(NamedTuple):
    """State of an LSTM: `hidden` h, the output, and `cell` c, the memory, both [*batch, H]."""

    hidden: Array
    cell: Array


@serialized
class LSTMGatesCarry(NamedTuple):
    """State of an LSTM whose gates see the last gates: `gates` [*batch, mH] besides h and c."""

    hidden: Array
    cell: Array
    gates: Array


@described
def lstm(
    *,
    input_size: int,
    hidden_size: int,
    activation: Activation = "tanh",
    recurrent_activation: Activation = "sigmoid",
    output_activation: Activation | None = None,
    use_bias: bool = True,
    forget_bias: float = 1.0,
    input_gate: bool = True,
    forget_gate: bool = True,
    output_gate: bool = True,
    coupled: bool = False,
    peepholes: bool = False,
    full_gate_recurrence: bool = False,
    cell_clip: float | None = None,
    projection_size: int | None = None,
    recurrent_bias: bool = False,
    kernel_init: Callable[..., Array] = initializers.glorot_uniform(),
    recurrent_init: Callable[..., Array] = initializers.orthogonal(),
    bias_init: Callable[..., Array] | None = None,
    param_dtype: Any = "float32",
    dtype: Any = None,
    cell_dtype: Any = None,
) -> Cell:
    """An LSTM: a memory c_t that is written, kept and read through gates.

    With σ the recurrent activation, φ the activation and ψ the output activation,

        i, f, o = σ(x_t W + h_{t−1} U + b)   in their blocks
        g       = φ(x_t W + h_{t−1} U + b)   in its block
        c_t     = f ⊙ c_{t−1} + i ⊙ g
        h_t     = o ⊙ ψ(c_t)

    Hochreiter & Schmidhuber (1997), "Long short-term memory"; the forget gate is from Gers,
    Schmidhuber, Cummins (2000), "Learning to forget: continual prediction with LSTM".

    The options below it compose, and make the eight variants of Greff, Srivastava, Koutník,
    Steunebrink, Schmidhuber (2015), "LSTM: a search space odyssey": NIG, NFG, NOG
    (`input_gate=False`, …), NIAF, NOAF (`activation="identity"`, `output_activation="identity"`),
    NP (the default: no peepholes), CIFG (`coupled`) and FGR (`full_gate_recurrence`).

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units.
        activation: φ: "tanh", "relu", "identity", "sigmoid" or a function of an array.
        recurrent_activation: σ, likewise.
        output_activation: ψ, likewise; φ if None.
        use_bias: whether there is a bias b.
        forget_bias: where the bias of the forget gate starts. The default of 1 keeps f near 0.73,
            so that the error reaches back from the first update on; with 0 it halves at every step
            (Gers et al. 2000; Jozefowicz, Zaremba, Sutskever 2015).
        input_gate: whether there is an input gate; i = 1 without.
        forget_gate: whether there is a forget gate; f = 1 without.
        output_gate: whether there is an output gate; o = 1 without.
        coupled: i = 1 − f, with no weights of its own.
        peepholes: the gates see the memory: i and f see p ⊙ c_{t−1}, o sees p ⊙ c_t (Gers &
            Schmidhuber 2000, "Recurrent nets that time and count").
        full_gate_recurrence: the gates see the gates of the step before, as in the 1997 paper.
        cell_clip: c_t is clipped to [−cell_clip, cell_clip]; None for no bound.
        projection_size: P, h_t = (o ⊙ ψ(c_t)) V with V [H, P]; None for none. See `lstmp`.
        recurrent_bias: a second bias, added to h_{t−1} U. It does nothing that b does not: it keeps
            weights that come from elsewhere as they are.
        kernel_init: initialiser of W [I, 4H].
        recurrent_init: initialiser of each gate's block [H, H] of U. Orthogonal per gate; see
            `jaxlstm.initializers` for the reason and for the way of Keras.
        bias_init: initialiser of the whole bias [4H], such as `initializers.chrono(t_max=…)`; takes
            the place of `forget_bias`. The blocks of missing gates are left out.
        param_dtype: type of the parameters.
        dtype: type of the factors of products, `hidden` and the outputs; that of the parameters if
            None. Gates are computed in float32 at least.
        cell_dtype: type of the memory c; that of the parameters if None, so that a computation in
            bfloat16 still remembers in float32.

    Returns:
        A `Cell` with `LSTMParams` and `LSTMCarry`; with peepholes, full gate recurrence, a
        projection or a second bias the parameters are `LSTMVariantParams`, and with full gate
        recurrence the carry is `LSTMGatesCarry`.

    Raises:
        TypeError: when a size is no int.
        ValueError: when a size or bound is not positive, an activation is unknown, or options
            contradict each other (`coupled` without an input or forget gate, or
            `full_gate_recurrence` without any gate).

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.lstm(input_size=8, hidden_size=4)
        >>> params = cell.init(jax.random.key(0))
        >>> carry = cell.initial_carry(params, (32,))
        >>> carry, output = cell.step(params, carry, jnp.ones((32, 8)))
        >>> output.shape, carry.hidden.shape, carry.cell.shape
        ((32, 4), (32, 4), (32, 4))
        >>> variant = jl.lstm(input_size=8, hidden_size=4, coupled=True, peepholes=True)
        >>> variant.init(jax.random.key(0)).kernel.shape
        (8, 12)
    """
    check_size("input_size", input_size)
    check_size("hidden_size", hidden_size)
    if projection_size is not None:
        check_size("projection_size", projection_size)
    if cell_clip is not None and not cell_clip > 0:
        raise ValueError(f"`cell_clip` must be positive, got {cell_clip}")
    if coupled and not (input_gate and forget_gate):
        raise ValueError(
            "`coupled` needs `input_gate` and `forget_gate`, got False for one of them"
        )
    phi = function_of(activation, "activation")
    sigma = function_of(recurrent_activation, "recurrent_activation")
    psi = function_of(
        activation if output_activation is None else output_activation, "output_activation"
    )
    draw_bias = bias_init or initializers.forget_bias(value=forget_bias)
    present = {
        "i": input_gate and not coupled,
        "f": forget_gate,
        "g": True,
        "o": output_gate,
    }
    blocks = tuple(gate for gate in GATES if present[gate])
    gates = tuple(gate for gate in blocks if gate != "g")
    if full_gate_recurrence and not gates:
        raise ValueError("`full_gate_recurrence` needs a gate, got False for all three")
    width = len(blocks) * hidden_size
    output_size = projection_size or hidden_size
    plain = not (peepholes or full_gate_recurrence or projection_size or recurrent_bias)

    def init(key: Array) -> LSTMParams | LSTMVariantParams:
        k_kernel, k_recurrent, k_bias = jax.random.split(key, 3)
        kernel = kernel_init(k_kernel, (input_size, width), param_dtype)
        recurrent = initializers.recurrent_blocks(
            recurrent_init, k_recurrent, (output_size, hidden_size), len(blocks), param_dtype
        )
        bias = None
        if use_bias:
            full = draw_bias(k_bias, (len(GATES) * hidden_size,), param_dtype)
            parts = dict(zip(GATES, jnp.split(full, len(GATES)), strict=True))
            bias = jnp.concatenate([parts[gate] for gate in blocks])
        if plain:
            return LSTMParams(kernel, recurrent, bias)
        k_peephole, k_gates, k_projection = jax.random.split(jax.random.fold_in(key, 1), 3)
        square = (len(gates) * hidden_size,) * 2
        return LSTMVariantParams(
            kernel,
            recurrent,
            bias,
            kernel_init(k_peephole, (3, hidden_size), param_dtype) if peepholes else None,
            kernel_init(k_gates, square, param_dtype) if full_gate_recurrence else None,
            kernel_init(k_projection, (hidden_size, output_size), param_dtype)
            if projection_size
            else None,
            jnp.zeros(width, param_dtype) if recurrent_bias else None,
        )

    def initial_carry(params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
        param = params.kernel.dtype
        hidden = jnp.zeros((*batch_shape, output_size), dtype or param)
        cell = jnp.zeros((*batch_shape, hidden_size), cell_dtype or param)
        if not full_gate_recurrence:
            return LSTMCarry(hidden, cell)
        last = jnp.zeros((*batch_shape, len(gates) * hidden_size), dtype or param)
        return LSTMGatesCarry(hidden, cell, last)

    def inputs(params: Any, x: Array) -> Array:
        return affine(x, params.kernel, params.bias, dtype or params.kernel.dtype)

    def states(params: Any, hidden: Any) -> Array:
        more = params.recurrent_bias if recurrent_bias else None
        compute = dtype or params.kernel.dtype
        return gated_affine(hidden, params.recurrent_kernel, len(blocks), compute, more)

    def last_gates(params: Any, carry: Any) -> dict[str, Array]:
        if not full_gate_recurrence:
            return {}
        return {"gates": affine(carry.gates, params.gate_kernel, None, carry.gates.dtype)}

    def merge(peephole: Any, carry: Any, products: dict[str, Array]) -> tuple[Any, Array]:
        z = products["z"]
        compute = z.dtype
        net = dict(zip(blocks, jnp.split(z, len(blocks), axis=-1), strict=True))
        if full_gate_recurrence:
            last = jnp.split(products["gates"], len(gates), -1)
            net |= {gate: net[gate] + m for gate, m in zip(gates, last, strict=True)}

        def look(gate: str, row: int, cell: Array) -> Array:
            if not peepholes:
                return net[gate]
            weight = jnp.broadcast_to(peephole[row].astype(compute), net[gate].shape)
            return net[gate] + weight * cell.astype(compute)

        kept = wide(carry.cell)
        memory = kept.dtype
        g = named(phi(net["g"]), "g")
        opened = {}
        if forget_gate:
            opened["f"] = named(sigma(look("f", 1, carry.cell)), "f")
            kept = opened["f"].astype(memory) * kept
        if coupled:
            g = (1 - opened["f"]) * g
        elif input_gate:
            opened["i"] = named(sigma(look("i", 0, carry.cell)), "i")
            g = opened["i"] * g
        cell = kept + g.astype(memory)
        if cell_clip is not None:
            cell = jnp.clip(cell, -cell_clip, cell_clip)
        output = named(psi(cell), "psi").astype(compute)
        if output_gate:
            opened["o"] = named(sigma(look("o", 2, cell)), "o")
            output = opened["o"] * output
        new = LSTMCarry(output, cell)
        if full_gate_recurrence:
            # One gate alone is copied too: its adjoint is then that of the next step's gates.
            side_by_side = jnp.stack([opened[gate] for gate in gates], axis=-2)
            new = LSTMGatesCarry(*new, side_by_side.reshape(carry.gates.shape))
        new = like(new, carry)
        return new, new.hidden

    def after(params: Any, merged: tuple[Any, Array]) -> tuple[Any, Array]:
        carry, output = merged
        output = affine(output, params.projection, None, output.dtype).astype(output.dtype)
        return carry._replace(hidden=output), output

    split = Split(
        inputs=lambda params, x: {"z": inputs(params, x)},
        states=lambda params, carry: (
            {"z": states(params, carry.hidden)} | last_gates(params, carry)
        ),
        merge=merge,
        extra=lambda params: params.peephole if peepholes else None,
        after=after if projection_size else None,
    )
    return Cell(
        init,
        initial_carry,
        split.step,
        (input_size,),
        gated_step=split.gated_step,
        gates=len(blocks),
        split=split,
    )


@described
def lstmp(*, input_size: int, hidden_size: int, projection_size: int, **options: Any) -> Cell:
    """An LSTM with a projection: h_t = (o ⊙ tanh(c_t)) V, V [H, P], as torch's `proj_size`.

    The memory is wide (H), what is passed on narrow (P), so that the recurrent kernel [P, 4H]
    stays small. Sak, Senior, Beaufays (2014), "Long short-term memory recurrent neural network
    architectures for large scale acoustic modeling".

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the size of the memory.
        projection_size: P, the size of `hidden` and of the outputs.
        **options: those of `lstm`.

    Returns:
        A `Cell` with `LSTMVariantParams` and `LSTMCarry(hidden [P], cell [H])`.

    Raises:
        TypeError: when a size is no int, or `lstm` has no such option.
        ValueError: as `lstm` does.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.lstmp(input_size=8, hidden_size=16, projection_size=4)
        >>> out = jl.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((32, 10, 8)))
        >>> out.outputs.shape, out.carry.cell.shape
        ((32, 10, 4), (32, 16))
    """
    check_size("projection_size", projection_size)
    check_keywords("lstmp", options, lstm)
    return lstm(
        input_size=input_size,
        hidden_size=hidden_size,
        projection_size=projection_size,
        **options,
    )
