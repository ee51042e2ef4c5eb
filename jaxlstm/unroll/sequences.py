"""The one scan: any cell over time, ragged, reset, reversed, truncated or rematerialised.

The contract for sequences, the same for every cell:

- A step is **valid** where `mask` is true and its index is below `lengths`. Any pattern may be
  masked, not only padding on the right.
- At an invalid step the input is not looked at (NaN or inf there reach nothing, values nor
  gradients), the carry is held, and the output is zero or, by choice, the last valid one.
- The carry returned is the one after the last valid step in the direction of travel, or the initial
  one if a reset came since; where no step is valid, or T = 0, it is the initial carry.
- `resets[t]` says that a new sequence begins with step t: the carry is put back to the initial one
  before it. In reverse it is put back after step t has been done, before the one that is next, so
  that several sequences packed into one row equal the sequences run apart, in both directions. At
  the last step of a travel in reverse none is next: the carry returned is still that of the
  sequence that begins there. Only an output that is held is held across a reset: it shows what the
  last valid step of the row gave.
- The noise of a stochastic cell is neither held nor put back.
- `reverse` travels from the last step to the first and leaves outputs and carries in the order of
  the inputs.
- **Streaming**: a loop over `jax.jit(cell.step)` gives the outputs and carries of `unroll`, in
  float32 on a CPU to the last bit where the products are of some size (seen for 16 units and more).
  Products of a few numbers are computed in one loop with what follows, and how they are rounded
  there depends on the program, the batch and the CPU: up to 4 units in the last place were seen. A
  step that is not compiled rounds each operation.
"""

import functools
from typing import Any, NamedTuple

import jax
from jax import Array

from jaxlstm.cells.base import Carry, Cell, Params, check_cell, check_choice, check_size, serialized
from jaxlstm.cells.given import check_key
from jaxlstm.unroll.checks import (
    check_array,
    check_bool,
    check_flags,
    check_inputs,
    check_leaves,
    check_lengths,
    check_open,
    chunk_length,
)
from jaxlstm.unroll.engine import BACKENDS, begin, run, without_invalid
from jaxlstm.unroll.rows import Newton, Options


@serialized
class Unrolled(NamedTuple):
    """What `unroll` returns.

    Args:
        outputs: the output of every step, `[B, T, …]`, or time-major, or unbatched, as the inputs.
        carry: the carry after the last valid step.
        carries: the carry after every step, in the order of the inputs, where asked for.
    """

    outputs: Any
    carry: Carry
    carries: Any = None


