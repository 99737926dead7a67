"""The one meaning of `where`, `weights` and `reduction`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._core import blocks, checks, stable
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.devices import is_known, one_cpu, require_tracked_axis
from jaxloss._core.precision import upcast

_COUNTED = 2**31 - 1  # the largest int32
REDUCTIONS = ("none", "mean", "sum")


def reduce(
    values: Any,
    *,
    where: Any = None,
    weights: Any = None,
    reduction: str = "mean",
    denominator: Any = None,
    axis_name: Any = None,
    fn: str = "reduce",
) -> Array:
    """See `jaxloss.reduce`; `fn` is the name that errors carry."""
    checks.choice(fn, "reduction", reduction, REDUCTIONS)
    values = upcast(checks.floating(fn, "values", values))
    if where is not None:
        where = checks.align(fn, "where", checks.mask(fn, "where", where), values.shape, "losses")
        values = fill(where, values)
    if weights is not None:
        given = checks.number(fn, "weights", weights)
        checks.broadcast(fn, "weights", given, values.shape, "losses")
        weights = _weights_of(values, given, where)
        # Kept for the backward pass: the weights as they came (and the losses only if the weights are learned). The
        # product alone would keep them broadcast and in float32.
        weigh = jax.checkpoint(lambda v, w, keep: stable.times(_weights_of(v, w, keep), v), prevent_cse=False)
        values = weigh(values, given, where)
    if denominator is not None and reduction != "mean":
        raise ValueError(f'{fn}: denominator divides a mean; with reduction="{reduction}" it has no meaning')
    if reduction == "none":
        if axis_name is not None:
            raise ValueError(f'{fn}: axis_name adds up over devices; with reduction="none" nothing is added')
        return values
    total = _over_devices(fn, jnp.sum(values), axis_name)
    if reduction == "sum":
        return total
    if denominator is None:
        count = _over_devices(fn, _count(values, where, weights), axis_name)
    else:
        count = checks.number(fn, "denominator", denominator).astype(values.dtype)
        checks.same_shape(fn, "denominator", count, (), "total, a scalar")
    return _ratio(total, count)


def coefficients(shape: tuple[int, ...], dtype: Any, *, where: Any, weights: Any, reduction: str, fn: str) -> Array:
    """What each loss is multiplied by in `reduce`: the sum of the products is the reduced loss."""
    ones = jnp.ones(shape, dtype)
    factor = reduce(ones, where=where, weights=weights, reduction="none", fn=fn)
    if reduction == "sum":
        return factor
    count = jnp.sum(factor) if weights is not None else _count(ones, where, None)
    return _ratio(factor, count)


def reduce_elements(
    rule: Callable[..., Array],
    operands: Sequence[Any],
    *,
    where: Any,
    weights: Any,
    reduction: str,
    fn: str,
    arithmetic: bool = False,
    light: bool = False,
) -> Array:
    """`reduce(rule(*operands), ...)` for a rule of single elements, whose losses a sum does not write down.

    The first operand has the shape of the losses; the others are aligned with it (`checks.align`), or scalars. Of
    an `arithmetic` rule (see `elements.py`) XLA:CPU's library makes one pass with a sum by the caller; from the losses
    of other rules it is kept. Our own sums go in blocks, but for those of a `light` rule without a mask or weights.
    """
    checks.choice(fn, "reduction", reduction, REDUCTIONS)
    # In the backward pass the operands are read again: of what both passes have in common XLA keeps an array.
    again = arithmetic or (reduction == "none" and one_cpu())
    rule = jax.checkpoint(rule, prevent_cse=again)
    if reduction == "none":
        values = rule(*operands)
        values = values if arithmetic else blocks.completed(values)
        return reduce(values, where=where, weights=weights, reduction=reduction, fn=fn)
    shape = operands[0].shape
    where, weights = (_aligned(fn, *given, shape) for given in (("where", where), ("weights", weights)))

    def weighed(operands: Any, where: Array | None, weights: Array | None) -> Array:
        values = fill(where, upcast(rule(*operands)))
        return values if weights is None else stable.times(_weights_of(values, weights, where), values)

    if light and where is None and weights is None:
        total = jnp.sum(weighed(operands, where, weights))
    else:
        total = blocks.total(weighed, (operands, where, weights))
    if reduction == "sum":
        return total
    if weights is not None and where is None:
        count = blocks.total(lambda w: w.astype(total.dtype), (weights,))
        return _ratio(total, count * _copies(weights, shape, total.dtype))
    if weights is not None:

        def factors(x: Array, where: Array | None, weights: Array) -> Array:
            return _weights_of(jnp.zeros(x.shape, total.dtype), weights, where)

        return _ratio(total, blocks.total(factors, (operands[0], where, weights)))
    if where is None:
        return _ratio(total, jnp.asarray(math.prod(shape), total.dtype))
    return _ratio(total, _kept(where, shape, total.dtype))


def _aligned(fn: str, arg: str, value: Any, shape: tuple[int, ...]) -> Array | None:
    if value is None:
        return None
    value = checks.mask(fn, arg, value) if arg == "where" else checks.number(fn, arg, value)
    return checks.align(fn, arg, value, shape, "losses")


def _weights_of(values: Array, weights: Array, where: Array | None) -> Array:
    return fill(where, jnp.broadcast_to(weights.astype(values.dtype), values.shape))


def fill(where: Array | None, x: Array, value: float = 0.0) -> Array:
    """`x` with something harmless where it is dropped, before the maths, so that NaN there reaches nothing."""
    return x if where is None else _fill(value, where, x)


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _fill(value: float, where: Array, x: Array) -> Array:
    return jnp.where(where, x, jnp.asarray(value, x.dtype))


def _fill_fwd(value: float, where: Array, x: Array) -> tuple[Array, Array]:
    return _fill(value, where, x), where


def _fill_bwd(value: float, where: Array, g: Array) -> tuple[None, Array]:
    # Why a rule: autodiff keeps the mask and an array of zeros, both in the shape of x; here only the mask as it came.
    return None, jnp.where(where, g, jnp.zeros((), g.dtype))


_fill.defvjp(_fill_fwd, _fill_bwd)


def _count(values: Array, where: Array | None, weights: Array | None) -> Array:
    if weights is not None:
        return jnp.sum(weights)
    if where is None:
        return jnp.asarray(math.prod(values.shape), values.dtype)
    return _kept(where, values.shape, values.dtype)


def _kept(where: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """How many of that shape, to which `where` is broadcast. Counted as integers, which are exact beyond 2**24, and
    where there are too many for them, in parts."""
    parts = [where]
    if is_known(where) and where.size > _COUNTED:
        longest = where.shape.index(max(where.shape))
        parts = jnp.array_split(where, -(-where.size // _COUNTED), longest)
    counts = [blocks.total(lambda keep: keep.astype(jnp.int32), (part,)).astype(dtype) for part in parts]
    return functools.reduce(jnp.add, counts) * _copies(where, shape, dtype)


def _copies(x: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """How many of the shape each entry stands for."""
    return jnp.asarray(math.prod(shape) // max(x.size, 1), dtype)


def _ratio(total: Array, count: Array) -> Array:
    """total / count, and 0 with zero gradient when nothing is kept."""
    empty = count == 0
    return jnp.where(empty, 0, total / jnp.where(empty, 1, count))


def _over_devices(fn: str, x: Array, axis_name: Any) -> Array:
    if axis_name is None:
        return x
    require_tracked_axis(fn, axis_name)
    return jax.lax.psum(x, axis_name)
