"""A part of a whole that is never formed as 1 minus the rest."""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._core.elements import with_slopes
from jaxloss._core.typing import Array


@with_slopes
def share(wrong: Array, right: Array) -> tuple[Array, tuple[Array, Array]]:
    """wrong / (wrong + right), 0 where both are: 1 minus an index would lose its digits where nearly all is right."""
    total = wrong + right
    empty = total == 0
    total = jnp.where(empty, 1, total)
    share, rest = wrong / total, jnp.where(empty, 0, right / total)
    return share, (rest / total, -share / total)
