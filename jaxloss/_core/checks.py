"""Static checks of arguments: one wording for all losses.

Each takes the name of the loss and of the argument, and returns the argument as an array. They run while tracing, so
they cost nothing at run time. Conversions to float32 are not made here but inside the rules, where they are free.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxloss._core.remat import as_one


def array(fn: str, arg: str, value: Any) -> Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as e:
        got = f"an array of dtype {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{fn}: {arg} must be an array or a nested list of numbers, got {got}") from e
    except RuntimeError as e:
        if not getattr(value, "requires_grad", False):
            raise
        raise TypeError(
            f"{fn}: {arg} must be an array, got a {type(value).__name__} that requires grad; pass "
            f"{arg}.detach().numpy() or a jax array"
        ) from e


def floating(fn: str, arg: str, value: Any) -> Array:
    """A real floating array: what a prediction must be."""
    x = array(fn, arg, value)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{fn}: {arg} must have a floating-point dtype, got {x.dtype}; convert it with .astype")
    return x


def number(fn: str, arg: str, value: Any) -> Array:
    """A real array, integers and booleans included: what a target or a weight may be."""
    x = array(fn, arg, value)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"{fn}: {arg} must be real, got {x.dtype}")
    return x


def scalar(fn: str, arg: str, value: Any) -> Array:
    """One number for all, traced or not."""
    x = number(fn, arg, value)
    if x.shape:
        raise ValueError(f"{fn}: {arg} must be a single number, got an array of shape {x.shape}")
    return x


def labels(fn: str, arg: str, value: Any) -> Array:
    x = array(fn, arg, value)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        hint = ""
        if jnp.issubdtype(x.dtype, jnp.floating):
            hint = "; convert indices with .astype(jnp.int32)"
        if hint and fn == "softmax_cross_entropy_with_integer_labels":
            hint += ", and use softmax_cross_entropy for one-hot or soft targets"
        raise TypeError(f"{fn}: {arg} must have an integer dtype (class indices), got {x.dtype}{hint}")
    return x


def wide(x: Array) -> Array:
    """Integers, if of 8 or 16 bits then as 32: a number of classes beyond those would wrap in a comparison."""
    return x.astype(jnp.int32) if jnp.issubdtype(x.dtype, jnp.integer) and x.dtype.itemsize < 4 else x


def is_index(fn: str, labels: Array, index: Any) -> Array:
    """Which labels are the `ignore_index`. A number that their dtype does not hold, none is."""
    known = static_integer(index)
    if not known and not (isinstance(index, Array) and index.ndim == 0 and jnp.issubdtype(index.dtype, jnp.integer)):
        raise TypeError(f"{fn}: ignore_index must be an int, got {index!r}; drop what a mask tells by where=")
    if known and not jnp.issubdtype(labels.dtype, jnp.floating):
        low, high = (0, 1) if labels.dtype == jnp.bool_ else (jnp.iinfo(labels.dtype).min, jnp.iinfo(labels.dtype).max)
        if not low <= index <= high:
            return jnp.zeros(labels.shape, jnp.bool_)
    return labels == jnp.asarray(index).astype(labels.dtype)


def no_gradient(fn: str, arg: str, x: Array) -> Array:
    """`x`; an error where it is differentiated, never a silent zero."""

    def refuse(primals: Any, tangents: Any) -> Any:
        raise TypeError(f"{fn}: {arg} has no gradient; pass jax.lax.stop_gradient({arg})")

    fixed = jax.custom_jvp(lambda x: x)
    fixed.defjvp(refuse)
    return as_one(fixed, x)


def mask(fn: str, arg: str, value: Any) -> Array:
    x = array(fn, arg, value)
    if x.dtype != jnp.bool_:
        raise TypeError(f"{fn}: {arg} must be boolean (True keeps an element), got {x.dtype}; use `{arg} != 0`")
    return x


def broadcast(fn: str, arg: str, x: Array, shape: tuple[int, ...], of: str) -> Array:
    """`x` in `shape`. Only `x` may grow: (N,) predictions with (N, 1) targets are an error, not an (N, N) matrix."""
    if x.shape == shape:
        return x
    if not broadcastable(x.shape, shape):
        raise ValueError(f"{fn}: {arg} of shape {x.shape} does not broadcast to the shape {shape} of the {of}")
    return jnp.broadcast_to(x, shape)


def align(fn: str, arg: str, x: Array, shape: tuple[int, ...], of: str) -> Array:
    """`x` with as many dimensions as `shape`, which it broadcasts to, but no larger: what is kept stays small."""
    broadcast(fn, arg, x, shape, of)
    return x.reshape((1,) * (len(shape) - x.ndim) + x.shape)


def broadcastable(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(a in (1, b) for a, b in pairs)


def same_shape(fn: str, arg: str, x: Array, shape: tuple[int, ...], of: str) -> Array:
    if x.shape != shape:
        raise ValueError(f"{fn}: {arg} must have the shape {shape} of the {of}, got {x.shape}")
    return x


def choice(fn: str, arg: str, value: Any, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        arrays = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value))
        got = f"arrays in a {type(value).__name__}" if arrays else repr(value)
        raise ValueError(f"{fn}: {arg} must be one of {', '.join(map(repr, allowed))}, got {got}")
    return value


def axes(fn: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """`axis` (an int or a tuple of ints) as non-negative, distinct positions."""
    given = axis if isinstance(axis, tuple) else (axis,)
    if not all(map(static_integer, given)):
        raise TypeError(f"{fn}: axis must be an int or a tuple of ints, got {axis!r}")
    if not given or any(not -ndim <= a < ndim for a in given):
        raise ValueError(f"{fn}: axis {axis} is out of range for an array of {ndim} dimensions")
    positions = tuple(int(a) % ndim for a in given)
    if len(set(positions)) != len(positions):
        raise ValueError(f"{fn}: axis {axis} names a dimension twice")
    return positions


def static_number(value: Any) -> bool:
    """A Python number, known while tracing; anything else may be a traced array and is not looked at."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def is_zero(option: Any) -> bool:
    """Is what this number multiplies known to be absent while tracing?"""
    return static_number(option) and option == 0


