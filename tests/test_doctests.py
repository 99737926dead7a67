"""Every example in a docstring runs, in the suite's strict settings, and every public function has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
from printed import Checker, same

import jaxloss

MODULES = ["jaxloss", *(m.name for m in pkgutil.walk_packages(jaxloss.__path__, "jaxloss."))]
PUBLIC = [n for n in jaxloss.__all__ if callable(getattr(jaxloss, n))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    runner = doctest.DocTestRunner(Checker(), optionflags=doctest.ELLIPSIS)
    for test in doctest.DocTestFinder().find(importlib.import_module(name)):
        runner.run(test)
    assert runner.failures == 0


def test_a_wrong_digit_is_seen():
    assert same("[1.0000001 2.]", "[1.        2.]")
    assert not same("[1.0001 2.]", "[1. 2.]")
    assert not same("[1. 2.]", "[1. 2. 3.]")
    assert not same("-1.0", "1.0")
    assert not same("nan", "1.0")


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_has_an_example_that_runs(name):
    value = getattr(jaxloss, name)
    module = importlib.import_module(value.__module__)
    found = {t.name for t in doctest.DocTestFinder().find(module) if t.examples}
    assert f"{module.__name__}.{value.__name__}" in found, f"jaxloss.{name} has no doctest, or doctest does not find it"


@pytest.mark.parametrize("name", PUBLIC)
def test_help_shows_a_plain_signature(name):
    text = str(inspect.signature(getattr(jaxloss, name)))
    assert "*args" not in text
    assert "**kwargs" not in text
