"""Functions that are traced once for each dtype and shape, and copied wherever they are called again.

A loss calls the same elementary functions many times, forward, in its rule and in the derivatives of these; to trace
them anew each time is much of what its first call takes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

traced_once = functools.partial(jax.jit, inline=True)


def elementary(slope: Callable[[Any, Any], Any]) -> Callable[[Callable], Callable]:
    """Gives a function of an array the derivative `slope(value, x)`, for each of its values."""

    def decorate(f: Callable) -> Callable:
        with_slope = jax.custom_jvp(f)

        @with_slope.defjvp
        def jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
            value = decorated(*primals)
            return value, jax.tree.map(lambda s: s * tangents[0], slope(value, *primals))

        decorated = traced_once(with_slope)
        return decorated

    return decorate
