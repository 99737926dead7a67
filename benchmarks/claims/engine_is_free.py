"""Claim: a rule under `jaxloss.custom_vjp` costs exactly what it costs under `jax.custom_vjp`.

For the value and gradient of two rules, in several surroundings, compare what is saved between the passes and what XLA
makes of the program: bytes accessed, floating-point operations, temporary memory, number of instructions. All are
deterministic, and all must be equal. The time that tracing takes is shown, not claimed.

    python -m benchmarks.claims.engine_is_free
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss import custom_vjp

Function = Callable[..., jax.Array]


class Rule(NamedTuple):
    fun: Function
    fwd: Callable[..., Any]
    bwd: Callable[..., Any]
    arguments: Callable[[int, int], tuple[jax.Array, jax.Array]]  # (rows, columns) -> (differentiated, target)

    def under(self, engine: Any) -> Function:
        f = engine(self.fun)
        f.defvjp(self.fwd, self.bwd)
        return f


def _half_square(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32)) / 2, axis=-1)


def _half_square_bwd(residuals: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, y = residuals
    slope = jnp.expand_dims(g, -1) * (x.astype(jnp.float32) - y.astype(jnp.float32))
    return slope.astype(x.dtype), -slope.astype(y.dtype)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return _cross_entropy_fwd(logits, labels)[0]


def _cross_entropy_fwd(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, Any]:
    z = logits.astype(jnp.float32)
    lse = jax.nn.logsumexp(z, axis=-1)
    return lse - jnp.take_along_axis(z, jnp.expand_dims(labels, -1), axis=-1)[..., 0], (logits, labels, lse)


def _cross_entropy_bwd(residuals: Any, g: jax.Array) -> tuple[jax.Array, None]:
    logits, labels, lse = residuals
    p = jnp.exp(logits.astype(jnp.float32) - jnp.expand_dims(lse, -1))
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    return (jnp.expand_dims(g, -1) * (p - one_hot)).astype(logits.dtype), None


def _pair(rows: int, columns: int) -> tuple[jax.Array, jax.Array]:
    x, y = np.random.default_rng(0).normal(size=(2, rows, columns))
    return jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16)


def _logits(rows: int, columns: int) -> tuple[jax.Array, jax.Array]:
    return _pair(rows, columns)[0], jnp.asarray(np.random.default_rng(1).integers(columns, size=rows), jnp.int32)


RULES = {
    "l2": Rule(_half_square, lambda x, y: (_half_square(x, y), (x, y)), _half_square_bwd, _pair),
    "cross-entropy": Rule(_cross_entropy, _cross_entropy_fwd, _cross_entropy_bwd, _logits),
}


def _scanned(f: Function) -> Function:
    def run(x: jax.Array, y: jax.Array) -> jax.Array:
        folds = (a.reshape(4, a.shape[0] // 4, *a.shape[1:]) for a in (x, y))
        return jax.lax.scan(lambda c, xy: (c + jnp.sum(f(*xy)), None), jnp.zeros(()), tuple(folds))[0]

    return run


SURROUNDINGS: dict[str, Callable[[Function], Function]] = {
    "mean": lambda f: lambda x, y: jnp.mean(f(x, y)),
    "vmap": lambda f: lambda x, y: jnp.mean(jax.vmap(f)(x, y)),
    "checkpoint": lambda f: lambda x, y: jnp.mean(jax.checkpoint(lambda x, y: f(x, y))(x, y)),
    "scan": _scanned,
    "inside a model": lambda f: lambda x, y: jnp.mean(f(jnp.sin(x) * x, y) ** 2),
}


def measure(loss: Function, arguments: tuple[jax.Array, ...]) -> dict[str, float]:
    saved = jax.tree.leaves(jax.vjp(lambda x: loss(x, *arguments[1:]), arguments[0])[1])
    compiled = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
    cost: Any = compiled.cost_analysis()
    memory: Any = compiled.memory_analysis()
    return {
        "residuals": len(saved),
        "residual bytes": sum(np.asarray(a).nbytes for a in saved),
        "bytes accessed": cost["bytes accessed"],
        "flops": cost["flops"],
        "temporary bytes": memory.temp_size_in_bytes,
        "instructions": sum(" = " in line for line in compiled.as_text().splitlines()),
    }


def compare(rule: Rule, surrounding: str, rows: int, columns: int) -> tuple[dict[str, float], dict[str, float]]:
    """What is measured under jax's engine and under ours."""
    arguments = rule.arguments(rows, columns)
    bare, ours = (measure(SURROUNDINGS[surrounding](rule.under(e)), arguments) for e in (jax.custom_vjp, custom_vjp))
    return bare, ours


def tracing_time(rule: Rule, rows: int, columns: int, runs: int = 15) -> tuple[float, float]:
    """Median milliseconds to trace the value and gradient, interleaved."""
    arguments = rule.arguments(rows, columns)
    times: dict[Any, list[float]] = {jax.custom_vjp: [], custom_vjp: []}
    for _ in range(runs):
        for engine, taken in times.items():
            loss = SURROUNDINGS["mean"](rule.under(engine))
            start = time.perf_counter()
            jax.make_jaxpr(jax.value_and_grad(loss))(*arguments)
            taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[jax.custom_vjp]), statistics.median(times[custom_vjp])


def main(rows: int = 512, columns: int = 4096) -> int:
    failures = 0
    print(f"jax {jax.__version__}, {jax.default_backend()}, [{rows}, {columns}] bfloat16; where equal, one number")
    for name, rule in RULES.items():
        for surrounding in SURROUNDINGS:
            bare, ours = compare(rule, surrounding, rows, columns)
            cells = [f"{k} {bare[k]:g}" + ("" if bare[k] == ours[k] else f" -> {ours[k]:g} DIFFERS") for k in bare]
            failures += bare != ours
            print(f"{name:14s} {surrounding:15s} " + ", ".join(cells))
        before, after = tracing_time(rule, rows, columns)
        print(f"{name:14s} tracing: {before:.1f} ms under jax.custom_vjp, {after:.1f} ms under jaxloss.custom_vjp")
    print("the same program everywhere" if not failures else f"{failures} programs differ")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
