"""A loss at one point, and what is said of a broken promise."""

from __future__ import annotations

import functools
import inspect
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# For programs that run once, whose compilation is what takes the time.
jit_once = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
EPS = float(jnp.finfo(jnp.float32).eps)


class Broken(Exception):
    """What a check found. `check_loss` says of which loss, and which promise."""


class Subject:
    """A loss at one point: what is moved, what stays, and what is compared."""

    def __init__(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        options: dict[str, Any],
        argnums: Sequence[int] | None = None,
        reference: Callable[..., Any] | None = None,
        rtol: float = 2e-6,
        coupled: bool = False,
    ) -> None:
        self.fn, self.options, self.reference, self.rtol, self.coupled = fn, options, reference, rtol, coupled
        self.args = tuple(jnp.asarray(a) for a in args)
        floating = [i for i, a in enumerate(self.args) if jnp.issubdtype(a.dtype, jnp.floating)]
        self.argnums = tuple(floating if argnums is None else argnums)
        self.random = np.random.default_rng(0)
        parameters = inspect.signature(fn).parameters
        self.takes = {n for n in ("where", "weights", "reduction") if n in parameters and n not in options}

    def replace(self, args: Sequence[Any], **options: Any) -> Subject:
        options = {**self.options, **options}
        return Subject(self.fn, args, options, self.argnums, self.reference, self.rtol, self.coupled)

    @property
    def moving(self) -> tuple[Array, "..."]:
        return tuple(self.args[i] for i in self.argnums)

    def at(self, moving: Sequence[Any], **options: Any) -> Any:
        args = list(self.args)
        for i, value in zip(self.argnums, moving, strict=True):
            args[i] = value
        return self.fn(*args, **{**self.options, **options})

    def both(self, args: Sequence[Any], fn: Callable[..., Any] | None = None, ct: Any = None) -> tuple[Any, Any]:
        """Losses and their pullback of `ct` (ones), at any arguments."""
        call = fn or (lambda *a: self.fn(*a, **self.options))

        def moved(*moving: Any) -> Any:
            full = list(args)
            for i, value in zip(self.argnums, moving, strict=True):
                full[i] = value
            return call(*full)

        losses, pullback = jax.vjp(moved, *(args[i] for i in self.argnums))
        return losses, pullback(jnp.ones_like(losses) if ct is None else ct)

    def directions(self, count: int) -> list[np.ndarray]:
        """`count` random directions in the space of the moving arguments, stacked for each argument."""
        return [self.random.standard_normal((count, *a.shape)).astype(np.float32) for a in self.moving]

    def cotangent(self, like: Any) -> Array:
        return jnp.asarray(self.random.uniform(0.5, 1.5, np.shape(like)), like.dtype)

    def __str__(self) -> str:
        name = getattr(self.fn, "__name__", repr(self.fn))
        return f"{name} with {shown(self.options)}" if self.options else name

    def fail(self, message: str) -> NoReturn:
        raise Broken(message)

    def finite(self, what: str, got: Any) -> np.ndarray:
        array = wide(got)
        if not np.all(np.isfinite(array)):
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            self.fail(f"{what} is not finite at {place}: {array[place]}")
        return array

    def equal(self, what: str, got: Any, want: Any, rtol: float, atol: float = 0.0, scaled: bool = False) -> None:
        """Elementwise within `rtol` of `want`; if `scaled`, of its largest entry."""
        array, target = self.finite(what, got), wide(want)
        if array.shape != target.shape:
            self.fail(f"{what} has shape {array.shape}, expected {target.shape}")
        size = np.max(np.abs(target), initial=0.0) if scaled else np.abs(target)
        excess = np.abs(array - target) - (rtol * size + atol)
        if np.any(~(excess <= 0)):
            place = tuple(int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))
            self.fail(f"{what} is {array[place]!r} at {place}, expected {target[place]!r}")


def raised(e: Exception) -> str:
    """An error that no check expects, and the line of the check that met it: of its program, if it has made one."""
    here = os.path.dirname(__file__)
    met = [f for f in traceback.extract_tb(e.__traceback__) if os.path.dirname(f.filename) == here]
    line = [f.line for f in met if f.filename != __file__][:2][-1]
    message, *_ = str(e).splitlines() or [""]
    return f"{type(e).__name__} in `{line}`: {message}"


def wide(x: Any) -> np.ndarray:
    """As a float64 NumPy array, whatever the dtype was."""
    return np.asarray(np.asarray(x), np.float64)


def shown(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}=array{np.shape(v)}" if np.ndim(v) else f"{k}={v}" for k, v in options.items())


def float64(args: Sequence[Any]) -> list[Any]:
    return [wide(a) if jnp.issubdtype(np.asarray(a).dtype, jnp.floating) else np.asarray(a) for a in args]


def float64_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: float64([v])[0] if isinstance(v, Array | np.ndarray) else v for k, v in options.items()}
