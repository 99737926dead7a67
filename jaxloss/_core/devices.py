"""How many devices there are, whether sizes are known, and inside `shard_map`, which mesh axes values differ along."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterable
from typing import Any

import jax


def one_cpu() -> bool:
    """Slices of a sharded axis would move it between devices; one device has no shards."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def is_known(x: Any) -> bool:
    """Is every length a number? For `jax.export` it may be a symbol, which is neither more nor less than a number."""
    return all(isinstance(n, int) for n in x.shape)


def is_whole(x: Any) -> bool:
    """Is there one CPU, and no mesh to divide x? A program may be lowered here for the devices of another host."""
    meshes = jax.typeof(x).sharding.mesh, jax.sharding.get_abstract_mesh()
    return one_cpu() and all(mesh.empty or mesh.size == 1 for mesh in meshes)


def may_slice(x: Any) -> bool:
    """Do slices cost no communication, and is it known how many are worth it?"""
    return is_whole(x) and is_known(x)


@functools.cache
def products_in_float32() -> bool:
    """Is this a CPU without matrix units for half precision?

    XLA:CPU takes up to half as long again for such products as for those of the same numbers in float32, which are as
    exact; so too with the vector instructions for them (AVX512_BF16).
    """
    if jax.default_backend() != "cpu":
        return False
    try:
        processor = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return True
    return "amx_bf16" not in processor


def is_explicit(x: Any) -> bool:
    """Does the type of an array say how it is divided between devices?"""
    return _says_how(jax.typeof(x))


def _says_how(aval: Any) -> bool:
    mesh = aval.sharding.mesh
    return not mesh.empty and bool(mesh.explicit_axes)


def gathered(x: Any) -> Any:
    """All of it on each device, where its type says that it is divided."""
    return _divided(x, (), x) if is_explicit(x) else x


def divided_like(x: Any, other: Any) -> Any:
    """`x` in the same pieces on the same devices, where the type of `other` says how that is divided."""
    return _divided(x, jax.typeof(other).sharding.spec, other) if is_explicit(other) else x


def divided_as_rows(x: Any, other: Any, axis: int) -> Any:
    """`x`, one entry for each row of `other`, in the pieces of the rows."""
    if not is_explicit(other):
        return x
    names = list(jax.typeof(other).sharding.spec)
    del names[axis]
    return _divided(x, names, other)


def alike(*arrays: Any) -> tuple[Any, ...]:
    """Arrays that broadcast to one shape, in the same pieces on the same devices, where their types say how they are
    divided: what is whole in one is divided as in another. JAX does so for sums and products, but raises for a select.
    Single numbers and `None` are as they were."""
    full = [a for a in arrays if a is not None and a.ndim > 0]
    like = next(filter(is_explicit, full), None)
    if like is None:
        return arrays
    common: list[Any] = []
    for names in zip(*(jax.typeof(a).sharding.spec for a in full), strict=True):
        common.append(next((name for name in names if name is not None and name not in common), None))

    def divided(a: Any) -> Any:
        if a is None or a.ndim == 0:
            return a
        names = (None if n == 1 else name for n, name in zip(a.shape, common, strict=True))
        return _divided(a, names, like)

    return tuple(map(divided, arrays))


def _divided(x: Any, names: Iterable[Any], like: Any) -> Any:
    """Over the axes of the mesh of `like`, which need not be that of a context."""
    mesh = jax.typeof(like).sharding.mesh
    return jax.sharding.reshard(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*names)))


def varying(aval: Any) -> frozenset[str]:
    """The mesh axes along which a value of this type differs between devices."""
    if hasattr(aval, "manual_axis_type"):
        return aval.manual_axis_type.varying
    return getattr(aval, "vma", frozenset())  # before jax 0.10


def vary(x: Any, axes: tuple[str, ...]) -> Any:
    """Mark a value as differing between devices along mesh axes."""
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(x, axes, to="varying")
    return getattr(jax.lax, "pvary")(x, axes)  # noqa: B009 (before jax 0.9)


def vary_like(x: Any, *others: Any) -> Any:
    """`x`, marked as differing between devices wherever one of the others does."""
    axes = frozenset().union(*(varying(jax.typeof(other)) for other in others))
    missing = tuple(sorted(axes - varying(jax.typeof(x))))
    return vary(x, missing) if missing else x


def over_same_devices(ct: Any, aval: Any) -> Any:
    """The cotangent of a replicated input is the sum over the devices that used it, and is replicated.

    `jax.custom_vjp` raises there and asks for the psum; it is the only right answer, so it is given.
    """
    got, want = varying(jax.typeof(ct)), varying(aval)
    if got - want:
        ct = jax.lax.psum(ct, tuple(sorted(got - want)))
    if want - got:
        ct = vary(ct, tuple(sorted(want - got)))
    if _says_how(aval) and jax.typeof(ct).sharding != aval.sharding:
        ct = jax.sharding.reshard(ct, aval.sharding)
    return ct


def require_tracked_axis(fn: str, axis_name: Any) -> None:
    """Refuse an axis that is not there, and `shard_map(check_vma=False)`.

    There the transpose of psum is psum: gradients come out multiplied.
    """
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    for name in names:
        if isinstance(name, list | jax.Array):
            raise TypeError(f"{fn}: axis_name must be a mesh axis, or a tuple of them, got {axis_name!r}")
        try:
            jax.lax.axis_size(name)
        except NameError:
            raise ValueError(
                f"{fn}: axis_name={name!r} is no axis here; call it inside jax.shard_map over a mesh that has it"
            ) from None
    manual = jax.sharding.get_abstract_mesh().manual_axes
    for name in names:
        if name in manual and name not in varying(jax.typeof(jax.lax.axis_index(name))):
            raise ValueError(
                f"{fn}: axis_name={name!r} inside shard_map(check_vma=False) would multiply gradients by the number of "
                "devices; use shard_map with check_vma=True (the default)"
            )