def unroll(
    cell: Cell,
    params: Params,
    inputs: Array,
    *,
    carry: Carry | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
    time_major: bool = False,
    masked_outputs: str = "zero",
    return_carries: bool = False,
    include_initial: bool = False,
    truncate: int | None = None,
    remat: str | int = "none",
    unroll: int | None = None,
    key: Array | None = None,
    backend: str = "auto",
) -> Unrolled:
    """Run a cell over sequences with `jax.lax.scan`.

        carry_t, output_t = cell.step(params, carry_{t−1}, inputs_t),   t = 0 … T − 1

    The call is compiled once for each cell, shape and choice of options, inside the `jit` of the
    caller or without one, and may be differentiated in every mode and order.

    Args:
        cell: a `Cell`.
        params: its parameters, from `cell.init`.
        inputs: `[*batch, T, *input_shape]`, for instance `[B, T, I]` or `[T, I]`; floating point.
        carry: the carry to begin with, as `cell.initial_carry(params, batch)`; that one if None.
        lengths: `[*batch]` int, the number of valid steps of each sequence, in [0, T].
        mask: `[*batch, T]` bool, true where a step is valid. With `lengths`, both must hold.
        resets: `[*batch, T]` bool, true where a new sequence begins, with `cell.initial_carry`.
        reverse: travel from the last step to the first; outputs stay in the order of the inputs.
        time_major: inputs, outputs, mask, resets and carries lead with T: `[T, *batch, …]`.
        masked_outputs: what an invalid step gives: "zero", or "hold" for the last valid output
            (zero before the first).
        return_carries: also return the carry after every step.
        include_initial: put the carry before the first step into `carries` too: at index 0, or at
            index T in reverse, so that there are T + 1.
        truncate: stop gradients through the carry every so many steps, counted in the direction of
            travel, while its values go on (truncated backpropagation through time, Williams & Peng
            1990); None for never.
        remat: memory for time in the backward pass: "none" stores what every step needs; "sqrt"
            stores a carry every √T steps and computes the rest again (Chen et al. 2016); "chunk"
            every 64 steps; an int every so many steps. The numbers are the same; the memory at
            10,000 steps is 1/21 (`experiments/memory`).
        unroll: how many steps the compiled loop does in one turn, as in `jax.lax.scan`; if None
            one, and about 8 on a GPU, which takes .5 of the time there.
        key: randomness for cells that drop out; without a key nothing is dropped.
        backend: how the steps are done. With any of them the numbers are those of "scan", within
            rounding, and every option is taken, unless said here:

            - "auto": for the cells that "fused" takes, without `remat`, "fused", which here keeps
              W x + U h + b of every step too where that is faster than to compute it again (on a
              device up to 16 MB, or 256 MB from 256 inputs and units on); "chunked" where it can;
              "scan" for all others.
            - "scan": one step after the other.
            - "fused": the values of "scan", to the last bit where products are of some size and
              rows are not alone; derivatives are made of products over 10 to 100 steps at once,
              from the carries alone, which takes for an `lstm` 1/4.8 of the memory and .5 to 1 of
              the time of "scan" for a gradient (`experiments/memory`, `experiments/speed`). For
              every cell but `indrnn`, `mgu`, `mlstm`, a `gru` that resets before the product and
              one with noise, and for these in `stack`, `residual` and `bidirectional`; without
              `remat`.
            - "associative": a cell that is linear in its state (`min_gru`, `min_lstm`) in O(log T)
              turns of a parallel scan; without `truncate`, `remat` and held outputs.
            - "chunked": 32 steps of an `mlstm` at once, as products of matrices between them; keeps
              the memory of every 32nd alone. Without `truncate`, `remat`, held outputs and
              `return_carries`.
            - "cudnn": NVIDIA's kernels for a plain float32 `lstm` and layers of it, which take
              `lengths`, `reverse` and an initial carry, have first derivatives in reverse mode
              alone, and took, as JAX calls them, 1.6 to 4.4 times as long as "auto" on an H200
              (`experiments/speed`).
            - "newton", "quasi-newton": solve for all steps at once, within 8 units in the last
              place, with full and with diagonal Jacobians, and give NaN from a step on that gives
              no number (see `newton`); without `truncate`, `remat` and held outputs.

    Returns:
        `Unrolled(outputs, carry, carries)`; `carries` is None unless `return_carries`.

    Raises:
        TypeError: when `inputs` is not floating point, a mask not bool, or another type is wrong,
            or the step of a cell gives another carry than it is given.
        ValueError: when a shape, a length or an option does not fit; the message names it.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.lstm(input_size=8, hidden_size=4)
        >>> params = cell.init(jax.random.key(0))
        >>> inputs = jax.random.normal(jax.random.key(1), (2, 10, 8))
        >>> out = jl.unroll(cell, params, inputs, lengths=jnp.array([10, 3]))
        >>> out.outputs.shape, out.carry.cell.shape
        ((2, 10, 4), (2, 4))
        >>> bool((out.outputs[1, 2] == out.carry.hidden[1]).all()), float(out.outputs[1, 3:].max())
        (True, 0.0)
    """
    check_cell("cell", cell)
    inputs = check_array("inputs", inputs)
    for name, flag in (
        ("reverse", reverse),
        ("time_major", time_major),
        ("return_carries", return_carries),
        ("include_initial", include_initial),
    ):
        check_bool(name, flag)
    if include_initial and not return_carries:
        raise ValueError("`include_initial` needs `return_carries=True`, got False")
    batch_shape, length = check_inputs(cell, inputs, time_major)
    shape = (length, *batch_shape) if time_major else (*batch_shape, length)
    check_choice("masked_outputs", masked_outputs, ("zero", "hold"))
    if not isinstance(backend, Newton):
        check_choice("backend", backend, BACKENDS)
    if unroll is not None:
        check_size("unroll", unroll)
        if unroll > 1:
            check_open("unroll", unroll, length)
    if truncate is not None:
        check_size("truncate", truncate)
    chunk = chunk_length(remat, length)
    lengths = None if lengths is None else check_lengths(lengths, batch_shape, length)
    mask = None if mask is None else check_flags("mask", mask, shape)
    resets = None if resets is None else check_flags("resets", resets, shape)
    key = None if key is None else check_key(key)
    check_leaves("params", params)
    check_leaves("carry", carry)
    if cell.run is not None:
        jax.eval_shape(functools.partial(begin, cell, batch_shape), params, carry, key)
        inputs = without_invalid(
            cell,
            inputs,
            lengths=lengths,
            mask=mask,
            time_major=time_major,
            masked_outputs=masked_outputs,
            reverse=reverse,
        )
        whole = functools.partial(
            _unroll,
            lengths=lengths,
            mask=mask,
            resets=resets,
            time_major=time_major,
            masked_outputs=masked_outputs,
            return_carries=return_carries,
            include_initial=include_initial,
            truncate=truncate,
            remat=remat,
            unroll=unroll,
            backend=backend,
        )
        outputs, final, carries = cell.run(
            whole, params, inputs, carry=carry, key=key, reverse=reverse
        )
        return Unrolled(outputs, final, carries if return_carries else None)
    options = Options(
        reverse=bool(reverse),
        time_axis=0 if time_major else len(batch_shape),
        hold=masked_outputs == "hold",
        return_carries=bool(return_carries),
        include_initial=bool(include_initial),
        truncate=truncate,
        chunk=chunk,
        unroll=unroll,
        backend=backend,
    )
    return Unrolled(*run(cell, options, params, inputs, carry, lengths, mask, resets, key))


_unroll = unroll  # an argument of `unroll` has its name
