"""Every public loss has a case, a complete docstring and the signature that users of optax expect."""

import inspect
import re

import optax
import pytest
import registry
from registry import BY_NAME, CASES, LINEAR, UTILITIES

import jaxloss

PUBLIC = sorted(registry.public_names())
LOSSES = [n for n in PUBLIC if n not in UTILITIES]
DOCUMENTED = [*LOSSES, *sorted(LINEAR)]
POSITIONAL = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)


def parameters(fn):
    return list(inspect.signature(fn).parameters.values())


@pytest.mark.core
def test_every_public_loss_has_a_case():
    assert {name.split()[0] for name in BY_NAME} == set(LOSSES)
    assert len(BY_NAME) == len(CASES)


def test_utilities_exist():
    assert set(PUBLIC) >= UTILITIES


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_is_complete(name):
    text = inspect.getdoc(getattr(jaxloss, name))
    assert re.match(r"\S.+", text)
    for section in ("Reference: ", ">>> "):
        assert section in text, f"{name} lacks {section!r}"
    sections = ("Args:", "Returns:", "Raises:") if name != "custom_vjp" else ("Args:",)
    for section in sections:
        assert re.search(rf"^{section}", text, re.MULTILINE), f"{name} lacks {section!r}"
    if name in DOCUMENTED:
        assert "$" in text, f"{name} shows no formula"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_parameter_is_documented(name):
    text = inspect.getdoc(getattr(jaxloss, name))
    arguments = re.search(r"^Args:\n((?:  .*\n|\n)+)", text, re.MULTILINE).group(1)
    described = {n.strip() for line in re.findall(r"^  (\w[\w, ]*):", arguments, re.MULTILINE) for n in line.split(",")}
    assert described >= {p.name for p in parameters(getattr(jaxloss, name))}


@pytest.mark.parametrize("case", [c for c in CASES if c.kind != "total"], ids=lambda c: c.name)
def test_common_keywords(case):
    given = {p.name: p for p in parameters(case.fn)}
    assert {"where", "weights", "reduction"} <= given.keys()
    assert given["reduction"].default == "none"
    assert given["where"].default is None
    assert given["weights"].default is None
    data = max(len(case.arguments(options=name)) for name in ("default", *case.options))
    theirs = parameters(getattr(optax.losses, case.optax)) if case.optax else []
    allowed = {"where", "axis", *(p.name for p in theirs if p.kind in POSITIONAL)}
    for i, (name, p) in enumerate(given.items()):
        if i >= data and name not in allowed:
            assert p.kind is inspect.Parameter.KEYWORD_ONLY, f"{name} must be keyword-only"
    assert given["reduction"].kind is given["weights"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.core
@pytest.mark.parametrize("name", [n for n in PUBLIC if hasattr(optax.losses, n)])
def test_drop_in_for_optax(name):
    ours = {p.name: p for p in parameters(getattr(jaxloss, name))}
    theirs = parameters(getattr(optax.losses, name))
    for p, mine in zip(theirs, ours.values(), strict=False):
        if p.kind in POSITIONAL:
            assert (mine.name, mine.kind) == (p.name, p.kind), f"optax has {p} here"
    for p in theirs:
        assert p.name in ours
        assert ours[p.name].default == p.default, f"optax has {p}"
    extra = [p for n, p in ours.items() if n not in {q.name for q in theirs}]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is not p.empty for p in extra)


@pytest.mark.parametrize("name", [c.optax for c in CASES if c.optax])
def test_cases_name_functions_of_optax(name):
    assert hasattr(optax.losses, name)


@pytest.mark.parametrize("name", [n for n in LOSSES if hasattr(optax.losses, n)])
def test_what_optax_has_is_compared_with_it(name):
    assert registry.BY_NAME[name].optax == name
