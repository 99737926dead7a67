"""What accelerators run, on the CPU: where XLA:CPU has a form of its own, no other test sees the one for the others."""

import functools

import jax
import jax.numpy as jnp
import pytest
import registry_linear
import test_stable
from compiled import traced_in
from registry import ALIASES, BY_NAME, CASES, ENGINE, KINDS, only
from test_conformance import check
from test_conformance_limits import as_arrays, assert_edge, floating, place

from jaxloss._core import devices

OWN = [c for c in CASES if c.name not in ALIASES]
LINEAR = registry_linear.CASES
CENTRAL = "softmax_cross_entropy_with_integer_labels"


@pytest.fixture(autouse=True)
def form(monkeypatch):
    """The library takes the CPU for a GPU, in all that is traced here and nowhere else."""
    traced_in("accelerator")
    devices.products_in_float32.cache_clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    yield
    devices.products_in_float32.cache_clear()


def parametrize(names, values):
    return pytest.mark.parametrize(names, values, ids=lambda x: getattr(x, "name", x).replace(" ", "_"))


def test_another_form_is_traced(monkeypatch):
    """Or the tests below would say nothing, as they would of programs that JAX has kept."""

    def program():
        case = BY_NAME[CENTRAL]
        return jax.jit(functools.partial(losses_and_gradients, case, {})).lower(*case.arguments()).as_text()

    accelerator = program()
    monkeypatch.undo()
    traced_in(None)
    assert "bitcast_convert" in program()  # the exponential by parts
    assert "bitcast_convert" not in accelerator


@parametrize("case", [pytest.param(c, marks=[pytest.mark.core] * (c.name == CENTRAL)) for c in (*OWN, *LINEAR)])
def test_defaults(case):
    check(case, "gradient")  # and the value beside it


@pytest.mark.long
@parametrize("case, name", [(c, name) for c in (*OWN, *LINEAR) for name in c.options])
def test_options(case, name):
    check(case, "gradient", name=name)


@parametrize("case", [only(ENGINE, c) for c in OWN])
def test_half_precision(case):
    """Whose values and gradients are those of float32."""
    check(case, "precision")


@parametrize("case", [only(KINDS, c) for c in OWN])
def test_mask(case):
    """What is dropped adds nothing, even if NaN."""
    check(case, "mask")


@parametrize("case", [c for c in OWN if c.edges])
def test_edges(case):
    programs = {}  # edges of the same options and shapes share one
    for edge in case.edges:
        options = tuple(edge.options.items())
        if options not in programs:
            programs[options] = jax.jit(functools.partial(losses_and_gradients, case, edge.options))
        losses, gradients = programs[options](*as_arrays(edge, jnp.float32))
        assert_edge(losses, edge.value, jnp.float32, f"value, {edge.name}", ulps=4)
        wants = [edge.gradients] * len(gradients) if isinstance(edge.gradients, str) else edge.gradients
        for k, (got, want) in enumerate(zip(gradients, wants, strict=True)):
            assert_edge(got, want, jnp.float32, f"gradient {k}, {edge.name}", ulps=4)


def test_row_statistics():
    """Beside what losses ask of them at their edges."""
    test_stable.test_edges(None, 60)  # of thousands XLA:CPU drops NaN, which is for its own form to mend
    test_stable.test_confident_rows_keep_their_digits(None, 30.0)
    test_stable.test_many_classes(None)
    test_stable.test_sums_and_maxima_of_one_loop(None, 127, jnp.bfloat16)
    test_stable.test_float64_stays(None)


def losses_and_gradients(case, options, *args):
    """And the gradients of their sum by every floating argument."""
    args = [*map(jnp.asarray, args)]
    moving = floating(args)
    losses, pullback = jax.vjp(lambda *m: case.fn(*place(args, moving, m), **options), *(args[i] for i in moving))
    return losses, pullback(jnp.ones_like(losses))
