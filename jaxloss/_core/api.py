"""How a public loss is called: compiled, with options known while tracing."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

_DATA = ("where", "weights", "class_weights", "pos_weight")
_ARRAY = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
_NUMPY = (np.ndarray, np.generic)
_STATIC = (bool, int, float, str, tuple, type(None), np.number, np.bool_)


def loss(arrays: int = 2) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a loss: called eagerly it is one program, not one for each operation.

    The first `arrays` parameters, masks and weights are data. Of the others, Python numbers, strings and tuples are
    known while tracing, so that an option that is off costs nothing; arrays are traced, and differentiated.
    """

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(fn)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            names, data = _parameters(fn, arrays)
            given = dict(zip(names, args, strict=False))
            if len(args) > len(names) or not given.keys().isdisjoint(kwargs):
                return fn(*args, **kwargs)  # Python's own error
            given.update(kwargs)
            static, traced = [], {}
            for name, value in given.items():
                if isinstance(value, _STATIC) and name not in data:
                    static.append((name, type(value), value))  # True, 1 and 1.0 are equal
                elif name == "axis" or not _arrays(value):
                    return fn(*args, **kwargs)  # the loss says what is wrong with it
                else:
                    traced[name] = value
            return _compiled(fn, tuple(static), traced)

        return call

    return decorate


@functools.cache
def _parameters(fn: Callable[..., Any], arrays: int) -> tuple[list[str], frozenset[str]]:
    """The names of the positional parameters, and of those that are data. Found when a loss is first called, not for
    all of them at import."""
    parameters = inspect.signature(fn).parameters
    names = [n for n, p in parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    return names, frozenset(list(parameters)[:arrays]).union(_DATA)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled(fn: Callable[..., Any], static: tuple[tuple[str, type, Any], ...], traced: dict[str, Any]) -> Any:
    # JAX names the mesh when it differentiates what it has traced, the empty one too, and keeps apart what is traced
    # under it. Named from the beginning, the function and its rule have what they share traced once.
    with jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()):
        return fn(**{name: value for name, _, value in static}, **traced)


def _arrays(value: Any) -> bool:
    return _array(value) or all(map(_array, jax.tree.leaves(value)))


def _array(value: Any) -> bool:
    """An array for JAX: NumPy has others, of objects, text and dates."""
    return isinstance(value, _ARRAY) and not (isinstance(value, _NUMPY) and value.dtype.kind in "OSUMm")
