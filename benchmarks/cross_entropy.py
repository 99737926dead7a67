"""Integer-label cross-entropy (mean), value and value-and-gradient, against optax."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxloss
from benchmarks.harness import Program, compiled, interleaved, ratio


@dataclasses.dataclass(frozen=True)
class Case:
    """A named real shape."""

    name: str
    rows: int
    classes: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} [{self.rows}, {self.classes}] {self.dtype}"


_SHAPES = [
    ("vocabulary", 4096, 8192),
    ("large vocabulary", 512, 65536),
    ("images", 1024, 1000),
    ("short rows", 65536, 128),
    ("digits", 65536, 10),
]
CASES = [Case(*shape, dtype) for shape in _SHAPES for dtype in ("float32", "bfloat16")]


def ours(logits: Any, labels: Any) -> Any:
    return jaxloss.softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean")


def peer(logits: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def arguments(case: Case) -> tuple[jax.Array, jax.Array]:
    key = jax.random.key(0)
    logits = jax.random.normal(key, (case.rows, case.classes), jnp.float32)
    return logits.astype(case.dtype), jax.random.randint(key, (case.rows,), 0, case.classes)


def programs(fun: Callable[..., Any], args: tuple[jax.Array, jax.Array]) -> dict[str, Program]:
    return {"value": compiled(fun, *args), "value and gradient": compiled(jax.value_and_grad(fun), *args)}


def measure(case: Case, rounds: int) -> Iterator[dict[str, Any]]:
    """One record for the value and one for value and gradient."""
    args = arguments(case)
    both = {"ours": programs(ours, args), "optax": programs(peer, args)}
    size = args[0].nbytes
    for mode in ("value", "value and gradient"):
        these = {name: by_mode[mode] for name, by_mode in both.items()}
        seconds = interleaved(these, args, rounds)
        middle, low, high = ratio(seconds["ours"], seconds["optax"])
        record: dict[str, Any] = {"case": str(case), "mode": mode, "rounds": rounds}
        record |= {"time ratio": middle, "time ratio quartiles": [low, high]}
        for name, program in these.items():
            record[name] = {
                "bytes / logits": program.bytes_accessed / size,
                "temporaries / logits": program.temporaries / size,
                "compile seconds": program.compile_seconds,
                "median seconds": sorted(seconds[name])[rounds // 2],
            }
        yield record
