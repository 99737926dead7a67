"""`python -m benchmarks [--quick] [--rounds N] [--output FILE]`: the table of README, and its data as JSON."""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from tqdm import tqdm

from benchmarks import cross_entropy
from benchmarks.harness import environment


def table(records: list[dict[str, Any]]) -> str:
    lines = [
        "| integer-label cross-entropy | time / optax | bytes accessed (optax) | temporaries (optax) |",
        "| --- | --- | --- | --- |",
    ]
    for r in records:
        ours, optax = r["ours"], r["optax"]
        low, high = r["time ratio quartiles"]
        lines.append(
            f"| {r['case']}, {r['mode']} | {r['time ratio']:.2f} ({low:.2f} to {high:.2f}) "
            f"| {ours['bytes / logits']:.1f} ({optax['bytes / logits']:.1f}) "
            f"| {ours['temporaries / logits']:.0%} ({optax['temporaries / logits']:.0%}) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small shapes and few rounds, under a minute")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds for each case")
    parser.add_argument("--output", type=pathlib.Path, help="where to write the JSON")
    args = parser.parse_args()
    cases = [c for c in cross_entropy.CASES if not args.quick or c.rows * c.classes < 2**24]
    rounds = 5 if args.quick else args.rounds
    records: list[dict[str, Any]] = []
    for case in tqdm(cases, desc="benchmarks", unit="case"):
        records += cross_entropy.measure(case, rounds)
    result = {"environment": environment(), "records": records}
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(f"{name}: {value}" for name, value in result["environment"].items()), end="\n\n")
    print("Bytes and temporaries in multiples of the logits' own bytes; time as a ratio within the run, quartiles.\n")
    print(table(records))


if __name__ == "__main__":
    main()
