"""Functions with a hand-written rule beside the same functions without, for the tests of the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss import custom_vjp


class Pair(NamedTuple):
    ours: Callable[..., Any]  # with the rule
    plain: Callable[..., Any]  # the same function under plain autodiff
    args: tuple[Any, ...]


def random(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(0.3, 1.7, shape).astype(np.float32))


def with_rule(plain: Callable[..., Any], fwd: Callable[..., Any], bwd: Callable[..., Any], **options: Any) -> Any:
    f = custom_vjp(plain)
    f.defvjp(fwd, bwd, **options)
    return f


def swish(x):
    return x * jax.nn.sigmoid(x)


def _swish_bwd(x, g):
    s = jax.nn.sigmoid(x)
    return (g * (s + x * s * (1 - s)),)


def affine_layer(params, x):
    y = jnp.tanh(x @ params["w"] + params["b"])
    return {"y": y, "sums": (jnp.sum(y), jnp.sum(x * x, axis=-1))}


def _affine_layer_fwd(params, x):
    out = affine_layer(params, x)
    return out, (params, x, out["y"])


def _affine_layer_bwd(residuals, g):
    params, x, y = residuals
    g_z = (g["y"] + g["sums"][0]) * (1 - y * y)
    g_x = g_z @ params["w"].T + 2 * x * jnp.expand_dims(g["sums"][1], -1)
    return {"w": jnp.outer(x, g_z), "b": g_z}, g_x


def recurrence(decay, x):
    """h_t = decay * h_{t-1} + x_t^2."""

    def step(h, x_t):
        h = decay * h + x_t * x_t
        return h, h

    return jax.lax.scan(step, jnp.zeros_like(x[0]), x)[1]


def _recurrence_fwd(decay, x):
    h = recurrence(decay, x)
    return h, (decay, x, h)


def _recurrence_bwd(residuals, g):
    decay, x, h = residuals
    before = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])

    def step(carry, now):
        g_h, g_decay = carry
        g_t, x_t, h_before = now
        g_h = g_h + g_t
        return (decay * g_h, g_decay + jnp.sum(g_h * h_before)), 2 * x_t * g_h

    (_, g_decay), g_x = jax.lax.scan(step, (jnp.zeros_like(x[0]), jnp.zeros_like(decay)), (g, x, before), reverse=True)
    return g_decay, g_x


def root_of_dot(x, y):
    return jnp.sqrt(1 + jnp.dot(x, y))


def _root_of_dot_bwd(residuals, g):
    x, y, root = residuals
    return g * y / (2 * root), g * x / (2 * root)


def gate(x, on):
    return jnp.where(on > 1, jnp.sin(x), 0) * x


def _gate_bwd(residuals, g):
    x, on = residuals
    slope = jax.lax.cond(jnp.sum(on) > 0, lambda: jnp.sin(x) + x * jnp.cos(x), lambda: x)
    return jnp.where(on > 1, g * slope, 0), None


def recomputed(x, y):
    return jnp.cumsum(jnp.exp(jnp.sin(x)) * y)


def square(z):
    return z * z


PAIRS = {
    "elementwise": Pair(with_rule(swish, lambda x: (swish(x), x), _swish_bwd), swish, (random(0, 3),)),
    "pytrees": Pair(
        with_rule(affine_layer, _affine_layer_fwd, _affine_layer_bwd),
        affine_layer,
        ({"w": random(1, 3, 2), "b": random(2, 2)}, random(3, 3)),
    ),
    "scan in bwd": Pair(
        with_rule(recurrence, _recurrence_fwd, _recurrence_bwd), recurrence, (jnp.float32(0.7), random(4, 3, 2))
    ),
    "scalar output": Pair(
        with_rule(root_of_dot, lambda x, y: (r := root_of_dot(x, y), (x, y, r)), _root_of_dot_bwd),
        root_of_dot,
        (random(5, 3), random(6, 3)),
    ),
    "cond in bwd, None": Pair(
        with_rule(gate, lambda x, on: (gate(x, on), (x, on)), _gate_bwd), gate, (random(7, 3), random(8, 3))
    ),
    "vjp in bwd": Pair(
        with_rule(recomputed, lambda x, y: (recomputed(x, y), (x, y)), lambda res, g: jax.vjp(recomputed, *res)[1](g)),
        recomputed,
        (random(9, 3), random(10, 3)),
    ),
}


def _linearized(f: Callable[..., Any], *args: Any) -> Any:
    out, push = jax.linearize(f, *args)
    return out, push(*directions(args))


def directions(args: Any) -> Any:
    leaves, tree = jax.tree.flatten(args)
    return jax.tree.unflatten(tree, [jnp.cos(1 + i + jnp.asarray(x)) for i, x in enumerate(leaves)])


def _all(f: Callable[..., Any], jac: Callable[..., Any], args: tuple[Any, ...]) -> Callable[..., Any]:
    return jac(f, argnums=tuple(range(len(args))))


def _composed(*jacs: Callable[..., Any]) -> Callable[..., Any]:
    def mode(f: Callable[..., Any], *args: Any) -> Any:
        for jac in reversed(jacs):
            f = _all(f, jac, args)
        return f(*args)

    return mode


def _vjp(f: Callable[..., Any], *args: Any) -> Any:
    out, pull = jax.vjp(f, *args)
    return out, pull(directions(out))


_F, _R = jax.jacfwd, jax.jacrev
MODES: dict[str, Callable[..., Any]] = {
    "value": lambda f, *args: f(*args),
    "vjp": _vjp,
    "jvp": lambda f, *args: jax.jvp(f, args, directions(args)),
    "linearize": _linearized,
    "jacfwd": _composed(_F),
    "jacrev": _composed(_R),
    "jacfwd of jacfwd": _composed(_F, _F),
    "jacfwd of jacrev": _composed(_F, _R),
    "jacrev of jacfwd": _composed(_R, _F),
    "jacrev of jacrev": _composed(_R, _R),
    "jacfwd of jacfwd of jacrev": _composed(_F, _F, _R),
    "jacrev of jacfwd of jacrev": _composed(_R, _F, _R),
    "jacrev of jacrev of jacfwd": _composed(_R, _R, _F),
    "jacrev of jacrev of jacrev": _composed(_R, _R, _R),
}


def assert_same(ours: Any, plain: Any, rtol: float = 1e-5, what: str = "") -> None:
    """The same structure, shapes, dtypes and, up to rounding at the size of the largest entry, values."""
    assert jax.tree.structure(ours) == jax.tree.structure(plain), what
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        assert (jnp.shape(a), jnp.result_type(a)) == (jnp.shape(b), jnp.result_type(b)), what
        scale = max(1.0, float(np.max(np.abs(b), initial=0.0)))
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=rtol * scale, err_msg=what)


def assert_modes_agree(ours: Any, plain: Any, *args: Any, modes: Any) -> None:
    """As one program, compiled in a hurry: compilation is nearly all the time that these tests take."""

    def run(*args: Any) -> Any:
        return {mode: (MODES[mode](ours, *args), MODES[mode](plain, *args)) for mode in modes}

    results = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})(*args)
    for mode, (got, want) in results.items():
        assert_same(got, want, rtol=3e-5, what=mode)
