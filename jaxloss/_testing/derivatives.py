"""Values and derivatives: against the formula, and the autodiff modes against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxloss._testing.subject import Subject, float64, float64_options, jit_once, wide


def value(s: Subject) -> None:
    losses = jax.jit(lambda *args: s.fn(*args, **s.options))(*s.args)
    s.finite("the value", losses)
    if losses.dtype not in (jnp.float32, jnp.float64):
        s.fail(f"the value has dtype {losses.dtype}, expected at least float32")
    if s.reference is not None:
        s.equal("the value", losses, s.reference(*float64(s.args), **float64_options(s.options)), s.rtol)


def gradient(s: Subject) -> None:
    ct = np.asarray(s.cotangent(jax.eval_shape(lambda: s.fn(*s.args, **s.options))))
    losses, gradients = jax.jit(lambda *args: s.both(args, ct=jnp.asarray(ct)))(*s.args)
    if s.reference is not None:
        want = s.reference(*float64(s.args), **float64_options(s.options))
        s.equal("the value beside the gradient", losses, want, s.rtol)
    for i, got in zip(s.argnums, gradients, strict=True):
        if got.dtype != s.args[i].dtype:
            s.fail(f"the gradient of argument {i} has dtype {got.dtype}, expected {s.args[i].dtype}")
        s.finite(f"the gradient of argument {i}", got)
        want = _numerical(s, ct, lambda x, i=i: ([*s.args[:i], x, *s.args[i + 1 :]], s.options), s.args[i])
        rtol = 5 * s.rtol + 2 * float(jnp.finfo(got.dtype).eps)
        s.equal(f"the gradient of argument {i}", got, want, rtol, scaled=True)
    numbers = {
        name: jnp.asarray(value, dtype=None if np.ndim(value) else jnp.float32)
        for name, value in s.options.items()
        if isinstance(value, float) or (np.ndim(value) and jnp.issubdtype(np.asarray(value).dtype, jnp.floating))
    }
    for name, got in _option_gradients(s, ct, numbers).items():
        want = _numerical(s, ct, lambda x, name=name: (s.args, {**s.options, name: x}), numbers[name])
        s.equal(f"the gradient of option {name}", got, want, 10 * s.rtol, scaled=True)


def _option_gradients(s: Subject, ct: np.ndarray, options: dict[str, Array]) -> dict[str, Array]:
    """In one program, unless some cannot be differentiated. Those say so, which is all that is asked."""
    try:
        return jax.jit(jax.grad(lambda o: jnp.sum(ct * s.fn(*s.args, **{**s.options, **o}))))(options)
    except (TypeError, ValueError):
        alone = [_option_gradients(s, ct, {name: x}) for name, x in options.items()] if len(options) > 1 else []
        return {name: x for found in alone for name, x in found.items()}


def _numerical(s: Subject, ct: np.ndarray, place: Callable[[Any], Any], at: Array) -> np.ndarray:
    """The derivative of sum(ct * losses) by every entry of `at`, by central differences of fourth order."""
    x = wide(at)
    steps = 1e-3 * np.eye(x.size).reshape(x.size, *x.shape)

    def total(moved: Any, fn: Callable[..., Any]) -> Any:
        args, options = place(moved)
        return (ct * fn(*args, **options)).sum()

    if s.reference is not None:
        reference = s.reference

        def exact(*args: Any, **options: Any) -> Any:
            return reference(*float64(args), **float64_options(options))

        values = [[total(x + k * h, exact) for k in (1, -1, 2, -2)] for h in steps]
    else:
        with jax.enable_x64(True):
            s64 = s.replace([jnp.asarray(a) for a in float64(s.args)])
            place64 = _same_place(s, s64, place)
            values = _in_float64(s64, ct, place64, x, steps)
    one, minus_one, two, minus_two = np.asarray(values, np.float64).reshape(-1, 4).T
    return ((8 * (one - minus_one) - (two - minus_two)) / (12 * 1e-3)).reshape(x.shape)


def _same_place(s: Subject, wider: Subject, place: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`place`, with the float64 arguments for those that it leaves alone."""

    def moved(x: Any) -> Any:
        args, options = place(x)
        same = [w if a is b else a for a, b, w in zip(args, s.args, wider.args, strict=True)]
        return same, {k: v if v is x else float64_options({k: v})[k] for k, v in options.items()}

    return moved


def _in_float64(s: Subject, ct: np.ndarray, place: Callable[[Any], Any], x: np.ndarray, steps: np.ndarray) -> Any:
    def total(moved: Any) -> Any:
        args, options = place(moved)
        losses = s.fn(*args, **options)
        return jnp.sum(jnp.asarray(ct, losses.dtype) * losses)

    points = np.stack([x + k * steps for k in (1, -1, 2, -2)], axis=1).reshape(-1, *x.shape)
    return np.asarray(jax.jit(jax.vmap(total))(jnp.asarray(points)))


def modes(s: Subject) -> None:
    directions = s.directions(3)
    ct = np.asarray(s.cotangent(jax.eval_shape(lambda: s.fn(*s.args, **s.options))))

    def along(e: Any) -> Any:
        moved = [
            a + jnp.tensordot(e, v.astype(e.dtype), 1).astype(a.dtype)
            for a, v in zip(s.moving, directions, strict=True)
        ]
        return s.at(moved)

    def scalar(e: Any) -> Any:
        return jnp.sum(ct * along(e))

    def every_mode() -> dict[str, Any]:
        origin = jnp.zeros(3, ct.dtype)
        first = [v[0].astype(a.dtype) for a, v in zip(s.moving, directions, strict=True)]
        losses, pushed = jax.jvp(lambda *m: s.at(m), s.moving, tuple(first))
        _, pulled = s.both(s.args, ct=jnp.asarray(ct))
        linear = jax.linearize(lambda *m: s.at(m), *s.moving)[1](*first)
        f, r = jax.jacfwd, jax.jacrev
        return {
            "losses": losses,
            "pushed": pushed,
            "linear": linear,
            "pulled": [
                jnp.sum(p.astype(ct.dtype) * v[0].astype(ct.dtype)) for p, v in zip(pulled, directions, strict=True)
            ],
            "jacobians": (f(along)(origin), r(along)(origin)),
            "hessians": {n: a(b(scalar))(origin) for n, a, b in _NAMED_HESSIANS},
        }

    out = jit_once(every_mode)()
    low = max([float(jnp.finfo(a.dtype).eps) for a in s.moving])
    rtol = max(1e-5, 16 * low)
    pushed = s.finite("the jvp", out["pushed"])
    s.equal("linearize", out["linear"], pushed, rtol, scaled=True)
    # A sum has the rounding error of its terms, which may cancel; they are of the size of |ct| |jvp|.
    size = float(np.sum(np.abs(ct * pushed))) + 1e-30
    s.equal("<ct, jvp> against <vjp, v>", sum(out["pulled"]), np.sum(ct * pushed), 0.0, rtol * size)
    s.equal("jacrev against jacfwd", out["jacobians"][1], out["jacobians"][0], rtol, scaled=True)
    want = out["hessians"]["jacfwd(jacrev)"]
    for name, got in out["hessians"].items():
        s.equal(f"the Hessian by {name}, against jacfwd(jacrev),", got, want, 10 * rtol, scaled=True)


_NAMED_HESSIANS = [
    (f"{outer.__name__}({inner.__name__})", outer, inner)
    for outer in (jax.jacfwd, jax.jacrev)
    for inner in (jax.jacfwd, jax.jacrev)
]
