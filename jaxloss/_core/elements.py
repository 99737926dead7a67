"""Losses with one value for each element: how all of them are built.

A loss is one function of arrays in the dtype of the computation, `(x, *others) -> (losses, slopes)`, with one slope for
each argument. `with_slopes` makes of it the function of the losses alone, whose derivative the slopes are, and
`elementwise` calls that with the arguments of a user:

    @with_slopes
    def _absolute(x, y):
        return jnp.abs(x - y), (jnp.sign(x - y), jnp.sign(y - x))

    def absolute_error(predictions, targets=None, *, where=None, weights=None, reduction="none"):
        y = 0.0 if targets is None else targets
        return elementwise(
            "absolute_error", _absolute, where, weights, reduction, arithmetic=True, predictions=predictions, targets=y
        )

An arithmetic rule has losses of sums, products, quotients, absolute values, minima and maxima alone, which XLA:CPU's
library computes in one pass with a sum of them. That takes some care. It drops NaN from a minimum or maximum, so there
must be another way for it to the loss. And a constant that the slopes have too is written out in the shape of the
losses: where they need one, they take its negative (-max(-max(x, -c), -c) clips to c). A light one is a square, or an
absolute value: that pass is then faster than blocks are, for our own sums too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxloss._core import checks
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.devices import alike
from jaxloss._core.precision import compute_dtype
from jaxloss._core.reduction import fill, reduce_elements
from jaxloss._core.tracing import traced_once


def with_slopes(f: Callable[..., tuple[Array, tuple[Any, ...]]]) -> Callable[..., Array]:
    """The first result of `f`, with the second one, a slope for each argument, as its derivative.

    The first argument has the shape of the losses; each of the others too, or it is a scalar, or `None`. What is not
    asked for is not computed. The derivative of the slopes is their own, unless a rule in them says otherwise.
    """

    both = traced_once(f)  # for all three

    @functools.wraps(f)
    def value(*args: Any) -> Array:
        return both(*args)[0]

    def fwd(*args: Any) -> tuple[Array, Any]:
        return both(*args)[0], args

    def bwd(args: Any, g: Array) -> tuple[Array | None, ...]:
        # Why a rule: slopes are written to be exact and finite where the derivative of each step is not, and what is
        # kept is what came in.
        return tuple(None if a is None else _as(a, g * s) for a, s in zip(args, both(*args)[1], strict=True))

    rule = custom_vjp(value)
    rule.defvjp(fwd, bwd)
    return rule


def _as(argument: Array, slopes: Array) -> Array:
    return slopes if slopes.shape == argument.shape else jnp.sum(slopes)


def elementwise(
    fn: str,
    rule: Callable[..., Array],
    where: Any,
    weights: Any,
    reduction: str,
    /,
    *,
    arithmetic: Any = False,  # bools, beside operands of any type
    light: Any = False,
    **operands: Any,
) -> Array:
    """The losses `rule(*operands)`, checked, masked, weighted and reduced.

    The first operand, the prediction, must be floating, and has the shape. The others, targets and options alike, are
    Python numbers or tuples of them, scalars, arrays that broadcast to it, or `None`; they are named as in the
    signature of the loss. The rule meets them in one dtype, at least float32: numbers and scalars as scalars, `None` as
    it is, the rest in the shape of the prediction and with 1 where they are dropped. What is kept for the backward pass
    is what came in.
    """
    (first, x), *others = operands.items()
    x = checks.floating(fn, first, x)
    # Python numbers promote nothing: they wait until the dtype is known, and cost nothing. Traced, they are weak.
    numbers = {arg: value for arg, value in others if value is None or _is_number(value)}
    tuples = {arg: value for arg, value in others if isinstance(value, tuple) and all(map(_is_number, value))}
    given = {arg: _array(fn, arg, v, x, first) for arg, v in others if arg not in numbers and arg not in tuples}
    dtype = compute_dtype(x, *(v for v in given.values() if not jax.typeof(v).weak_type))
    given |= {arg: _array(fn, arg, jnp.asarray(value, dtype), x, first) for arg, value in tuples.items()}
    if where is not None:
        where = checks.align(fn, "where", checks.mask(fn, "where", where), x.shape, first)

    names = tuple(operands)  # what `losses` closes over outlives the call

    def losses(x: Array, given: dict[str, Array], where: Array | None) -> Array:
        def ready(arg: str) -> Array | None:
            if arg in numbers:
                return None if numbers[arg] is None else jnp.asarray(numbers[arg], dtype)
            # Converted first, as XLA:CPU does not fuse a select of half precision.
            array = given.get(arg, x).astype(dtype)
            return fill(where, jnp.broadcast_to(array, x.shape), 1.0) if array.ndim == x.ndim else array

        return rule(*alike(*map(ready, names)))

    common: dict[str, Any] = {"where": where, "weights": weights, "reduction": reduction, "fn": fn}
    return reduce_elements(losses, (x, given, where), arithmetic=arithmetic, light=light, **common)


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number)


def _array(fn: str, arg: str, value: Any, x: Array, first: str) -> Array:
    array = checks.number(fn, arg, value)
    return array if array.ndim == 0 else checks.align(fn, arg, array, x.shape, first)