def static_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def python_number(fn: str, arg: str, value: Any) -> None:
    """Check an option on which the program depends."""
    if not static_number(value):
        got = _shown(value, type(value).__name__)
        raise TypeError(f"{fn}: {arg} must be a Python number, which cannot be learned, got {got}")


def python_int(fn: str, arg: str, value: Any) -> int:
    """A number on which shapes or indices of the program depend."""
    if not static_integer(value):
        raise TypeError(f"{fn}: {arg} must be an int that is known while tracing, got {_shown(value, repr(value))}")
    return int(value)


def function(fn: str, arg: str, value: Any) -> None:
    """Check the function that a loss takes before its arrays."""
    if not callable(value):
        raise TypeError(f"{fn}: {arg} must be a function and comes first, got {_shown(value, repr(value))}")


def _shown(value: Any, otherwise: str) -> str:
    """What an error says that it got: nothing of the entries of an array, which may be traced."""
    return "an array" if isinstance(value, jax.Array | np.ndarray) else otherwise


def in_range(
    fn: str, arg: str, value: Any, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> Any:
    """Check a Python number, or a tuple of them; a traced one is the caller's responsibility."""
    for number in value if isinstance(value, tuple) else (value,):
        if number is None or isinstance(number, bool | np.bool_ | str):
            raise TypeError(f"{fn}: {arg} must be a number, got {number!r}")
        if static_number(number):
            inside = (low < number if open_low else low <= number) and (number < high if open_high else number <= high)
            if not inside:
                ends = "(" if open_low else "[", ")" if open_high or math.isinf(high) else "]"
                raise ValueError(f"{fn}: {arg} must be in {ends[0]}{low:g}, {high:g}{ends[1]}, got {number}")
    return value
