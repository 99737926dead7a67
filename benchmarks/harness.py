"""What every benchmark uses: one measure of a compiled program, and interleaved timing of several.

The deterministic measures come first: the bytes that XLA's cost model sees accessed, and the temporaries that it
allocates. Times are only compared within one run, interleaved, as medians.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function and what is known of it without running it."""

    run: Callable[..., Any]
    bytes_accessed: float
    temporaries: int
    compile_seconds: float


def compiled(fun: Callable[..., Any], *args: Any) -> Program:
    start = time.perf_counter()
    program = jax.jit(fun).lower(*args).compile()
    seconds = time.perf_counter() - start
    cost = program.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    return Program(program, cost["bytes accessed"], program.memory_analysis().temp_size_in_bytes, seconds)


def residual_bytes(fun: Callable[..., Any], *args: Any) -> int:
    """What a reverse pass keeps: the arrays in the pullback."""
    pullback = jax.eval_shape(lambda *xs: jax.vjp(fun, *xs)[1], *args)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pullback))


def interleaved(programs: Mapping[str, Program], args: Sequence[Any], rounds: int) -> dict[str, list[float]]:
    """Seconds of a call in each round for each program, one round of all before the next, each time in another order:
    what ran before leaves its memory behind. Short calls are repeated until a round takes 0.02 s, at most 32 times:
    the time until a thread wakes up would be most of one."""

    def timed(program: Program, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(program.run(*args))
        return (time.perf_counter() - start) / calls

    for program in programs.values():
        timed(program, 1)
    calls = {name: max(1, min(32, int(0.02 / timed(program, 1)))) for name, program in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(programs), len(programs)):
            seconds[name].append(timed(programs[name], calls[name]))
    return seconds


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile of the ratio within a round."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    if len(ratios) < 2:
        return ratios[0], ratios[0], ratios[0]
    low, mid, high = statistics.quantiles(ratios, n=4)
    return mid, low, high


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def environment() -> dict[str, str]:
    """What a figure was measured with."""
    device = jax.devices()[0]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    libraries = ("jax", "jaxlib", "optax", "numpy", "torch", "keras", "rax")
    versions = {name: importlib.metadata.version(name) for name in libraries if importlib.util.find_spec(name)}
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_processor()}",
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "unknown",
        **versions,
    }
