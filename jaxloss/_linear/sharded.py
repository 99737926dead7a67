"""A loss without logits over a mesh of devices, for callers who have no `jax.shard_map` of their own."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxloss._core import api, checks
from jaxloss._core.arguments import name_of
from jaxloss._core.devices import vary
from jaxloss._core.precision import compute_dtype
from jaxloss._core.reduction import coefficients

R = TypeVar("R")
Axes: TypeAlias = str | tuple[str, ...] | None
Dims: TypeAlias = tuple[tuple[str, ...], ...]  # the mesh axes that split each dimension of an array


def sharded(
    loss: Callable[..., R],
    mesh: Mesh | AbstractMesh | None = None,
    *,
    tokens: PartitionSpec | Axes = None,
    vocab: Axes = None,
) -> Callable[..., R]:
    r"""`loss` with tokens and vocabulary split between the devices of a mesh; its values and gradients are the same.

    The result is called like `loss`, with whole arrays that may lie on any devices, under `jit` or not. Each device has
    the logits of its tokens and its classes, a chunk at a time; what travels is a few numbers for each token, the
    gradients of the hidden states (over `vocab`) and those of the kernel (over `tokens`), added up in float32. A mean
    is over all tokens that are kept, however many of them a device has. Neither the tokens nor the classes need be
    multiples of the devices, but a kernel whose classes are is not copied.

    Args:
      loss: `linear_cross_entropy`, `linear_log_probs` or `linear_statistics`. Losses on logits need no helper: under
        `jit` XLA divides them by itself, and inside `shard_map` they take `axis_name`.
      mesh: the mesh, by default that of `jax.set_mesh`. Devices along an axis which is named in neither `tokens` nor
        `vocab` all do the same work.
      tokens: the mesh axis, or tuple of axes, that splits the first dimension of the tokens; a `PartitionSpec` splits
        several dimensions (`P("data", "sequence")`).
      vocab: the mesh axis or axes that split the classes.

    Returns:
      A function with the parameters of `loss`, except `axis_name`. `chunk_size` and `memory_budget` are those of each
      device.

    Raises:
      TypeError: `mesh` is no mesh.
      ValueError: `loss` takes no hidden states and kernel; when called: there is no mesh, or it lacks an axis; an axis
        is named twice; the call is inside `shard_map`; what `loss` raises.

    Reference: Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism"
    (2019), for the vocabulary split between devices.

    >>> from jaxloss import linear_cross_entropy
    >>> mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    >>> loss = sharded(linear_cross_entropy, mesh, tokens="data", vocab="model")
    >>> print(loss(jnp.ones((4, 8)), jnp.zeros((8, 100)), jnp.arange(4)))  # log(100)
    4.6051702
    """
    parameters = inspect.signature(loss).parameters.keys()
    if not {"hidden", "kernel"} <= parameters:
        raise ValueError(
            f"sharded: {name_of(loss)} takes no hidden states and kernel. Losses on logits need no helper: under jit "
            "XLA divides them by itself, and inside jax.shard_map they take axis_name="
        )
    if "method" not in parameters:
        raise ValueError(
            f"sharded: {name_of(loss)} goes into jax.shard_map as it is; the helper is for linear_cross_entropy, "
            "linear_log_probs and linear_statistics"
        )
    if not isinstance(mesh, Mesh | AbstractMesh | None):
        raise TypeError(f"sharded: mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}")
    dims = tuple(tokens) if isinstance(tokens, PartitionSpec) else () if tokens is None else (tokens,)
    return _over_mesh(loss, mesh, tuple(map(_names, dims)), _names(vocab))


def _names(entry: Any) -> tuple[str, ...]:
    return () if entry is None else tuple(entry) if isinstance(entry, tuple | list) else (entry,)


@functools.lru_cache(maxsize=128)  # so that it is compiled once, however often `sharded` is called
def _over_mesh(loss: Callable[..., Any], mesh: Any, tokens: Dims, vocab: tuple[str, ...]) -> Callable[..., Any]:
    @api.loss(arrays=3)
    @functools.wraps(loss)
    def over_mesh(*args: Any, **given: Any) -> Any:
        if args:
            return loss(*args, **given)  # Python's own error
        return _call(loss, _place(mesh, tokens, vocab), given)

    return over_mesh


class Place(NamedTuple):
    """Where a call happens: a mesh, and what its axes split."""

    mesh: Any
    tokens: Dims
    vocab: tuple[str, ...]

    def missing(self, n: int, names: tuple[str, ...]) -> int:
        """How many make `n` a multiple of the devices along these axes."""
        return -n % math.prod(self.mesh.shape[name] for name in names)


def _place(mesh: Any, tokens: Dims, vocab: tuple[str, ...]) -> Place:
    around = jax.sharding.get_abstract_mesh()
    if around.manual_axes:
        raise ValueError(
            f"sharded: called inside jax.shard_map over {around.manual_axes}; there call the loss itself, with "
            "axis_name= for the vocabulary"
        )
    mesh = around if mesh is None else mesh
    if mesh.empty:
        raise ValueError("sharded: there is no mesh; give one, or call it under jax.set_mesh(mesh)")
    seen: set[str] = set()
    for arg, name in [*(("tokens", n) for names in tokens for n in names), *(("vocab", n) for n in vocab)]:
        if name not in mesh.axis_names:
            raise ValueError(f"sharded: {arg} names the axis {name!r}, but those of the mesh are {mesh.axis_names}")
        if name in seen:
            raise ValueError(f"sharded: the axis {name!r} is named twice; tokens and vocab split by different axes")
        seen.add(name)
    return Place(mesh, tokens, vocab)


_PER_TOKEN, _PER_CLASS = ("labels", "where", "weights"), ("bias", "class_weights")
_DATA = ("hidden", "kernel", *_PER_TOKEN, *_PER_CLASS)


def _call(loss: Callable[..., Any], place: Place, given: dict[str, Any]) -> Any:
    fn, parameters = name_of(loss), inspect.signature(loss).parameters
    if given.pop("axis_name", None) is not None:
        raise ValueError(f"sharded: the axis_name= of {fn} is given by vocab=")
    arrays = {
        k: checks.array(fn, k, x) for k, x in given.items() if isinstance(x, Array) or (k in _DATA and x is not None)
    }
    options = {k: x for k, x in given.items() if k not in arrays}
    _check(loss, arrays, options)
    batch = arrays["hidden"].shape[:-1]
    if len(batch) < len(place.tokens):
        raise ValueError(f"sharded: tokens={_spec(place.tokens)} splits more dimensions than the tokens {batch} have")

    reduction = options.get("reduction", parameters["reduction"].default if "reduction" in parameters else "none")
    arrays = _per_token(arrays, batch, options.pop("ignore_index", None))
    if reduction == "mean":  # of all devices: what each token counts is known before the devices add up theirs
        where, weights, dtype = arrays.get("where"), arrays.get("weights"), compute_dtype(arrays["hidden"])
        arrays["weights"] = coefficients(batch, dtype, where=where, weights=weights, reduction="mean", fn=fn)
        options["reduction"] = "sum"
    vd = options.get("kernel_layout", "dv") == "vd"
    classes = arrays["kernel"].shape[0 if vd else 1]
    if place.missing(classes, place.vocab) and options.get("num_classes") is None:
        options["num_classes"] = classes
    tokens = (*place.tokens, *[()] * (len(batch) - len(place.tokens)))
    if any(map(place.missing, batch, tokens)) and "where" not in arrays:
        arrays["where"] = jnp.ones(batch, bool)
    dims = {k: _dims(k, x, tokens, place.vocab, vd) for k, x in arrays.items()}
    arrays = {k: _laid_out(x, dims[k], place) for k, x in arrays.items()}
    out_dims = tokens if reduction == "none" else ()
    out = _run(functools.partial(loss, **options, axis_name=place.vocab or None), place, arrays, dims, out_dims)
    return jax.tree.map(lambda x: _cut(x, batch, place), out) if reduction == "none" else out


def _check(loss: Callable[..., Any], arrays: Mapping[str, Array], options: Mapping[str, Any]) -> None:
    """What the loss has to say about the whole arrays; inside `shard_map` it sees the shapes of one device."""
    options = {k: x for k, x in options.items() if k not in ("chunk_size", "memory_budget")}
    shapes = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in arrays.items()}
    jax.eval_shape(lambda given: loss(**given, **options | {"method": "dense"}), shapes)


def _per_token(arrays: Mapping[str, Array], batch: tuple[int, ...], ignore_index: Any) -> dict[str, Array]:
    """Labels, weights and masks in the shape of the tokens; ignored labels are masked."""
    full = dict(arrays)
    for name in _PER_TOKEN:
        if name in arrays and not (name == "labels" and jnp.issubdtype(arrays[name].dtype, jnp.floating)):
            full[name] = jnp.broadcast_to(arrays[name], batch)
    if ignore_index is not None and "labels" in full:
        kept = ~checks.is_index("sharded", full["labels"], ignore_index)
        full["where"] = kept & full["where"] if "where" in full else kept
    return full


def _dims(name: str, x: Array, tokens: Dims, vocab: tuple[str, ...], vd: bool) -> Dims:
    if name == "hidden":
        return (*tokens, ())
    if name == "kernel":
        return (vocab, ()) if vd else ((), vocab)
    if name in _PER_CLASS:
        return (vocab,)
    if name in _PER_TOKEN:
        return tokens if x.ndim == len(tokens) else (*tokens, vocab)
    return ((),) * x.ndim


def _laid_out(x: Array, dims: Dims, place: Place) -> Array:
    """Every dimension a multiple of the devices that split it. What is added is 0: masked, or beyond `num_classes`."""
    missing = tuple(map(place.missing, x.shape, dims))
    if any(missing):
        fitting = tuple(() if n else names for names, n in zip(dims, missing, strict=True))
        x = jnp.pad(_moved(x, fitting, place), [(0, n) for n in missing])
    return _moved(x, dims, place)


def _cut(x: Array, batch: tuple[int, ...], place: Place) -> Array:
    if x.shape == batch:
        return x
    return _moved(x, ((),) * x.ndim, place)[tuple(slice(n) for n in batch)]


def _moved(x: Array, dims: Dims, place: Place) -> Array:
    """On explicit axes of a mesh the types must fit; on others XLA moves arrays by itself."""
    types = dict(zip(place.mesh.axis_names, place.mesh.axis_types, strict=True))
    if AxisType.Explicit not in types.values():
        return x
    explicit = tuple(tuple(name for name in names if types[name] == AxisType.Explicit) for names in dims)
    return jax.sharding.reshard(x, NamedSharding(place.mesh, _spec(explicit)))


def _spec(dims: Dims) -> PartitionSpec:
    return PartitionSpec(*(names or None for names in dims))


def _run(
    loss: Callable[..., Any], place: Place, arrays: dict[str, Array], dims: dict[str, Dims], out_dims: Dims
) -> Any:
    axes = tuple(name for names in place.tokens for name in names)

    def local(arrays: dict[str, Array]) -> Any:
        out = loss(**{k: _own(x, tuple(a for a in axes if a not in sum(dims[k], ()))) for k, x in arrays.items()})
        return out if out_dims or not axes else jax.lax.psum(out, axes)

    specs = {k: _spec(d) for k, d in dims.items()}
    return jax.shard_map(local, mesh=place.mesh, in_specs=(specs,), out_specs=_spec(out_dims))(arrays)


def _own(x: Array, axes: tuple[str, ...]) -> Array:
    """A copy for each device along the axes: gradients of half precision are added up in float32."""
    if not axes or not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize > 2:
        return x
    return vary(x.astype(compute_dtype(x)), axes).astype(x.dtype)
