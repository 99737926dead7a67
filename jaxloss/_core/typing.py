"""Array aliases for signatures."""

from __future__ import annotations

from typing import Literal, TypeAlias

from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Num

Reduction: TypeAlias = Literal["none", "mean", "sum"]
Axis: TypeAlias = int | tuple[int, ...]

__all__ = ["Array", "ArrayLike", "Axis", "Bool", "Float", "Integer", "Num", "Reduction"]
