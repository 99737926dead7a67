"""What the preference losses have in common: their arguments, options, and products that may meet 0 * inf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.devices import alike, divided_like
from jaxloss._core.precision import promote
from jaxloss._core.reduction import fill, reduce
from jaxloss._core.typing import Array


def elementwise(
    fn: str,
    formula: Callable[..., Array],
    arguments: Mapping[str, Any],
    *,
    where: Any,
    weights: Any,
    reduction: str,
    filler: float = 0.0,
) -> Array:
    """Check log-probabilities, the first of which sets the shape, and reduce what `formula` makes of them.

    The formula gets those that are not `None`, in one dtype and shape, with `filler` where they are dropped.
    """
    arrays, shape = log_probs(fn, arguments)
    where = keep(fn, where, shape, next(iter(arguments)))

    def losses(arrays: list[Array], where: Array | None) -> Array:
        return formula(*alike(*(fill(where, jnp.broadcast_to(x, shape), filler) for x in promote(*arrays))))

    # What is kept for the backward pass are the arguments as they came, not broadcast, filled or converted.
    values = jax.checkpoint(losses, prevent_cse=False)(list(arrays.values()), where)
    return reduce(values, where=where, weights=weights, reduction=reduction, fn=fn)


def log_probs(fn: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Array], tuple[int, ...]]:
    """Those that are not `None`, and the shape to which they broadcast: that of the first."""
    first = next(iter(arguments))
    shape = checks.floating(fn, first, arguments[first]).shape
    arrays = {arg: checks.floating(fn, arg, value) for arg, value in arguments.items() if value is not None}
    for arg, x in arrays.items():
        checks.broadcast(fn, arg, x, shape, first)
    return arrays, shape


def keep(fn: str, where: Any, shape: tuple[int, ...], of: str) -> Array | None:
    return None if where is None else checks.align(fn, "where", checks.mask(fn, "where", where), shape, of)


def option(fn: str, arg: str, value: Any, like: Array) -> Array:
    """A number, or one for each loss, in the dtype of the computation."""
    if checks.static_number(value):
        return jnp.asarray(value, like.dtype)
    value = checks.number(fn, arg, value).astype(like.dtype)
    return value if value.ndim == 0 else divided_like(checks.broadcast(fn, arg, value, like.shape, "losses"), like)


@jax.custom_jvp
def product(weight: Array, x: Array) -> Array:
    """weight * x, and 0 where the weight is 0, however large x; NaN is not large."""
    return weight * stable.countable(weight, x)


@product.defjvp
def _product_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # Why a rule: the guard would make the derivative by a weight of 0 vanish where x is infinite.
    weight, x = primals
    return product(weight, x), stable.finite(x) * tangents[0] + weight * tangents[1]
