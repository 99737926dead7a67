"""`python -m benchmarks.reliability`: how much is checked, counted from the tests as they are collected.

Nothing is run but the claim on edges, which shows what the peer does there. How many mutants of the rules the tests
kill is what `python -m benchmarks.mutants --output benchmarks/results/mutants.json` found last.
"""

from __future__ import annotations

import collections
import json
import pathlib
import re
import subprocess
import sys

from benchmarks.claims import finite_at_edges

ROOT = pathlib.Path(__file__).parents[1]
MUTANTS = ROOT / "benchmarks" / "results" / "mutants.json"


def collected(*options: str) -> collections.Counter[tuple[str, str]]:
    """How many tests there are of each file and function."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^tests/(\w+)\.py::(\w+)", out, re.MULTILINE)
    return collections.Counter(found)


def of(tests: collections.Counter[tuple[str, str]], file: str, function: str = "") -> int:
    return sum(n for (f, t), n in tests.items() if re.fullmatch(file, f) and (not function or t == function))


def examples() -> int:
    """Of hypothesis for each loss, in the long run."""
    settings = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    return int(re.findall(r'register_profile\("long".*max_examples=(\d+)', settings)[0])


def main() -> int:
    short, long = collected(), collected("--long")
    fuzzed = of(long, "test_conformance_accuracy", "test_any_shape_and_value")
    rows = {
        "conformance cases of losses": fuzzed,
        "losses x options x promises x dtypes": of(long, "test_conformance"),
        "edges, with exact values and gradients": of(long, "test_conformance_limits", "test_edge"),
        "values and gradients against 100 digits": of(long, "test_conformance_accuracy", "test_digits"),
        "Hessians against 100 digits": of(long, "test_conformance_accuracy", "test_hessian"),
        "bad inputs and their messages": of(long, "test_bad_input") + of(long, "test_class_options"),
        "gradient engine": of(long, "test_autodiff.*"),
        "sharded and linear losses": of(long, "test_(linear|class_parallel|contrastive_devices|two_processes).*"),
        "lines of MIGRATING.md, and optax's own tests": of(long, "test_(migrating|optax_suite)"),
        "all tests, long run": long.total(),
        "all tests, short run": short.total(),
        "random arguments, long run": fuzzed * examples(),
    }
    if MUTANTS.exists():
        found = json.loads(MUTANTS.read_text(encoding="utf-8"))
        rows["mutants of rules"] = found["mutants"]
        rows["of these killed"] = found["mutants"] - len(found["survivors"])
    print("\n".join(["| what | how many |", "| --- | --- |", *(f"| {what} | {n} |" for what, n in rows.items())]))
    print("\nWhere the peer is not finite:\n")
    return finite_at_edges.main()


if __name__ == "__main__":
    sys.exit(main())
