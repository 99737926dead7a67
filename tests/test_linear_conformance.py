"""The promises of every loss, for those without logits: each way to compute them, in chunks and blocks that overlap."""

import pytest
import test_conformance_accuracy as accuracy
from linear_formulas import blocks_of
from registry_linear import CASES
from test_conformance import check

PROMISES = ("value", "gradient", "modes", "transformations", "mask", "reduction", "residuals")
NAMED = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.replace(" ", "_"))
OPTION_SETS = [(c, name) for c in CASES for name in c.options]


small_blocks = blocks_of(3)  # 7 classes in three blocks


OFTEN = ("lean cross-entropy", "own loss")  # the dear promises, where many methods share the same loops


def mark(case, promise):
    return [pytest.mark.long] * (promise in ("modes", "transformations", "reduction") and case.name not in OFTEN)


@pytest.mark.parametrize(
    "case, promise",
    [pytest.param(c, p, marks=mark(c, p)) for c in CASES for p in PROMISES],
    ids=lambda x: getattr(x, "name", x).replace(" ", "_"),
)
def test_defaults(case, promise):
    check(case, promise)


@pytest.mark.long  # all at once they are in test_hessian
@pytest.mark.parametrize("case, name", OPTION_SETS, ids=lambda x: getattr(x, "name", x).replace(" ", "_"))
def test_options(case, name):
    check(case, "value", name=name)
    check(case, "gradient", name=name)


@pytest.mark.parametrize("promise", ["modes", "transformations", "mask"])
@pytest.mark.long
@NAMED
def test_every_option_at_once(case, promise):
    check(case, promise, name="everything")


@NAMED
def test_hessian(case):
    accuracy.test_hessian(case, "everything")
