"""Products of inputs and states with kernels, in the types in which they are to be added up."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero


def affine(x: Array, kernel: Array, bias: Array | None, dtype: Any) -> Array:
    """`x @ kernel + bias` for any leading batch shape, without rank promotion.

    The factors are of type `dtype`, the result is in float32 at least.
    """
    product = multiplied(jnp.matmul, x.astype(dtype), kernel.astype(dtype))
    if bias is None:
        return product
    return product + jnp.broadcast_to(bias.astype(product.dtype), product.shape)


def multiplied(product: Callable[..., Array], x: Array, kernel: Array) -> Array:
    """`product(x, kernel)`, bilinear, of two arrays of a type; in float32 where that is shorter.

    A processor adds up what it multiplies in float32 in any case, so what is rounded before the
    activations is rounded once too often; on a CPU it costs as much as the product.
    """
    if x.dtype.itemsize < 4:
        return _in_single(product, x, kernel)
    return product(x, kernel)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _in_single(product: Callable[..., Array], x: Array, kernel: Array) -> Array:
    return product(x, kernel, preferred_element_type=jnp.float32)


def _in_half(product: Callable[..., Array], primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Tangents are products of the half type, and so are the cotangents in turn.

    JAX by itself would multiply cotangents in float32 with kernels made as wide.
    """
    (x, kernel), (dx, dkernel) = primals, tangents
    pairs = [(dx, kernel)] * moves(dx) + [(x, dkernel)] * moves(dkernel)
    tangent = functools.reduce(jnp.add, itertools.starmap(product, pairs))
    return _in_single(product, x, kernel), tangent.astype(jnp.float32)


def moves(tangent: Any) -> bool:
    """Whether a tangent, in a rule that is given symbolic zeros, may be other than zero."""
    return not isinstance(tangent, SymbolicZero)


_in_single.defjvp(_in_half, symbolic_zeros=True)


def gated_affine(
    hidden: Any, kernel: Array, gates: int, dtype: Any, bias: Array | None = None
) -> Array:
    """`hidden @ kernel + bias`; where `hidden` is a tuple, each gate's block sees its own."""
    if not isinstance(hidden, tuple):
        return affine(hidden, kernel, bias, dtype)
    kernels = jnp.split(kernel, gates, axis=-1)
    biases = [None] * gates if bias is None else jnp.split(bias, gates)
    parts = zip(hidden, kernels, biases, strict=True)
    return jnp.concatenate([affine(h, block, b, dtype) for h, block, b in parts], axis=-1)
