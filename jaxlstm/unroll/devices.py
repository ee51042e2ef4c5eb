"""A batch over several devices; on a CPU, over its cores.

XLA's CPU backend gives a scan little to do in parallel: each step is small, and waits for the one
before. But the rows of a batch do not wait for each other. With one device per core each core runs
the scan of its own rows, and nothing is exchanged before the gradients of the weights are summed.
"""

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, Mesh, PartitionSpec

from jaxlstm.cells.base import Cell, Params, check_size
from jaxlstm.cells.products import moves
from jaxlstm.cells.trees import bytes_of
from jaxlstm.unroll.rows import (
    PLACES,
    RESULTS,
    Engine,
    Laid,
    Options,
    Results,
    Work,
    all_have,
    along,
    batch_of,
    mapped_first,
)

AXIS = "data"
"""The mesh axis over which `unroll` spreads a batch."""
PRODUCT = 1 << 21
"""Multiplications of one product of a step on a CPU, where each core has a share of a batch.

XLA divides larger ones among threads that all devices of a CPU share. There they wait for each
other at every step, which with 256 units takes as long as the product.
"""
LARGEST = 13_000_000
"""Bytes of a cell's parameters up to which products in parts pay on a CPU.

Every device reads all of them at every step. More than that, seen on two cores with 32 MB of cache
in common, come from memory, and parts only make it slower.
"""


@contextlib.contextmanager
def spread(devices: int | None = None) -> Iterator[Mesh]:
    """Spread the batch of every `unroll` within over all devices: on a CPU, over its cores.

    Within the context each device runs the scan of its share of the rows, and the gradients of the
    parameters are summed once at the end. Results are those of one device up to the rounding of
    these sums and of products of other sizes. Works inside `jit`, `grad` and `vmap`; functions are
    compiled anew for the context. What is not an `unroll` is left to JAX, which goes on with arrays
    as they lie.

    A CPU counts as one device unless JAX is told otherwise before its first computation. So enter
    the context first of all: it asks for a device per core. Where JAX has already begun, it takes
    the devices that there are. It is `jax.set_mesh` with one axis called "data": any mesh of yours
    with an automatic axis of that name does the same, or with an explicit one along which the
    inputs lie.

    What JAX computes within lies on all devices. Arrays from elsewhere are brought there at every
    call, which took forward passes of 100 steps, 32 rows and 128 units 1.1 times as long, gradients
    1.2 times: make copies of them within (`jnp.array`), or lay them out by the mesh.

    A batch is not spread when the cell draws noise at every step (the shares would draw the same).
    Where rows do not go up in devices, the last row is repeated to fill up; devices for which there
    is nothing else do nothing. All do a single row alike, and one alone its gradient.

    On a CPU it pays where a step is small: for up to 256 units on 2 cores it was 1.5 to 2.2 times
    as fast as one device. With 512 units, whose kernels outgrow a core's cache, it was 1.04 times
    as fast, for gradients 1.03 times, and with a single row .95 times (`experiments/speed`). Larger
    kernels, which every device reads for itself, are better left to one device: 1,024 units were .8
    to .9 times as fast with 64 rows, .6 to .7 times with 16. One device alone of several computes
    with one core: do not enter the context then. Put several steps of a training into one call:
    every call takes large temporary arrays anew from the system. Where a gradient had 60 to 90 MB
    of them on each device, large pages of memory, which glibc gives with
    `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, made it .91 times as long.

    Args:
        devices: how many; all if None.

    Yields:
        The mesh.

    Raises:
        TypeError: when `devices` is no int.
        ValueError: when there are not so many devices.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxlstm as jl
        >>> cell = jl.lstm(input_size=8, hidden_size=4)
        >>> params, inputs = cell.init(jax.random.key(0)), jnp.ones((32, 10, 8))
        >>> loss = lambda params: jnp.mean(jl.unroll(cell, params, inputs).outputs ** 2)
        >>> with jl.spread():
        ...     gradient = jax.jit(jax.grad(loss))(params)
        >>> gradient.kernel.shape
        (8, 16)
    """
    if devices is not None:
        check_size("devices", devices)
    wanted = devices or _cores()
    ask_for_devices(wanted)
    found = jax.devices()
    if devices is not None and devices > len(found):
        raise ValueError(
            f"`devices` must be at most {len(found)}, the devices that JAX has begun with, got "
            f"{devices}: enter `spread` before the first computation"
        )
    if found[0].platform == "cpu" and len(found) == 1 < wanted:
        warnings.warn(
            f"`spread` has one device for {wanted} cores, because JAX had begun before: enter it "
            "before the first computation",
            stacklevel=3,
        )
    count = devices or len(found)
    mesh = jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=found[:count])
    with jax.set_mesh(mesh):
        yield mesh


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ask_for_devices(count: int | None = None) -> None:
    """Let a CPU count as so many devices, one per core if None.

    Does nothing where JAX has begun, or where its configuration already says how many.
    """
    count = count or _cores()
    said = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    config: Any = jax.config
    if not said and config.jax_num_cpu_devices < 0:
        with contextlib.suppress(RuntimeError):  # JAX has begun
            jax.config.update("jax_num_cpu_devices", count)


