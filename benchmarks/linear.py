"""`python -m benchmarks.linear [--rounds N] [--shape N D V] [--output FILE]`: losses without logits against peers.

Value and gradient for hidden states and kernel. Beside optax on `hidden @ kernel`: tokamax and PyTorch where they are
installed, and the three matrix products alone, in the tiles of `method="fast"`, which no method can do without.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import jaxloss
from benchmarks import linear_peers
from benchmarks.harness import Program, compiled, environment, interleaved, ratio
from jaxloss._linear.plan import Shape, choose
from jaxloss._linear.tiles import add, count, cut, loop, piece, project, rounded, to_hidden, to_kernel

SHAPES = [(2048, 512, 32768), (1024, 256, 131072), (1000, 320, 50257)]
GPU_SHAPES = [(4096, 4096, 128256), (8192, 2304, 256000), (32768, 2560, 128256), (4096, 4096, 151936)]
METHODS = ("fast", "lean")
Arguments = tuple[jax.Array, jax.Array, jax.Array]


def ours(method: Any) -> Callable[..., Any]:
    return lambda h, w, y: jaxloss.linear_cross_entropy(h, w, y, method=method)


def with_labels_ignored(h: Any, w: Any, y: Any) -> Any:
    return jaxloss.linear_cross_entropy(h, w, y, ignore_index=-100, method="fast")


def products(h: Any, w: Any, y: Any) -> Any:
    """The logits of a tile and the two products of their cotangent, in the tiles of `method="fast"`."""
    (n, d), v = h.shape, w.shape[1]
    _, sizes = choose("products", Shape(n, d, v, h.dtype.itemsize), True, "fast", None, None)

    def tile(j: Any, i: Any, total: Any) -> Any:
        rows, block = piece(j, n, sizes.tokens), piece(i, v, sizes.classes)
        here, part = cut(h, rows.start, rows.size, 0), cut(w, block.start, block.size, 1)
        small = rounded(project(here, part, "dv"), w.dtype)
        to_h, to_w = to_hidden(small, part, "dv"), to_kernel(small, here, "dv")
        return add(total[0], to_h, rows.start, 0), add(total[1], to_w, block.start, 1)

    def chunk(j: Any, total: Any) -> Any:
        return loop(count(v, sizes.classes), lambda i, total: tile(j, i, total), total)

    to_h, to_w = loop(count(n, sizes.tokens), chunk, (jnp.zeros((n, d)), jnp.zeros((d, v))))
    return to_h.astype(h.dtype), to_w.astype(w.dtype)


def arguments(n: int, d: int, v: int, dtype: Any) -> Arguments:
    keys = jax.random.split(jax.random.key(0), 3)
    hidden, kernel = jax.random.normal(keys[0], (n, d)), jax.random.normal(keys[1], (d, v)) / d**0.5
    return hidden.astype(dtype), kernel.astype(dtype), jax.random.randint(keys[2], (n,), 0, v)


def programs(args: Arguments) -> dict[str, Program]:
    def gradient(loss: Callable[..., Any]) -> Program:
        return compiled(jax.value_and_grad(loss, (0, 1)), *args)

    found = {method: gradient(ours(method)) for method in METHODS}
    found["optax on logits"] = gradient(linear_peers.optax_on_logits)
    found["three products"] = compiled(products, *args)
    if (tokamax := linear_peers.tokamax_loss()) is not None:
        found["tokamax"] = gradient(tokamax)
    for name, run in linear_peers.torch_peers(*args).items():
        found[name] = Program(run, math.nan, -1, math.nan)
    return found


def masked_ratio(args: Arguments, rounds: int) -> tuple[float, float, float]:
    """Time with three of four labels ignored against all labels valid."""
    h, w, y = args
    few = jnp.where(jnp.arange(y.size) % 4 == 0, y, -100)
    program = compiled(jax.value_and_grad(with_labels_ignored, (0, 1)), *args)
    both = {
        "few": Program(lambda *_: program.run(h, w, few), math.nan, -1, math.nan),
        "all": Program(lambda *_: program.run(h, w, y), math.nan, -1, math.nan),
    }
    seconds = interleaved(both, (), rounds)
    return ratio(seconds["few"], seconds["all"])


def truth(args: Arguments) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss and gradients in float64, of the operands as they are."""
    h, w = (np.asarray(x.astype(jnp.float32), np.float64) for x in args[:2])
    y = np.asarray(args[2])
    loss, to_h, to_w, n = 0.0, np.empty_like(h), np.zeros_like(w), h.shape[0]
    for rows in np.array_split(np.arange(n), -(-n // 256)):
        logits = h[rows] @ w
        top = logits.max(1, keepdims=True)
        p = np.exp(logits - top)
        norm = p.sum(1, keepdims=True)
        picked = np.arange(rows.size), y[rows]
        loss += float(np.sum(top[:, 0] + np.log(norm[:, 0]) - logits[picked]))
        p /= norm
        p[picked] -= 1
        to_h[rows], to_w = p @ w.T / n, to_w + h[rows].T @ p / n
    return loss / n, to_h, to_w


def errors(program: Program, args: Arguments, exact: tuple[Any, ...]) -> list[float]:
    """Of loss and gradients, relative, by the Frobenius norm."""
    value, gradients = program.run(*args)
    found = [np.asarray(x.astype(jnp.float32), np.float64) for x in (value, *gradients)]
    return [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(found, exact, strict=True)]


def measure(shape: tuple[int, int, int], dtype: Any, rounds: int) -> list[dict[str, Any]]:
    args = arguments(*shape, dtype)
    these = programs(args)
    seconds, exact = interleaved(these, args, rounds), truth(args)
    records = []
    for name, program in these.items():
        record: dict[str, Any] = {"shape": list(shape), "dtype": str(jnp.dtype(dtype)), "method": name}
        record["time / optax"] = ratio(seconds[name], seconds["optax on logits"])
        record["time / three products"] = ratio(seconds[name], seconds["three products"])
        record["median seconds"] = sorted(seconds[name])[rounds // 2]
        record["temporaries, MiB"] = program.temporaries / 2**20 if program.temporaries >= 0 else None
        if name in (*METHODS, "optax on logits", "tokamax"):
            record["errors"] = errors(program, args, exact)
        records.append(record)
    records[0]["25% valid / all valid"] = masked_ratio(args, rounds)
    return records


HEAD = (
    "| tokens, width, classes | method | time / optax | time / three products | temporaries, MiB "
    "| error of loss, hidden, kernel | 25% valid |\n| --- | --- | --- | --- | --- | --- | --- |"
)


def row(record: dict[str, Any]) -> str:
    def spread(name: str) -> str:
        return "{:.2f} ({:.2f} to {:.2f})".format(*record[name]) if name in record else ""

    kept = record["temporaries, MiB"]
    cells = [
        ", ".join(map(str, record["shape"])) + " " + record["dtype"],
        record["method"],
        spread("time / optax"),
        spread("time / three products"),
        "" if kept is None else f"{kept:.0f}",
        ", ".join(f"{e:.0e}" for e in record.get("errors", [])),
        spread("25% valid / all valid"),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds for each shape")
    parser.add_argument("--shape", type=int, nargs=3, metavar=("N", "D", "V"), help="one shape instead of all")
    parser.add_argument("--output", type=pathlib.Path, help="where to write the JSON")
    given = parser.parse_args()
    on_gpu = jax.default_backend() == "gpu"
    shapes = [tuple(given.shape)] if given.shape else GPU_SHAPES if on_gpu else SHAPES
    dtypes = [jnp.bfloat16] if on_gpu else [jnp.float32, jnp.bfloat16]
    result: dict[str, Any] = {"environment": environment(), "records": []}
    print("\n".join(f"{name}: {value}" for name, value in result["environment"].items()), end=f"\n\n{HEAD}\n")
    for shape, dtype in tqdm([(s, t) for s in shapes for t in dtypes], desc="shapes", unit="shape"):
        records = measure(shape, dtype, given.rounds)
        print("\n".join(map(row, records)), flush=True)
        result["records"] += records
        if given.output:
            given.output.parent.mkdir(parents=True, exist_ok=True)
            given.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
