"""The arguments of a `custom_vjp` function: which are static, and where each stands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jax.core import Tracer
from jax.errors import UnexpectedTracerError
from jax.tree_util import tree_leaves


def name_of(fun: Any) -> str:
    return getattr(fun, "__name__", None) or type(fun).__name__


def static_positions(fun: Callable[..., Any], argnums: Sequence[int], argnames: Sequence[str]) -> tuple[int, ...]:
    argnames = (argnames,) if isinstance(argnames, str) else argnames
    positions: set[int] = {argnums} if isinstance(argnums, int) else set(argnums)
    if any(i < 0 for i in positions):
        raise ValueError(f"nondiff_argnums must count from the front, got {sorted(positions)} for {name_of(fun)}")
    if argnames:
        parameters = inspect.signature(fun).parameters
        names = list(parameters)
        unknown = [n for n in argnames if n not in names]
        if unknown:
            raise ValueError(f"nondiff_argnames {unknown} are not arguments of {name_of(fun)}, which has {names}")
        # One that has no position keeps its default: it cannot be resolved to one.
        placed = (n for n in argnames if parameters[n].kind is not inspect.Parameter.KEYWORD_ONLY)
        positions.update(map(names.index, placed))
    return tuple(sorted(positions))


def positional(fun: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """All arguments by position, defaults filled in, so that `fwd` and `bwd` see one layout."""
    try:
        signature = inspect.signature(fun)
    except (TypeError, ValueError):  # a builtin: nothing to resolve against
        if not kwargs:
            return args
        raise
    try:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        unplaced = [k for k in bound.kwargs if k in kwargs]
        if unplaced:
            raise TypeError(
                f"The following keyword arguments could not be resolved to positions: {', '.join(unplaced)}"
            )
    except TypeError as e:
        raise TypeError(
            f"The input arguments to the custom_vjp-decorated function {name_of(fun)} could not be resolved to "
            f"positional-only arguments. Binding failed with the error:\n{e}"
        ) from e
    return bound.args


def refuse_tracers(static: dict[int, Any]) -> None:
    for leaf in tree_leaves(list(static.values())):
        if isinstance(leaf, Tracer):
            raise UnexpectedTracerError(
                "Found a JAX Tracer object passed as an argument to a custom_vjp function in a position indicated by "
                "nondiff_argnums as non-differentiable. Tracers cannot be passed as non-differentiable arguments to "
                "custom_vjp functions; instead, nondiff_argnums should only be used for arguments that can't be or "
                "contain JAX tracers, e.g. function-valued arguments. In particular, array-valued arguments should "
                "typically not be indicated as nondiff_argnums."
            )