def run_spread(engine: Engine, cell: Cell, options: Options, params: Params, laid: Laid) -> Results:
    """Run a backend on the shares of a batch where the mesh of the context says so."""
    mesh = jax.sharding.get_abstract_mesh()
    batch_shape = batch_of(cell, laid.xs)
    rows = batch_shape[0] if batch_shape and all_have(batch_shape, laid) else 0
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    count = mesh.shape[AXIS] if kinds.get(AXIS) == AxisType.Auto else 1
    if count == 1 or not rows:
        return engine(cell, options, params, laid)
    device = mesh.abstract_device
    on_cpu = device is not None and device.device_kind == "cpu"
    if on_cpu and bytes_of(params) <= LARGEST:
        options = dataclasses.replace(options, most=PRODUCT)
    work = functools.partial(engine, cell, options)
    share = -(-rows // count)
    uneven = rows % count

    def together(params: Params, laid: Laid) -> Results:
        return work(params, _met(laid, count) if on_cpu else laid)

    def some(params: Params, laid: Laid) -> Results:
        """Take a share of what each device has; where there is nothing left, do nothing."""
        begin = jax.lax.axis_index(AXIS) * share
        rows_of = functools.partial(
            jnp.take, indices=begin + jnp.arange(share, dtype=begin.dtype), mode="clip"
        )
        laid = Laid(*along(rows_of, laid, PLACES))
        if share * (count - 1) < rows or _others(mesh):
            return together(params, laid)
        shapes = jax.eval_shape(work, params, laid)
        idle = lambda *_: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)  # noqa: E731
        return jax.lax.cond(begin < rows, work, idle, params, laid)

    spread_out = jax.shard_map(
        some if uneven else together,
        in_specs=(PartitionSpec(), PartitionSpec() if uneven else Laid._make(map(_at, PLACES))),
        out_specs=tuple(map(_at, RESULTS)),
        axis_names={AXIS},
        check_vma=False,
    )

    def divided(params: Params, laid: Laid) -> Results:
        results = spread_out(params, laid)
        if uneven:
            take = functools.partial(jax.lax.slice_in_dim, start_index=0, limit_index=rows)
            results = along(take, results, RESULTS)
        outputs, final, carries = results
        return outputs, final, carries

    if rows == 1 and not _others(mesh):
        return _by_all(work, divided)(params, laid)
    return divided(params, laid)


def _by_all(work: Work, by_one: Work) -> Work:
    """What all devices compute alike; where it is differentiated, one does and tells the others.

    Forward a row takes a device as long as it takes all of them, side by side, and nothing is to be
    told. The products of its gradient are as large as a batch's, and would wait for each other.
    """

    @jax.custom_jvp
    def run(params: Params, laid: Laid) -> Results:
        return mapped_first(work(params, laid))

    def derived(primals: Any, tangents: Any) -> Any:
        leaves, structure = jax.tree.flatten(primals)
        slopes = structure.flatten_up_to(tangents)
        moving = [at for at, slope in enumerate(slopes) if moves(slope)]

        def of(*moved: Array) -> Results:
            given = dict(enumerate(leaves)) | dict(zip(moving, moved, strict=True))
            return by_one(*structure.unflatten(given.values()))

        return jax.jvp(of, [leaves[at] for at in moving], [slopes[at] for at in moving])

    run.defjvp(derived, symbolic_zeros=True)
    return run


def _others(mesh: Any) -> bool:
    """Whether XLA may let devices exchange arrays over another axis, so that all do the same."""
    axes = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    return any(size > 1 and kind != AxisType.Manual for name, size, kind in axes if name != AXIS)


def _met(laid: Laid, count: int) -> Laid:
    """The batch, once all devices have begun: each hears from the one before it.

    Otherwise the kernel may wake all their threads on one core, and move them apart only after
    some milliseconds: forward, 100 steps of 32 rows, 64 inputs and 128 units took 1.2 times as
    long. A thread that has waited for another is woken on a core that is free.
    """
    ring = [(i, (i + 1) % count) for i in range(count)]
    heard = jax.lax.ppermute(jax.lax.axis_index(AXIS), AXIS, ring) >= 0

    def after(a: Array) -> Array:
        return jnp.where(heard, a, jnp.zeros_like(a)) if jnp.issubdtype(a.dtype, jnp.inexact) else a

    return laid._replace(first=jax.tree.map(after, laid.first))


def _at(place: int) -> PartitionSpec:
    """The dimension at this place over the devices."""
    return PartitionSpec(*[None] * place, AXIS)
