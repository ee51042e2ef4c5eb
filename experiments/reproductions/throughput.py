"""How fast the network of 1997 learns online: cell-steps a second, one sequence an update.

    python experiments/reproductions/throughput.py --seeds 1 20 --cores 1 2

trains the 156 weights of the temporal order experiment by the update of `jaxlstm run`, with the
seeds side by side by `vmap`, in one thread for each core with its share of them. A cell-step is one
memory cell of one network in one time step; drawing the sequence, forward, backward and the update
are all in its time, padding is not counted. The first update of every seed is held against one
computed by hand in NumPy, with derivatives carried forward as in appendix A of the paper, before
anything is timed. Beside the clock, the processor's own time says what a core does where others
work on it too.
"""

import argparse
import functools
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlstm import config, tasks
from jaxlstm.training import model, step

RATE, BLOCKS, SIZE, SYMBOLS = 0.5, 2, 2, 8
CELLS = BLOCKS * SIZE
TASK = config.TemporalOrder(length=100, protocol="1997", outputs="logistic")
SAME = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
NETWORK = config.LSTM1997(blocks=BLOCKS, block_size=SIZE, input_gate_bias=(-2.0, -4.0))


def logistic(z):
    """1 / (1 + e^−z)."""
    return 1 / (1 + np.exp(-z))


def by_hand(params, symbols, target):
    """The parameters after one update: the truncated gradient, carried forward in time."""
    cell, readout = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params[1:])
    bias = np.concatenate([cell.gate_bias, cell.cell_bias])
    weights = np.concatenate([cell.kernel, cell.recurrent_kernel, bias[None]])
    inputs, outputs, block = slice(BLOCKS), slice(BLOCKS, 2 * BLOCKS), np.arange(CELLS) // SIZE
    memory, last = np.zeros(CELLS), np.zeros(len(bias))
    by_cell, by_gate = np.zeros((2, CELLS, len(weights)))  # ds/dw, of the cell and its input gate
    for symbol in symbols:
        seen = np.concatenate([np.eye(SYMBOLS)[symbol], last, [1.0]])
        active = logistic(seen @ weights)
        i, o, c = active[inputs][block], active[outputs][block], active[2 * BLOCKS :]
        memory = memory + i * (4 * c - 2)
        by_cell += np.outer(i * 4 * c * (1 - c), seen)
        by_gate += np.outer((4 * c - 2) * i * (1 - i), seen)
        squashed = 2 * logistic(memory) - 1
        hidden = o * squashed
        last = np.concatenate([active[: 2 * BLOCKS], hidden])
    found = logistic(hidden @ readout.kernel + readout.bias)
    error = (found - np.eye(len(found))[target]) * found * (1 - found)
    back = readout.kernel @ error
    into = back * o * (1 - squashed**2) / 2
    slope = np.zeros_like(weights)
    slope[:, 2 * BLOCKS :] = (into[:, None] * by_cell).T
    for at, j in enumerate(block):
        slope[:, j] += into[at] * by_gate[at]
        slope[:, BLOCKS + j] += back[at] * squashed[at] * o[at] * (1 - o[at]) * seen
    weights = weights - RATE * slope
    kernel, recurrent, bias = np.split(weights, [SYMBOLS, len(weights) - 1])
    new = type(cell)(kernel, recurrent, bias[0, : 2 * BLOCKS], bias[0, 2 * BLOCKS :])
    moved = (readout.kernel - RATE * np.outer(hidden, error), readout.bias - RATE * error)
    return type(params)(None, new, type(readout)(*moved))


def batch_of(task, state):
    """The one sequence of the next update of a seed."""
    return task.sample(task.data, jax.random.fold_in(state.key, state.step), 1)


def check(task, states, after):
    """Hold one update of every seed against the one by hand."""
    for index in range(len(after.step)):
        state, new = jax.tree.map(lambda leaf, at=index: leaf[at], (states, after))
        batch = batch_of(task, state)
        symbols = np.asarray(batch.inputs[0, : int(batch.lengths[0])])
        wanted = by_hand(state.params, symbols, int(batch.targets[0]))
        jax.tree.map(SAME, new.params, wanted)
        moved = np.abs(np.asarray(new.params.cell.kernel - state.params.cell.kernel))
        if moved.max() < 1e-5:
            raise ValueError(f"the first update of seed {index} is too small to be compared")


def measure(seeds, cores, updates, rounds):
    """Cell-steps a second by the clock and by the processor's time, in a process of its own."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"
    task = tasks.build(TASK)
    network = model.build(
        NETWORK, input_size=SYMBOLS, output_size=task.output_size, tokens=True, every_step=False
    )
    update = step.build(task, network, optax.sgd(RATE), batch_size=1, log_every=updates)
    keys = jax.random.split(jax.random.key(0), seeds)
    together = jax.vmap(lambda key: update.init(key, task.data))(keys)
    shares = [jax.tree.map(lambda leaf, k=k: leaf[k::cores], together) for k in range(cores)]
    shares = [share for share in shares if len(share.step)]
    advance = jax.jit(
        jax.vmap(lambda state, steps: update.advance(state, task.data, steps), (0, None))
    )
    steps = jax.jit(
        jax.vmap(
            lambda state: jnp.sum(
                jax.vmap(lambda t: batch_of(task, state._replace(step=t)).lengths[0])(
                    state.step + jnp.arange(updates)
                )
            )
        )
    )
    begin = time.perf_counter()
    programs = [advance.lower(share, jnp.int32(1)).compile() for share in shares]
    compiling = time.perf_counter() - begin
    for program, share in zip(programs, shares, strict=True):
        check(task, share, program(share, jnp.int32(1)))

    def run(program, share):
        return jax.block_until_ready(program(share, jnp.int32(updates)))

    wall, own = [], []
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(rounds):
            done = CELLS * sum(int(steps(share).sum()) for share in shares)
            clock, cpu = time.perf_counter(), time.process_time()
            shares = list(pool.map(run, programs, shares))
            wall.append(done / (time.perf_counter() - clock))
            own.append(done / (time.process_time() - cpu))
    return {"wall": wall, "own": own, "compiling": compiling}


def main():
    """Measure every number of seeds on every number of cores, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--updates", type=int, default=2000, help="of each seed in a round")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print("Millions of cell-steps a second: median of the rounds, and their range.\n")
    print("| seeds | cores | by the clock | per second of a core's time | compiling |")
    print("|---:|---:|---:|---:|---:|")
    for seeds in given.seeds:
        for cores in given.cores:
            # A process of its own: cores are fixed before JAX begins.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found = pool.apply(measure, (seeds, cores, given.updates, given.rounds))
            cells = [
                f"{statistics.median(rates) / 1e6:.1f} "
                f"({min(rates) / 1e6:.1f} to {max(rates) / 1e6:.1f})"
                for rates in (found["wall"], found["own"])
            ]
            print(f"| {seeds} | {cores} | {' | '.join(cells)} | {found['compiling']:.1f} s |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
