"""What the batching rules of our primitives share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax


def mesh_axis(axis_data: Any) -> Any:
    return getattr(axis_data, "explicit_mesh_axis", None)


def unmapped_aval(axis_data: Any, aval: Any) -> Any:
    """The type with the mapped dimension in front."""
    try:
        from jax.extend.core import unmapped_aval as with_dimension  # here: jax.extend takes long to import
    except ImportError:  # before jax 0.9
        from jax.core import unmapped_aval as with_dimension  # pyright: ignore[reportAttributeAccessIssue]
    return with_dimension(axis_data.size, 0, aval, mesh_axis(axis_data))


def mapped_like(axis_data: Any) -> Callable[..., Any]:
    """`jax.vmap` over the same axis as the rule that is being batched."""
    return functools.partial(
        jax.vmap,
        axis_size=axis_data.size,
        axis_name=axis_data.name if isinstance(axis_data.name, str) else None,
        spmd_axis_name=axis_data.spmd_name,
    )
