"""The root of a convex, falling function of each row, from the left: no step of Newton's goes too far."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jaxloss._core import stable

Terms = Callable[[Array, Array], tuple[Array, Array]]


def from_left(h: Array, low: float, terms: Terms, better: Callable[[Array, Array, Array], Array]) -> Array:
    """`low`, raised to `better(a, b, now)` until no row rises, a and b being the sums of `terms(h, now)`; a constant.

    Every step is one pass over h; a sort takes XLA:CPU far longer than all of them.
    """
    h = lax.stop_gradient(h)

    def step(now: Array) -> Array:
        a, b = stable.row_sums((h, now[..., None]), -1, lambda x: terms(*x))
        return jnp.maximum(better(a, b, now), now)

    first = step(jnp.full(h.shape[:-1], low, h.dtype))
    rising = (first, first - 1)
    return lax.while_loop(lambda s: jnp.any(s[0] > s[1]), lambda s: (step(s[0]), s[0]), rising)[0]
