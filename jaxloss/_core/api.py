"""How a public loss is called: compiled, with options known while tracing."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

_DATA = ("where", "weights", "class_weights", "pos_weight")
_ARRAY = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
_NUMPY = (np.ndarray, np.generic)
_TRACED = (jax.Array, np.ndarray)
_STATIC = (bool, int, float, str, tuple, type(None), np.number, np.bool_)


def loss(arrays: int = 2) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a loss: called eagerly it is one program, not one for each operation.

    The first `arrays` parameters, masks and weights are data. Of the others, Python numbers, strings and tuples are
    known while tracing, so that an option that is off costs nothing; arrays are traced, and differentiated.
    """

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(fn)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            names, data, switches, program = _plan(fn, arrays)
            given = dict(zip(names, args, strict=False))
            if len(args) > len(names) or not given.keys().isdisjoint(kwargs):
                return fn(*args, **kwargs)  # Python's own error
            given.update(kwargs)
            static, traced = [], {}
            for name, value in given.items():
                if name in switches and not isinstance(value, bool | np.bool_):
                    got = "an array" if isinstance(value, _TRACED) else repr(value)
                    raise TypeError(f"{fn.__name__}: {name} must be True or False, known while tracing, got {got}")
                if isinstance(value, _STATIC) and name not in data and not _has_arrays(value):
                    static.append((name, type(value), value))  # True, 1 and 1.0 are equal
                elif name == "axis" or not _arrays(value):
                    return fn(*args, **kwargs)  # the loss says what is wrong with it
                else:
                    traced[name] = value
            return program(tuple(static), traced)

        return call

    return decorate


class _Plan(NamedTuple):
    names: list[str]  # of the positional parameters
    data: frozenset[str]
    switches: frozenset[str]  # what is true or false
    program: Callable[..., Any]


@functools.cache
def _plan(fn: Callable[..., Any], arrays: int) -> _Plan:
    """Made when a loss is first called, not for all of them at import."""
    parameters = inspect.signature(fn).parameters
    names = [n for n, p in parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    switches = frozenset(n for n, p in parameters.items() if isinstance(p.default, bool))
    data = frozenset(list(parameters)[:arrays]).union(_DATA)

    def program(static: tuple[tuple[str, type, Any], ...], traced: dict[str, Any]) -> Any:
        # JAX names the mesh when it differentiates what it has traced, the empty one too, and keeps apart what is
        # traced under it. Named from the beginning, the function and its rule have what they share traced once.
        with jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()):
            return fn(**{name: value for name, _, value in static}, **traced)

    program.__name__ = program.__qualname__ = fn.__name__  # what profiles and errors show
    return _Plan(names, data, switches, jax.jit(program, static_argnums=0))


def _has_arrays(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(v, _TRACED) for v in jax.tree.leaves(value))


def _arrays(value: Any) -> bool:
    return _array(value) or all(map(_array, jax.tree.leaves(value)))


def _array(value: Any) -> bool:
    """An array for JAX: NumPy has others, of objects, text and dates."""
    return isinstance(value, _ARRAY) and not (isinstance(value, _NUMPY) and value.dtype.kind in "OSUMm")
