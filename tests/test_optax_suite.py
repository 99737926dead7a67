"""optax's own tests of its losses, from the installed wheel, with each of its public functions replaced by ours.

What contradicts the contract of this library is expected to fail, by name and with the reason.
"""

import contextlib
import doctest
import importlib
import pkgutil
import types
import unittest
from unittest import mock

import jax
import numpy as np
import optax.losses
import pytest

import jaxloss

MASKED_LABELS = "a target that a masked-out class has costs infinity here; optax drops it, and the loss with it"

# Where our contract differs from optax.
DIFFERENT = {
    "_classification_test.PolyLossTest.test_mask0": MASKED_LABELS,
    "_classification_test.PolyLossTest.test_mask1": MASKED_LABELS,
    "_classification_test.SoftmaxCrossEntropyTest.test_mask0": MASKED_LABELS,
    "_classification_test.SoftmaxCrossEntropyTest.test_mask1": MASKED_LABELS,
    "_segmentation_test.DiceLossTest.test_probability_validation": "a check of values cannot be traced",
}

NAMES = [m.name for m in pkgutil.iter_modules(optax.losses.__path__)]
SUITES = [n for n in NAMES if n.endswith("_test")]
MODULES = [importlib.import_module(f"optax.losses.{n}") for n in NAMES if n not in SUITES]
PUBLIC = [n for n, f in vars(optax.losses).items() if callable(f) and not n.startswith("_")]


def ours(module):
    return {n: getattr(jaxloss, n) for n in PUBLIC if n in vars(module)}


def load(name):
    """A module of tests that sees our functions, and, where it uses it, optax's own code beside them."""
    with contextlib.ExitStack() as stack:
        for module in (*MODULES, optax.losses):  # tests bind some of the functions while they are defined
            stack.enter_context(mock.patch.dict(vars(module), ours(module)))
        tests = importlib.import_module(f"optax.losses.{name}")
        seen = {k: v for k, v in vars(tests).items() if v in MODULES or v is optax}
        for attribute, module in seen.items():
            copy = types.ModuleType(module.__name__)
            vars(copy).update(vars(module))
            setattr(tests, attribute, copy)
        if optax in seen.values():
            tests.optax.losses = types.SimpleNamespace(**vars(optax.losses))
    return tests


def flat(suite):
    for test in suite:
        yield from flat(test) if isinstance(test, unittest.TestSuite) else (test,)


def collected():
    """All but the doctest of a module, which calls what that module holds."""
    loader = unittest.TestLoader()
    tests = [test for name in SUITES for test in flat(loader.loadTestsFromModule(load(name)))]
    return [test for test in tests if not isinstance(test, doctest.DocTestCase)]


def name_of(test):
    return test.id().removeprefix("optax.losses.").split(" ")[0]  # what follows names functions by their address


TESTS = {name_of(test): test for test in collected()}


def test_every_public_name_is_replaced():
    assert all(callable(getattr(jaxloss, n, None)) for n in PUBLIC)


def test_all_of_them_are_here():
    assert len(TESTS) >= 178
    assert set(DIFFERENT) <= set(TESTS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TESTS)
def test_of_optax(name):
    np.random.seed(0)  # these tests draw from the global generator
    result = unittest.TestResult()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        TESTS[name].run(result)
    problems = [text for _, text in [*result.failures, *result.errors]]
    if name in DIFFERENT:
        assert problems, f"{name} passes: it is not different"
    else:
        assert not problems, problems[0]
