"""Divergences and binary losses (mean), value and value-and-gradient, against optax or the formula in jax.numpy.

Bytes accessed are not among the measures: XLA's cost model counts the body of a loop once, and the blocks that these
losses are evaluated in are the rounds of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxloss
from benchmarks.harness import compiled, interleaved, ratio

Loss = Callable[[Any, Any], Any]


def _float32(*arrays: Any) -> tuple[Any, ...]:
    return tuple(x.astype(jnp.float32) for x in arrays)


def softmax_kl(x: Any, y: Any) -> Any:
    log_p, log_q = map(jax.nn.log_softmax, _float32(x, y))
    return jnp.sum(jnp.exp(log_q) * (log_q - log_p), -1)


def jensen_shannon(x: Any, y: Any) -> Any:
    log_p, log_q = map(jax.nn.log_softmax, _float32(x, y))
    log_m = jnp.logaddexp(log_p, log_q) - np.float32(np.log(2))
    return jnp.sum(jnp.exp(log_q) * (log_q - log_m) + jnp.exp(log_p) * (log_p - log_m), -1) / 2


def sigmoid_kl(x: Any, y: Any) -> Any:
    x, y = _float32(x, y)
    q, log = jax.nn.sigmoid(y), jax.nn.log_sigmoid
    return q * (log(y) - log(x)) + (1 - q) * (log(-y) - log(-x))


def gaussian_kl(mean: Any, log_variance: Any) -> Any:
    mean, log_variance = _float32(mean, log_variance)
    return jnp.sum(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance, -1) / 2


def logits(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x, y


def labels(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x, (y > 0).astype(x.dtype)


def probabilities(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.nn.log_softmax(x), jax.nn.softmax(y)


@dataclasses.dataclass(frozen=True)
class Case:
    """A loss, what it is compared with, and a shape."""

    loss: Callable[..., Any]
    peer: Loss
    make: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.loss.__name__} {list(self.shape)} {self.dtype}"


def _optax(loss: Loss) -> Loss:
    return lambda x, y: loss(*_float32(x, y))


_ROWS = [(4096, 1024), (512, 65536), (65536, 32)]
_LOSSES: list[tuple[Any, ...]] = [
    (jaxloss.softmax_kl_divergence, softmax_kl, logits, _ROWS),
    (jaxloss.js_divergence, jensen_shannon, logits, _ROWS),
    (jaxloss.kl_divergence, _optax(optax.losses.kl_divergence), probabilities, [(4096, 4096)]),
    (jaxloss.generalized_kl_divergence, _optax(optax.losses.convex_kl_divergence), probabilities, [(4096, 4096)]),
    (jaxloss.gaussian_kl, gaussian_kl, logits, [(4096, 4096), (65536, 128)]),
    (
        jaxloss.sigmoid_binary_cross_entropy,
        _optax(optax.losses.sigmoid_binary_cross_entropy),
        labels,
        [(4096, 10000), (10**7,)],
    ),
    (jaxloss.sigmoid_kl_divergence, sigmoid_kl, logits, [(4096, 4096)]),
]
CASES = [
    Case(*loss, shape, dtype) for *loss, shapes in _LOSSES for shape in shapes for dtype in ("float32", "bfloat16")
]


def arguments(case: Case) -> tuple[jax.Array, ...]:
    x, y = (jax.random.normal(key, case.shape) for key in jax.random.split(jax.random.key(0)))
    return tuple(a.astype(case.dtype) for a in case.make(x, y))


def measure(case: Case, rounds: int) -> Iterator[dict[str, Any]]:
    """One record for the value and one for value and gradient."""
    args = arguments(case)
    losses: dict[str, Loss] = {
        "ours": lambda x, y: case.loss(x, y, reduction="mean"),
        "plain": lambda x, y: jnp.mean(case.peer(x, y)),
    }
    for mode, of in (("value", lambda f: f), ("value and gradient", jax.value_and_grad)):
        programs = {name: compiled(of(loss), *args) for name, loss in losses.items()}
        seconds = interleaved(programs, args, rounds)
        middle, low, high = ratio(seconds["ours"], seconds["plain"])
        record: dict[str, Any] = {"case": str(case), "mode": mode, "rounds": rounds}
        record |= {"time ratio": middle, "time ratio quartiles": [low, high]}
        for name, program in programs.items():
            record[name] = {
                "temporaries / input": program.temporaries / args[0].nbytes,
                "compile seconds": program.compile_seconds,
                "median seconds": sorted(seconds[name])[rounds // 2],
            }
        yield record


def table(records: list[dict[str, Any]]) -> str:
    lines = ["| loss | time / plain | temporaries (plain) |", "| --- | --- | --- |"]
    for r in records:
        low, high = r["time ratio quartiles"]
        kept = [f"{r[name]['temporaries / input']:.0%}" for name in ("ours", "plain")]
        lines.append(
            f"| {r['case']}, {r['mode']} | {r['time ratio']:.2f} ({low:.2f} to {high:.2f}) | {kept[0]} ({kept[1]}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([record for case in CASES for record in measure(case, 9)]))
