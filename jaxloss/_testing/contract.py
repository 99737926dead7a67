"""Precision, masks, reductions and what the backward pass keeps."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Literal

from jaxloss._testing.subject import EPS, Subject, float64, float64_options, jit_once, shown, wide


def precision(s: Subject) -> None:
    f32 = s.replace([a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a for a in s.args])
    for dtype in (jnp.bfloat16, jnp.float16):
        low = s.replace([f32.args[i].astype(dtype) if i in s.argnums else a for i, a in enumerate(f32.args)])
        same = low.replace([a.astype(jnp.float32) if i in s.argnums else a for i, a in enumerate(low.args)])
        run = jit_once(lambda low=low, same=same: (low.both(low.args), same.both(same.args)))
        (losses, gradients), (want, slopes) = run()
        if losses.dtype != jnp.float32:
            s.fail(f"the value for {dtype.__name__} arguments has dtype {losses.dtype}, expected float32")
        s.equal(f"the value for {dtype.__name__} arguments, against float32,", losses, want, 8 * EPS)
        info = jnp.finfo(dtype)
        for i, got, slope in zip(s.argnums, gradients, slopes, strict=True):
            if got.dtype != dtype:
                s.fail(f"the gradient of argument {i} has dtype {got.dtype}, expected {dtype.__name__}")
            what = f"the gradient of {dtype.__name__} argument {i}, against float32,"
            s.equal(what, got, slope, float(info.eps), float(info.smallest_subnormal))
    with jax.enable_x64(True):
        wider = s.replace([jnp.asarray(a) for a in float64(s.args)], **float64_options(s.options))
        losses, gradients = jit_once(lambda: wider.both(wider.args))()
        names = ("value", *(f"gradient of argument {i}" for i in s.argnums))
        for name, x in zip(names, (losses, *gradients), strict=True):
            if x.dtype != jnp.float64:
                s.fail(f"the {name} for float64 arguments has dtype {x.dtype}")


def mask(s: Subject) -> None:
    losses = jax.eval_shape(lambda: s.fn(*s.args, **s.options))
    if "where" not in s.takes or losses.size < 2:
        return
    keep = s.random.random(losses.shape) < 0.6
    keep.flat[0], keep.flat[-1] = True, False
    ct = np.asarray(s.cotangent(losses))
    tangents = [v[0].astype(a.dtype) for a, v in zip(s.moving, s.directions(1), strict=True)]

    def masked(keep: Array, *args: Any) -> Any:
        given = s.replace(args, where=keep)
        pushed = jax.jvp(lambda *m: given.at(m), given.moving, tuple(tangents))[1]
        return *given.both(given.args, ct=jnp.asarray(ct)), pushed

    run = jit_once(masked)
    alone = functools.partial(_kept_alone, s, keep, ct)
    plain, slopes = alone() if s.coupled else jit_once(lambda *args: s.both(args, ct=jnp.asarray(ct * keep)))(*s.args)
    low = max([float(jnp.finfo(a.dtype).eps) for a in s.moving])
    for bad in (np.nan, np.inf, -np.inf):
        got, gradients, pushed = run(jnp.asarray(keep), *(_poisoned(s, a, keep, bad) for a in s.args))
        s.equal(f"the value where dropped arguments are {bad}", got, np.where(keep, plain, 0), 8 * EPS, scaled=True)
        s.equal(f"the jvp under the mask, over {bad},", np.where(keep, 0, pushed), np.zeros(keep.shape), 0.0)
        s.finite(f"the jvp where dropped arguments are {bad}", pushed)
        for i, g, slope in zip(s.argnums, gradients, slopes, strict=True):
            what = f"the gradient of argument {i} where dropped arguments are {bad}"
            s.equal(what, g, slope, 4 * max(low, 4 * EPS), scaled=True)
            dropped = _dropped(s, s.args[i], keep)
            if dropped is not None and np.any(wide(g)[dropped] != 0):
                s.fail(f"{what} is not exactly 0 under the mask")
    if "reduction" in s.takes:
        _mean_of_nothing(s, keep)


def _kept_alone(s: Subject, keep: np.ndarray, ct: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Losses and gradients of the batch that has the kept examples only, put back into their places."""

    def few_of(x: Any) -> Any:
        return x[keep] if np.shape(x)[:1] == keep.shape else x

    own = [a.shape[:1] == keep.shape for a in s.args]
    few = s.replace([few_of(a) for a in s.args], **{k: few_of(v) for k, v in s.options.items()})
    losses, gradients = few.both(few.args, ct=jnp.asarray(ct[keep]))

    def spread(x: Any) -> np.ndarray:
        out = np.zeros((len(keep), *x.shape[1:]))
        out[keep] = wide(x)
        return out

    return spread(losses), [spread(g) if own[i] else wide(g) for i, g in zip(s.argnums, gradients, strict=True)]


def _mean_of_nothing(s: Subject, keep: np.ndarray) -> None:
    none = s.replace([_poisoned(s, a, np.zeros_like(keep), np.nan) for a in s.args])
    options = {"where": jnp.zeros(keep.shape, bool), "reduction": "mean"}
    value, gradients = jit_once(lambda: jax.value_and_grad(lambda m: none.at(m, **options))(none.moving))()
    s.equal("a mean over nothing", value, 0.0, 0.0)
    for i, g in zip(s.argnums, gradients, strict=True):
        s.equal(f"the gradient of argument {i} of a mean over nothing", g, np.zeros(g.shape), 0.0)


