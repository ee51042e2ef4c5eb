"""The devices of a training as a mesh: rows of a batch along one side, hidden units along another.

Along "data" each device has its share of the rows, and all parameters. Along "hidden" each has its
share of the parameters and of the optimiser's state: of the columns of everything that belongs to
a cell, and of the rows of the readout. XLA puts in what the devices must tell each other: the new
hidden state at every step, so this is for networks that outgrow a device, not for speed.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxlstm as jl
from jaxlstm import config
from jaxlstm.cells.base import shapes_of
from jaxlstm.cells.trees import bytes_of
from jaxlstm.errors import UserError
from jaxlstm.training import model, processes
from jaxlstm.unroll.devices import ask_for_devices

HIDDEN = "hidden"
"""The axis over which parameters are spread."""
MOST = 256
"""Devices that a CPU counts as at most: where more are asked for, they are not there."""
WIDE = 6 << 20
"""Bytes of a layer's parameters beyond which a CPU is one device.

As a device, each core reads all of them at every step. Shakespeare in batches of 16 rows on 2
cores: the same with 512 units, with 640 in .8 to .9 of the time as one device, with 1,024 in .7.
"""


def may_spread(train: config.Train, seeds: int) -> bool:
    """Whether more than one device is taken, where there are more.

    On a CPU that is asked for one device per core, one device alone computes with one core.
    """
    if train.mesh == "auto":
        return seeds == 1 < train.batch_size
    return train.mesh.data * train.mesh.hidden > 1


def wished(trainings: Iterable[config.Experiment]) -> int | None:
    """How many devices a CPU shall count as for all of these; None for one per core.

    Examples:
        >>> from jaxlstm import config
        >>> of = lambda mesh: config.load("configs/adding.toml", [("train.mesh", mesh)])
        >>> wished([of("{data = 8}")]), wished([of("{data = 1}")]), wished([of("auto")])
        (8, 1, 1)
        >>> of = lambda units: config.load("configs/shakespeare.toml", [
        ...     ("model.hidden_size", str(units))])
        >>> print(wished([of(512)]), wished([of(1024)]))
        None 1
    """
    most = 1
    for one in trainings:
        mesh = one.train.mesh
        if mesh != "auto":
            most = max(most, mesh.data * mesh.hidden)
        elif may_spread(one.train, len(one.seed_list)) and not _wide(one.model):
            return None
    return most


def _wide(spec: config.Model) -> bool:
    """Whether the cores of a CPU are faster together than each with a share of the batch."""
    if isinstance(spec, config.ConvLSTM):
        return False
    network = model.build(spec, input_size=1, output_size=1, tokens=False, every_step=True)
    return bytes_of(shapes_of(network.layers[0])) > WIDE


def ask_for_devices_of(trainings: Iterable[config.Experiment], processes: int = 1) -> None:
    """Let a CPU count as so many devices as these trainings take, before JAX begins.

    Args:
        trainings: what will be trained.
        processes: in how many processes together.
    """
    count = wished(trainings)
    if count is None:
        ask_for_devices()
    elif count > 1:
        ask_for_devices(min(-(-count // processes), MOST))


def resolve(train: config.Train, seeds: int) -> config.Mesh:
    """Say how many devices each side of the mesh has.

    Raises:
        UserError: when there are not so many.
    """
    there, wanted = jax.device_count(), train.mesh
    if wanted == "auto":
        together = may_spread(train, seeds) or jax.process_count() > 1
        return config.Mesh(data=there if together else 1)
    if wanted.data * wanted.hidden > there:
        product = f"data × hidden = {wanted.data} × {wanted.hidden}"
        raise UserError(f"train.mesh: expected {product} <= {there}, the devices here")
    if jax.process_count() > 1 and wanted.data * wanted.hidden < there:
        raise UserError(
            f"train.mesh: expected data × hidden = {there}, all devices of all processes, got "
            f"{wanted.data} × {wanted.hidden}"
        )
    return wanted


@contextlib.contextmanager
def over(shape: config.Mesh) -> Iterator[Mesh | None]:
    """Compute over a mesh within the context; on one device there is none."""
    if shape.hidden == 1 and shape.data == 1:
        yield None
    elif shape.hidden == 1:
        with jl.spread(shape.data) as mesh:
            yield mesh
    else:
        count, kinds = shape.data * shape.hidden, (AxisType.Auto,) * 2
        sides = (shape.data, shape.hidden)
        mesh = jax.make_mesh(
            sides, ("data", HIDDEN), axis_types=kinds, devices=jax.devices()[:count]
        )
        with jax.set_mesh(mesh):
            yield mesh


def place(tree: Any, mesh: Mesh | None) -> Any:
    """Put arrays where they belong: parameters in parts, all else whole on every device."""
    if mesh is None:
        return tree
    return jax.tree.map(_put, tree, shardings(tree, mesh))


def _put(leaf: Any, where: NamedSharding) -> jax.Array:
    """As `jax.device_put`, also onto devices of other processes, which have the same numbers."""
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), where))
    if isinstance(leaf, jax.Array) and leaf.sharding == where:
        return leaf
    here = np.asarray(leaf)
    return jax.make_array_from_callback(here.shape, where, lambda index: here[index])


def kept(tree: Any, mesh: Mesh | None) -> Any:
    """Within `jit`: let arrays stay where `place` has put them."""
    if mesh is None or (mesh.shape.get(HIDDEN, 1) == 1 and not processes.several()):
        return tree
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, shardings(tree, mesh))


def shardings(tree: Any, mesh: Mesh) -> Any:
    """Where each array of a state belongs.

    Args:
        tree: a `TrainState`, or any pytree in whose paths `cell` and `readout` are what they are
            in the parameters; optimisers keep these names.
        mesh: its axis "hidden" counts; without one, everything is everywhere.

    Returns:
        A `NamedSharding` for each leaf. What does not go up in the number of devices is whole.
    """
    parts = mesh.shape.get(HIDDEN, 1)

    def of(path: Any, leaf: Any) -> NamedSharding:
        names = [str(getattr(key, "name", getattr(key, "key", key))) for key in path]
        shape, axes = jnp.shape(leaf), ()
        if "cell" in names and shape and shape[-1] % parts == 0:
            axes = (*[None] * (len(shape) - 1), HIDDEN)
        elif "readout" in names and len(shape) == 2 and shape[0] % parts == 0:
            axes = (HIDDEN, None)
        return NamedSharding(mesh, PartitionSpec(*axes) if parts > 1 else PartitionSpec())

    return jax.tree_util.tree_map_with_path(of, tree)


def said(shape: config.Mesh) -> str:
    """The mesh in words, such as "8" or "2 x 4".

    Examples:
        >>> said(config.Mesh(data=2, hidden=4)), said(config.Mesh(data=8))
        ('2 x 4', '8')
    """
    return " x ".join(str(n) for n in (shape.data, shape.hidden) if n > 1) or "1"
