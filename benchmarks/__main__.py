"""`python -m benchmarks [--quick] [--only TEXT] [--rounds N] [--output FOLDER]`: every loss against its peers.

The peer is optax, or plain jax.numpy where optax has no such loss; PyTorch, and on JAX Keras and rax, are measured too
where they are installed. With `--output`, the data are written as JSON, and the table and a figure beside them; with
`--only` too, in place of what was there of these cases, and with the commit of their own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
from typing import Any

from tqdm import tqdm

from benchmarks.cases import cases
from benchmarks.figure import draw
from benchmarks.harness import environment
from benchmarks.measure import geometric_mean, measure, table

NOTE = (
    "Bytes accessed and temporaries in multiples of the predictions' own bytes (XLA's cost model counts the body of a "
    "loop once); times as a ratio within the run, medians and quartiles. The peer is optax, or plain jax.numpy."
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="value and gradient of small shapes in float32, few rounds"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds for each case")
    parser.add_argument("--output", type=pathlib.Path, help="folder for losses.json, losses.md and losses.png")
    args = parser.parse_args()
    chosen = [c for c in cases() if args.only in str(c)]
    if args.quick:
        # Without optax's ntxent, which alone takes a quarter of a minute.
        chosen = [c for c in chosen if math.prod(c.shape) < 2**21 and c.dtype == "float32" and c.loss != "ntxent"]
        chosen = [dataclasses.replace(c, others={k: v for k, v in c.others.items() if k == "torch"}) for c in chosen]
    records: list[dict[str, Any]] = []
    result = {"environment": environment(), "records": records}
    whole = part_of(args.output / "losses.json", result) if args.output and args.only else result
    for case in tqdm(chosen, desc="benchmarks", unit="case"):
        records += measure(case, 3, ["value and gradient"]) if args.quick else measure(case, args.rounds)
        if args.output:  # what there is stays, whatever happens to the cases that follow
            write(args.output, merged(whole, result))
    head = "\n".join(f"{name}: {value}" for name, value in result["environment"].items())
    print(f"{head}\n\n{NOTE}\n\n{table(records)}\n")
    for key in ("time / peer", "time / torch", "time / keras"):
        graded = [r for r in records if r["mode"] == "value and gradient" and key in r]
        if graded:
            print(f"value and gradient, geometric mean of {key}: {geometric_mean(graded, key):.2f}")
    if args.output:
        draw(merged(whole, result)["records"], args.output / "losses.png")


def part_of(path: pathlib.Path, result: dict[str, Any]) -> dict[str, Any]:
    """The earlier result of all cases, if it is of this machine and these versions."""
    if not path.is_file():
        return result
    whole = json.loads(path.read_text())
    differing = {k for k, v in result["environment"].items() if whole["environment"].get(k) != v} - {"commit"}
    if differing:
        raise SystemExit(f"{path} is of another {', '.join(sorted(differing))}: give another --output, or no --only")
    return whole


def merged(whole: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """`whole` with the records of `result` in place of those of the same name."""
    if whole is result:
        return result
    new = {(r["case"], r["mode"]): {**r, "commit": result["environment"]["commit"]} for r in result["records"]}
    old = {(r["case"], r["mode"]): r for r in whole["records"]}
    return {**whole, "records": list({**old, **new}.values())}


def write(folder: pathlib.Path, result: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "losses.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "losses.md").write_text(f"{NOTE}\n\n{table(result['records'])}\n")


if __name__ == "__main__":
    main()
