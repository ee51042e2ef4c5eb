"""The contract for sequences, one step after another in plain Python: what `unroll` must equal."""

import functools

import jax
import numpy as np


@functools.partial(jax.jit, static_argnums=0)
def _step(cell, params, carry, x):
    return cell.step(params, carry, x)


def sequence(cell, params, inputs, carry, valid, resets, *, reverse, hold):
    """One unbatched sequence: outputs, the last carry, and the carry after every step."""
    length = len(inputs)
    initial = jax.device_get(cell.initial_carry(params))
    shown = zero = np.zeros_like(_step(cell, params, initial, inputs[0])[1])
    outputs, carries = [None] * length, [None] * length
    for t in reversed(range(length)) if reverse else range(length):
        begins = resets[t] if not reverse else t + 1 < length and resets[t + 1]
        if begins:
            carry = initial
        if valid[t]:
            carry, shown = jax.device_get(_step(cell, params, carry, inputs[t]))
            outputs[t] = shown
        else:
            outputs[t] = shown if hold else zero
        carries[t] = carry
    return np.stack(outputs), carry, _stack(carries)


def batch(cell, params, inputs, carry, lengths, mask, resets, *, reverse=False, hold=False):
    """A batch `[B, T, …]`, row by row: outputs, last carries, carries."""
    inputs, carry = jax.device_get((inputs, carry))
    valid = mask & (np.arange(inputs.shape[1]) < lengths[:, None])
    rows = []
    for b in range(len(inputs)):
        own = jax.tree.map(lambda leaf, b=b: leaf[b], carry)
        rows.append(
            sequence(cell, params, inputs[b], own, valid[b], resets[b], reverse=reverse, hold=hold)
        )
    return tuple(_stack(part) for part in zip(*rows, strict=True))


def _stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
