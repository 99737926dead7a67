"""The class of JAX's primitives, as `jax.extend.core` has it.

Importing `jax.extend` also imports Pallas, which takes as long as all of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jax import lax

if TYPE_CHECKING:
    from jax.extend.core import Primitive
else:
    Primitive = type(lax.add_p)

__all__ = ["Primitive"]
