"""`python -m benchmarks.mutants [--only TEXT] [--most N] [--seed N] [--output FILE]`: are the tests able to fail?

One operator, comparison, constant or branch of a rule is changed at a time, in a copy of the package, and the tests of
that rule run. A mutant that survives is a test that is missing, or a change that changes nothing. Without a change the
tests must pass: run the suite before.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
from tqdm import tqdm

from benchmarks.harness import environment

ROOT = pathlib.Path(__file__).parents[1]
CONFORMANCE = ["tests/test_conformance.py", "tests/test_conformance_limits.py"]
DIGITS = [*CONFORMANCE, "tests/test_conformance_accuracy.py"]
ROWS = ["tests/test_class_parallel.py", "tests/test_class_options.py", "tests/test_linear.py"]
_CLASSES = "softmax_cross or class_options or multiclass or margin or label_out"
# A file of rules, and the tests that should notice.
TARGETS: dict[str, list[str]] = {
    "_core/softmax.py": [*DIGITS, *ROWS, "-k", "softmax_cross or parallel or statistics or softcap or argmax"],
    "_core/directions.py": [*DIGITS, "tests/test_regression.py", "-k", "cosine or info_nce or barlow"],
    "_core/label_rows.py": ["tests/test_label_rows.py"],
    "_core/pair.py": [*DIGITS, "tests/test_divergence.py", "-k", "softmax_kl or js_div or infinite or undefined"],
    "_core/softmax_kl.py": [*DIGITS, "tests/test_divergence.py", "-k", "softmax_kl"],
    "_core/jensen_shannon.py": [*DIGITS, "tests/test_divergence.py", "-k", "js"],
    "_divergence/probabilities.py": [*DIGITS, "-k", "kl_divergence and not softmax_kl and not sigmoid_kl"],
    "_divergence/gaussian.py": [*DIGITS, "tests/test_gaussian_kl.py", "-k", "gaussian_kl"],
    "_binary/cross_entropy.py": [*DIGITS, "-k", "sigmoid_binary_cross_entropy"],
    "_binary/focal.py": [*DIGITS, "-k", "sigmoid_focal_loss"],
    "_binary/asymmetric.py": [*DIGITS, "-k", "asymmetric_loss"],
    "_reweighted/mixture.py": [*DIGITS, "-k", "softmax_focal_loss or poly_loss or generalized_cross_entropy"],
    "_regression/quadratic.py": [*CONFORMANCE, "-k", "l2_loss or squared_error"],
    "_regression/absolute.py": [*CONFORMANCE, "-k", "huber or absolute_error or smooth_l1 or insensitive"],
    "_margin/decisions.py": [*CONFORMANCE, "-k", "hinge_loss or perceptron_loss or soft_margin or sparsemax_loss"],
    "_margin/classes.py": [*CONFORMANCE, "-k", "multiclass_hinge or multiclass_perceptron or multiclass_sparsemax"],
    "_core/tempered.py": [*DIGITS, "-k", "entmax or bi_tempered"],
    "_segmentation/overlap.py": [
        *CONFORMANCE,
        "tests/test_segmentation.py",
        "-k",
        "dice or tversky or gradient_of or lines",
    ],
    "_segmentation/lovasz.py": [*CONFORMANCE, "tests/test_segmentation.py", "-k", "lovasz"],
    "_segmentation/boxes.py": [*DIGITS, "-k", "iou_loss"],
    "_core/rows.py": ["tests/test_stable.py", *DIGITS, "-k", "test_stable or softmax_cross_entropy"],
    "_core/series.py": ["tests/test_series.py"],
    "_core/exponentials.py": [
        "tests/test_stable.py",
        "tests/test_label_rows.py",
        "tests/test_other_backends.py",
        *DIGITS,
        "-k",
        "stable or label_rows or softmax_cross",
    ],
    "_core/stable.py": ["tests/test_stable.py", *DIGITS, "-k", "test_stable or sigmoid_bin or margin or hinge or nll"],
    "_core/scaled.py": ["tests/test_ctc.py", *CONFORMANCE, "-k", "ctc"],
    "_core/autodiff.py": [f"tests/test_autodiff{part}.py" for part in ("", "_modes", "_options", "_errors")],
    "_core/reduction.py": [*CONFORMANCE, "-k", "reduction or mask or empty"],
    "_sequence/alignments.py": ["tests/test_ctc.py"],
    "_sequence/ctc.py": ["tests/test_ctc.py", *CONFORMANCE, "-k", "ctc"],
    "_linear/rules.py": ["tests/test_linear.py"],
    "_linear/distillation.py": ["tests/test_linear_loss.py"],
    "_preference/pairs.py": [*DIGITS, "tests/test_preference.py", "-k", "dpo or simpo or cpo"],
    "_preference/policy.py": [*DIGITS, "tests/test_policy_gradient.py", "-k", "policy"],
    "_regression/smooth.py": [*DIGITS, "-k", "log_cosh or pseudo_huber or robust_loss"],
    "_regression/asymmetric.py": [*DIGITS, "-k", "quantile or expectile"],
    "_regression/likelihood.py": [*DIGITS, "-k", "gaussian_nll or laplace_nll or student_t or crps"],
    "_regression/counts.py": [*DIGITS, "-k", "poisson or binomial or gamma_nll or tweedie"],
    "_divergence/distances.py": [*DIGITS, "tests/test_divergence.py", "-k", "variation or helling or wasser or renyi"],
    "_divergence/bernoulli.py": [*DIGITS, "-k", "sigmoid_kl"],
    "_contrastive/vectors.py": [*DIGITS, "tests/test_contrastive.py", "-k", "triplet or contrastive or embedding"],
    "_contrastive/groups.py": [*DIGITS, "tests/test_contrastive.py", "-k", "ntxent or supervised or circle"],
    "_contrastive/redundancy.py": [*DIGITS, "tests/test_contrastive.py", "-k", "barlow or vicreg"],
    "_margin/all_classes.py": [*DIGITS, "-k", "multi_margin or multilabel_margin"],
    "_margin/cosine.py": [*DIGITS, "-k", "margin_softmax"],
    "_ordinal.py": [*DIGITS, "-k", "cumulative_link"],
    "_ranking.py": [*DIGITS, "-k", "ranking"],
    "_core/blocks.py": ["tests/test_blocks.py", "tests/test_one_device.py"],
    "_core/lanes.py": ["tests/test_stable.py", "tests/test_label_rows.py", "tests/test_one_device.py"],
    "_core/entries.py": ["tests/test_entries.py"],
    "_core/parts.py": ROWS,
    "_core/class_rows.py": [*CONFORMANCE, "tests/test_class_options.py", "tests/test_bad_input.py", "-k", _CLASSES],
    "_multiclass.py": [*DIGITS, "tests/test_class_options.py", "-k", "nll_loss or z_loss or class_options"],
    "_linear/chunks.py": ["tests/test_linear.py", "tests/test_linear_loss.py"],
    "_linear/per_token.py": ["tests/test_linear.py", "tests/test_linear_conformance.py"],
    "_linear/tiles.py": ["tests/test_linear.py", "tests/test_linear_sharded.py"],
    "_linear/sharded.py": ["tests/test_linear_sharded.py"],
    "_preference/odds.py": [*DIGITS, "tests/test_preference.py", "-k", "orpo"],
    "_preference/unpaired.py": [*DIGITS, "tests/test_preference.py", "-k", "kto"],
    "_contrastive/in_batch.py": [*DIGITS, "tests/test_contrastive.py", "-k", "info_nce or clip or n_pair or negat"],
    "_contrastive/siglip.py": [*DIGITS, "tests/test_contrastive.py", "-k", "siglip"],
    "_contrastive/triplet.py": [*DIGITS, "tests/test_contrastive.py", "-k", "triplet"],
    "_contrastive/pairs.py": [*DIGITS, "tests/test_contrastive.py", "-k", "contrastive or embedding or ranking"],
    "_binary/multilabel.py": [*DIGITS, "-k", "multilabel_soft"],
    "_reweighted/poly.py": [*DIGITS, "-k", "poly_loss"],
    "_reweighted/tempered.py": [*DIGITS, "tests/test_tempered.py", "-k", "tempered"],
    "_segmentation/shares.py": [*CONFORMANCE, "tests/test_segmentation.py", "-k", "dice or tversky or jaccard"],
    "_regression/tasks.py": [*CONFORMANCE, "tests/test_regression.py", "-k", "weighted_sum"],
    "_regression/relative.py": [*DIGITS, "-k", "percentage or squared_log"],
}
_NO_TESTS = (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED)
SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


def sites(tree: ast.AST) -> list[ast.AST]:
    """What can be changed: inside of functions, but no annotations, defaults or docstrings."""
    annotations = [getattr(node, field, None) for node in ast.walk(tree) for field in ("annotation", "returns")]
    seen = {id(node) for annotation in annotations if annotation for node in ast.walk(annotation)}
    found: list[ast.AST] = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in (node for statement in function.body for node in ast.walk(statement)):
                if _can_change(node) and id(node) not in seen:
                    found.append(node)
                    seen.add(id(node))
    return found


def _can_change(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return type(node.op) in SWAPS
    if isinstance(node, ast.Compare):
        return type(node.ops[0]) in SWAPS
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant)
    if isinstance(node, ast.Constant):
        return type(node.value) is float
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "jnp.where" and len(node.args) == 3


def change(node: Any) -> str:
    """The node is changed in place; what was done to it."""
    before = ast.unparse(node)
    if isinstance(node, ast.BinOp):
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd()
    elif isinstance(node, ast.Constant):
        node.value = 2 * node.value + 1
    else:
        node.args[1], node.args[2] = node.args[2], node.args[1]
    return f"{before}  ->  {ast.unparse(node)}"


def mutants(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """What was changed, and the changed source."""
    source = path.read_text(encoding="utf-8")
    for i in range(len(sites(ast.parse(source)))):
        tree = ast.parse(source)
        node: Any = sites(tree)[i]
        line = node.lineno
        what = f"{path.name}:{line}: {change(node)}"
        yield what, ast.unparse(ast.fix_missing_locations(tree))


def survives(name: str, source: str, tests: list[str]) -> bool:
    """Do the tests pass with this source of the file?"""
    with tempfile.TemporaryDirectory() as folder:
        package = pathlib.Path(folder)
        shutil.copytree(ROOT / "jaxloss", package / "jaxloss", ignore=shutil.ignore_patterns("__pycache__"))
        (package / "jaxloss" / name).write_text(source, encoding="utf-8")
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header"]
        files = [str(ROOT / t) if t.startswith("tests/") else t for t in tests]
        command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), *options, *files]
        settings = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        # Python looks for the package in the working directory first.
        code = subprocess.run(command, cwd=folder, env=settings, capture_output=True, check=False).returncode
    if code in _NO_TESTS:
        raise ValueError(f"no tests for {name}: {tests}")
    return code == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="files whose name contains this")
    parser.add_argument("--most", type=int, default=2, help="mutants of each file, drawn at random (2)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    parser.add_argument("--output", type=pathlib.Path, help="where to write the JSON")
    given = parser.parse_args()
    drawn = []
    for name, tests in TARGETS.items():
        if given.only in name:
            every = list(mutants(ROOT / "jaxloss" / name))
            drawn += [(name, tests, m) for m in random.Random(given.seed).sample(every, min(given.most, len(every)))]
    alive = []
    with ThreadPool(os.cpu_count()) as pool:  # of processes, one test at a time each

        def changed(one: Any) -> tuple[str, bool]:
            name, tests, (what, source) = one
            return what, survives(name, source, tests)

        for what, survived in tqdm(pool.imap(changed, drawn), "mutants", len(drawn), unit="mutant"):
            if survived:
                alive.append(what)
                tqdm.write(f"survived: {what}")
    print(f"{len(drawn) - len(alive)} of {len(drawn)} mutants killed")
    if given.output:
        result = {"environment": environment(), "mutants": len(drawn), "survivors": alive}
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(result, indent=1) + "\n")
    return len(alive)


if __name__ == "__main__":
    sys.exit(main())
