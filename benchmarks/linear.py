"""`python -m benchmarks.linear [--rounds N] [--shape N D V]`: value and gradient of linear losses against logits.

Beside optax on `hidden @ kernel`: the three matrix products alone, which no method can do without.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from tqdm import tqdm

import jaxloss
from benchmarks.harness import Program, compiled, environment, interleaved, ratio

SHAPES = [(2048, 512, 32768), (1024, 256, 131072), (1000, 320, 50257)]


def ours(method: str) -> Callable[..., Any]:
    return lambda h, w, y: jaxloss.linear_cross_entropy(h, w, y, method=method)


def peer(h: Any, w: Any, y: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(h @ w, y).mean()


def products(h: Any, w: Any, y: Any) -> tuple[Any, Any]:
    """One product forward and the two of the gradient, with the logits for their cotangent."""
    logits = jnp.dot(h, w, preferred_element_type=jnp.float32).astype(h.dtype)
    return logits @ w.T, h.T @ logits


def programs(args: tuple[jax.Array, ...]) -> dict[str, Program]:
    found = {m: compiled(jax.value_and_grad(ours(m), (0, 1)), *args) for m in ("fast", "lean")}
    found["optax"] = compiled(jax.value_and_grad(peer, (0, 1)), *args)
    found["three products"] = compiled(products, *args)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds for each shape")
    parser.add_argument("--shape", type=int, nargs=3, metavar=("N", "D", "V"), help="one shape instead of three")
    given = parser.parse_args()
    print("\n".join(f"{name}: {value}" for name, value in environment().items()), end="\n\n")
    print(
        "| tokens, width, classes | method | time / optax (quartiles) | temporaries, MiB |\n| --- | --- | --- | --- |"
    )
    shapes = [tuple(given.shape)] if given.shape else SHAPES
    for n, d, v in tqdm(shapes, desc="shapes", unit="shape"):
        for dtype in (jnp.float32, jnp.bfloat16):
            keys = jax.random.split(jax.random.key(0), 3)
            h = jax.random.normal(keys[0], (n, d)).astype(dtype)
            w = (jax.random.normal(keys[1], (d, v)) / d**0.5).astype(dtype)
            args = (h, w, jax.random.randint(keys[2], (n,), 0, v))
            these = programs(args)
            seconds = interleaved(these, args, given.rounds)
            for name, program in these.items():
                middle, low, high = ratio(seconds[name], seconds["optax"])
                print(
                    f"| {n}, {d}, {v} {jnp.dtype(dtype)} | {name} | {middle:.2f} ({low:.2f} to {high:.2f}) "
                    f"| {program.temporaries / 2**20:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
