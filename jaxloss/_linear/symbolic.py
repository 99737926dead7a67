"""What the rules with symbolic zeros are given: values that say whether they are differentiated, and zeros."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero


def split(x: Any) -> tuple[Any, Any]:
    """Values, and which of them are differentiated (Python's own booleans, known while tracing)."""

    def take(of: str) -> Any:
        return jax.tree.map(lambda p: getattr(p, of), x, is_leaf=lambda leaf: isinstance(leaf, CustomVJPPrimal))

    return take("value"), take("perturbed")


def instantiated(g: Any) -> Any:
    """A tree of cotangents, with arrays of zeros."""

    def array(g: Any) -> Any:
        if not isinstance(g, SymbolicZero):
            return g
        aval: Any = g.aval
        return jnp.zeros(aval.shape, aval.dtype)

    return jax.tree.map(array, g, is_leaf=lambda v: isinstance(v, SymbolicZero))