def _dropped(s: Subject, arg: Any, keep: np.ndarray) -> np.ndarray | None:
    """Where `arg` belongs to dropped losses; `None` for an argument of another shape, which losses share."""
    if arg.shape == keep.shape:
        return ~keep
    if arg.shape != s.args[0].shape:
        return None
    axis = s.options.get("axis", tuple(range(keep.ndim, arg.ndim)))
    axes = tuple(range(arg.ndim)) if axis is None else axis
    expanded = np.expand_dims(~keep, axes if keep.ndim < arg.ndim else ())
    return np.broadcast_to(expanded, arg.shape)


def _poisoned(s: Subject, arg: Any, keep: np.ndarray, bad: float) -> Any:
    dropped = _dropped(s, arg, keep)
    if dropped is None:
        return arg
    value = bad if jnp.issubdtype(arg.dtype, jnp.floating) else -100
    return jnp.where(dropped, jnp.asarray(value, arg.dtype), arg)


def reduction(s: Subject) -> None:
    losses, slopes = jit_once(lambda *args: s.both(args))(*s.args)
    if not s.takes >= {"weights", "reduction"} or losses.ndim == 0:
        return
    size = losses.shape
    weights = s.random.uniform(0.5, 2.0, size).astype(np.float32)
    keep = s.random.random(size) < 0.6
    keep.flat[0] = True
    cases: list[dict[str, Any]] = [{"weights": w} for w in (None, weights, weights[(0,) * (len(size) - 1)])]
    if "where" in s.takes and not s.coupled:
        cases += [{"where": keep}, {"where": keep, "weights": np.where(keep, weights, np.nan)}]

    factors = []
    for options in cases:
        factor = 1.0 if options.get("weights") is None else wide(options["weights"])
        factors.append(np.where(options.get("where", True), np.broadcast_to(factor, size), 0.0))

    def reduced(given: list[dict[str, Any]]) -> Any:
        return [_every_reduction(s.replace(s.args, **options)) for options in given]

    # The gradients of the same sums made by hand.
    pull = jit_once(lambda ct: s.both(s.args, ct=ct)[1])
    given = [{k: jnp.asarray(v) for k, v in options.items() if v is not None} for options in cases]
    for options, factor, got in zip(cases, factors, jit_once(reduced)(given), strict=True):
        divisors = {"sum": 1.0, "mean": float(np.sum(factor))}
        want = {how: (d, pull(jnp.asarray(factor / d, losses.dtype))) for how, d in divisors.items()}
        _reduced(s, got, want, wide(losses) * factor, shown(options))
    _weight_gradient(s, wide(losses), weights)


def _every_reduction(s: Subject) -> dict[str, Any]:
    both = {h: jax.value_and_grad(lambda m, h=h: s.at(m, reduction=h))(s.moving) for h in ("sum", "mean")}
    return {"none": s.at(s.moving), **both}


def _reduced(s: Subject, got: dict[str, Any], want: dict[str, Any], terms: np.ndarray, given: str) -> None:
    size = float(np.sum(np.abs(terms)))
    s.equal(f'reduction="none" with {given}', got["none"], terms, 8 * EPS, scaled=True)
    for how, (divisor, gradients) in want.items():
        what = f'reduction="{how}" with {given}'
        s.equal(what, got[how][0], np.sum(terms) / divisor, 0.0, 16 * EPS * size / abs(divisor))
        for i, a, b in zip(s.argnums, got[how][1], gradients, strict=True):
            rtol = 16 * max(EPS, float(jnp.finfo(a.dtype).eps))
            s.equal(f"the gradient of argument {i} under {what}", a, b, rtol, scaled=True)


def _weight_gradient(s: Subject, losses: np.ndarray, weights: np.ndarray) -> None:
    total = float(np.sum(weights))
    mean = float(np.sum(weights * losses)) / total
    want = {"sum": losses, "mean": (losses - mean) / total}

    def slopes(w: Array) -> Any:
        return {how: jax.grad(lambda w: s.at(s.moving, weights=w, reduction=how))(w) for how in want}  # noqa: B023

    for how, got in jit_once(slopes)(jnp.asarray(weights)).items():
        s.equal(f'the gradient of weights under reduction="{how}"', got, want[how], 32 * EPS, scaled=True)


def residuals(s: Subject) -> None:
    """Kept bytes against those of the arguments, and 16 numbers for each example if an axis is consumed.

    Options that are numbers may be kept, and two more that are constants of the loss.
    """
    options = {k: jnp.asarray(v) for k, v in s.options.items() if np.ndim(v) and k != "axis"}

    def kept(args: Any, options: Any) -> Any:
        given = s.replace(args, **options)
        return jax.tree.leaves(jax.vjp(lambda *m: given.at(m), *given.moving)[1])

    # By variable, so that an array which two rules keep counts once.
    saved = {v: v.aval for v in jax.make_jaxpr(kept)(s.args, options).jaxpr.outvars if not isinstance(v, Literal)}
    losses = jax.eval_shape(lambda: s.fn(*s.args, **s.options))
    allowed = sum(a.nbytes for a in (*s.args, *options.values())) + 8 * (2 + len(s.options))
    if losses.size < s.args[0].size:
        examples = max(losses.size, *s.args[0].shape[:1]) if losses.ndim == 0 else losses.size
        allowed += 16 * examples * losses.dtype.itemsize
    got = sum(a.size * a.dtype.itemsize for a in saved.values())
    if got > allowed:
        shapes = ", ".join(f"{a.dtype}{list(a.shape)}" for a in saved.values())
        s.fail(f"{got} bytes are kept for the backward pass, arguments have {allowed}: {shapes}")
