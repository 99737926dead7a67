"""Every promise that `jaxloss.testing` checks, for every loss, option set, dtype and transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import CASES

from jaxloss.testing import check_loss

EVERY_PROMISE = ("value", "gradient", "modes", "transformations", "precision", "mask", "reduction", "residuals")
OPTION_SETS = [(c, name) for c in CASES for name in c.options]
pytestmark = pytest.mark.filterwarnings("ignore:.*convex_kl_divergence.*:DeprecationWarning")
CASE = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
CASE_AND_OPTIONS = pytest.mark.parametrize("case, name", OPTION_SETS, ids=lambda x: getattr(x, "name", x))


@pytest.mark.core
@pytest.mark.parametrize("promise", EVERY_PROMISE)
@CASE
def test_defaults(case, promise):
    check_loss(case.fn, case.arguments(), reference=case.reference, promises=[promise])


@pytest.mark.parametrize("promise", ["value", "gradient", "modes", "mask", "residuals"])
@CASE_AND_OPTIONS
def test_options(case, name, promise):
    check_loss(
        case.fn,
        case.arguments(options=name),
        options=case.option_set(name),
        reference=case.reference,
        promises=[promise],
    )


@pytest.mark.parametrize("promise", ["transformations", "precision", "reduction"])
@pytest.mark.parametrize("case", [c for c in CASES if "everything" in c.options], ids=lambda c: c.name)
def test_every_option_at_once(case, promise):
    check_loss(case.fn, case.arguments(options="everything"), options=case.option_set("everything"), promises=[promise])


@pytest.mark.parametrize("promise", ["value", "gradient", "modes", "transformations", "mask", "reduction", "residuals"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
@CASE
def test_half_precision(case, dtype, promise):
    check_loss(case.fn, case.arguments(dtype), reference=case.reference, promises=[promise])


@pytest.mark.parametrize("promise", ["value", "gradient", "modes", "mask", "reduction"])
@CASE
def test_float64(case, promise):
    with jax.enable_x64(True):
        check_loss(case.fn, case.arguments(np.float64), reference=case.reference, rtol=1e-11, promises=[promise])
