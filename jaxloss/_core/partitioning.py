"""Programs that XLA divides between devices by itself: `jit` over a mesh, outside `shard_map`.

It divides single operations well. A loop over chunks of a divided axis it does not: every device goes through all of
them, or gathers what others hold, without a word. So what runs in chunks refuses to be divided this way.
"""

from __future__ import annotations

import math
from typing import Any

import jax
from jax import Array
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType

from jaxloss._core.primitive import Primitive


def divided(*operands: Array) -> bool:
    """Is it known while tracing that XLA divides the program? The mesh of a context or an operand says so."""
    return any(_axes(mesh, AxisType.Auto, AxisType.Explicit) for mesh in _meshes(*operands))


def undivided(message: str, x: Array, *others: Array) -> Array:
    """`x`; a ValueError where XLA would divide the program, at the latest when it is lowered."""
    meshes = _meshes(x, *others)
    by_type = any(axis is not None for x in (x, *others) for axis in jax.typeof(x).sharding.spec)
    if by_type or any(_axes(mesh, AxisType.Explicit) for mesh in meshes):
        raise ValueError(message)
    if meshes and not any(_axes(mesh, AxisType.Auto) for mesh in meshes):
        return x  # inside shard_map
    return undivided_p.bind(x, message=message)


def _meshes(*operands: Array) -> list[Any]:
    meshes = [jax.sharding.get_abstract_mesh(), *(jax.typeof(x).sharding.mesh for x in operands)]
    return [mesh for mesh in meshes if not mesh.empty]


def _axes(mesh: Any, *types: AxisType) -> bool:
    """Are several devices along axes of these types?"""
    return any(size > 1 and kind in types for size, kind in zip(mesh.axis_sizes, mesh.axis_types, strict=True))


def _lower(ctx: Any, x: Any, *, message: str) -> list[Any]:
    """Not visible while tracing: over how many devices the program goes, and which axes are not of a `shard_map`."""
    where = ctx.module_context.axis_context
    devices = getattr(where, "num_devices", None) or 1
    mesh = getattr(where, "mesh", None)
    if mesh is not None:
        devices = math.prod(size for name, size in mesh.shape.items() if name not in where.manual_axes)
    if devices > 1:
        raise ValueError(message)
    return [x]


undivided_p = Primitive("undivided")
undivided_p.def_impl(lambda x, **_: x)
undivided_p.def_abstract_eval(lambda x, **_: x)
mlir.register_lowering(undivided_p, _lower)
ad.primitive_jvps[undivided_p] = lambda x, t, **params: (undivided_p.bind(*x, **params), t[0])
batching.primitive_batchers[undivided_p] = lambda x, dims, **params: (undivided_p.bind(*x, **params), dims[0])
