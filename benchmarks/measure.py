"""What is measured of a case: every implementation of it, compiled and timed in one run."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Case
from benchmarks.harness import Program, compiled, interleaved, ratio, residual_bytes

MODES: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "value": lambda f: f,
    "value and gradient": jax.value_and_grad,
}


def floor(*args: jax.Array) -> Any:
    """One read of all inputs for the value, one more and one write of the first for its gradient."""
    total = sum(jnp.sum(a, dtype=jnp.float32) for a in args)
    first, *rest = jax.lax.optimization_barrier(args)
    slope = first
    for other in rest:
        slope = slope + other.astype(first.dtype) if other.shape == first.shape else slope
    return total, slope


def others(case: Case, args: tuple[jax.Array, ...], mode: str) -> dict[str, Program]:
    """Those of other libraries that are installed."""
    found = {}
    for name, call in case.others.items():
        if not importlib.util.find_spec(name):
            continue
        if name != "torch":
            found[name] = jax_program(name, call, args, mode)
        elif jax.default_backend() == "cpu":
            found[name] = torch_program(call, args, mode)
    return found


def jax_program(name: str, call: Callable[..., Any], args: tuple[jax.Array, ...], mode: str) -> Program:
    os.environ["KERAS_BACKEND"] = "jax"
    losses = importlib.import_module({"keras": "keras.losses"}.get(name, name))
    return compiled(MODES[mode](lambda *args: jnp.mean(call(losses, *args))), *args)


def torch_program(call: Callable[..., Any], args: tuple[jax.Array, ...], mode: str) -> Program:
    import torch
    from torch.nn import functional

    def tensor(x: jax.Array) -> torch.Tensor:
        half = x.dtype == jnp.bfloat16
        found = torch.from_numpy(np.array(x.astype(jnp.float32) if half else x))
        return found.to(torch.bfloat16) if half else found if found.is_floating_point() else found.long()

    first, *rest = map(tensor, args)
    if mode == "value and gradient":
        first.requires_grad_()

    def run(*_: Any) -> float:
        value = call(functional, first, *rest)
        if mode == "value and gradient":
            torch.autograd.grad(value, first)
        return value.item()

    return Program(run, math.nan, -1, math.nan)


def measure(case: Case, rounds: int, modes: Iterable[str] = tuple(MODES)) -> list[dict[str, Any]]:
    """One record for each of the modes."""
    args, records = case.arguments(), []
    for mode in modes:
        of = MODES[mode]
        programs = {"jaxloss": compiled(of(case.ours), *args), "peer": compiled(of(case.peer), *args)}
        if mode == "value and gradient":
            programs["floor"] = compiled(floor, *args)
        programs |= others(case, args, mode)
        seconds = interleaved(programs, args, rounds)
        record: dict[str, Any] = {"case": str(case), "mode": mode, "rounds": rounds}
        record["residuals / prediction"] = residual_bytes(case.ours, *args) / args[0].nbytes
        for name, program in programs.items():
            record[name] = {"median seconds": sorted(seconds[name])[rounds // 2]}
            if name != "jaxloss":
                record[f"time / {name}"] = ratio(seconds["jaxloss"], seconds[name])
            if program.temporaries >= 0:
                record[name] |= {
                    "bytes / prediction": program.bytes_accessed / args[0].nbytes,
                    "temporaries / prediction": program.temporaries / args[0].nbytes,
                    "compile seconds": program.compile_seconds,
                }
        records.append(record)
    return records


def table(records: list[dict[str, Any]]) -> str:
    lines = [
        "| mean of | time / peer | time / torch | time / keras | time / floor | bytes (peer) | temporaries (peer) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in records:
        times = ["{:.2f} ({:.2f} to {:.2f})".format(*r["time / peer"])]
        times += [_time(r, name) for name in ("torch", "keras", "floor")]
        memory = [
            f"{r['jaxloss'][key]:{form}} ({r['peer'][key]:{form}})"
            for key, form in (("bytes / prediction", ".1f"), ("temporaries / prediction", ".0%"))
        ]
        lines.append("| " + " | ".join([f"{r['case']}, {r['mode']}", *times, *memory]) + " |")
    return "\n".join(lines)


def _time(record: dict[str, Any], name: str) -> str:
    if name == "keras" and "time / rax" in record:  # the other library on JAX, in the same column
        return f"{record['time / rax'][0]:.2f} (rax)"
    return f"{record[f'time / {name}'][0]:.2f}" if f"time / {name}" in record else ""


def geometric_mean(records: list[dict[str, Any]], key: str) -> float:
    logs = [math.log(r[key][0]) for r in records if key in r]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan
