"""Every promise that `jaxloss.testing` checks, for every loss, option set, dtype and transformation.

What is dear to compile and hangs on how a loss is built, rather than on its formula, is checked on one loss of each way
to build one; on all of them with `--long`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import ALIASES, BUILT_APART, CASES, ENGINE, KINDS, apart, only

from jaxloss.testing import check_loss

PROMISES = ("value", "gradient", "modes", "transformations", "precision", "mask", "reduction")
CENTRAL = {"value": {c.name for c in CASES}, "gradient": BUILT_APART, "modes": ENGINE}  # for the suite's core
DEAR = ("modes", "transformations", "reduction", "precision")  # to compile
pytestmark = pytest.mark.filterwarnings("ignore:.*convex_kl_divergence.*:DeprecationWarning")


OWN = [c for c in CASES if c.name not in ALIASES]  # an alias runs the same code; for it the defaults are enough
OPTION_SETS = [(c, name) for c in CASES for name in c.options]
# What becomes of axes and of masks of other shapes is one code for all losses. The first axis is enough of the others.
SHARED = {"two axes", "all axes", "columns kept", "broadcast targets"}


def by_itself(case, name):
    """An option set, in the long run alone where the short one has its options among others."""
    options, together = case.options[name], case.options.get("everything", {})
    own = name in case.shapes or name in case.makers or name == "everything" or not options.keys() <= together.keys()
    often = case.name in BUILT_APART if name in SHARED else own or case.name in KINDS
    return pytest.param(case, name, marks=[pytest.mark.long] * (not often))


def parametrize(names, values):
    return pytest.mark.parametrize(names, values, ids=lambda x: getattr(x, "name", x))


def check(case, promise, dtype=np.float32, name="default", **given):
    args, options = case.arguments(dtype, name), case.option_set(name)
    given["coupled"] = case.kind == "batch"
    check_loss(case.fn, args, options=options, reference=case.reference, promises=[promise], **given)


def marks(case, promise):
    # How a loss adds up is the same code for all, and its programs are many.
    if promise in DEAR and case.name not in (BUILT_APART if promise == "reduction" else KINDS):
        return [pytest.mark.long]
    return [pytest.mark.core] * (case.name in CENTRAL.get(promise, ()))


DEFAULTS = [pytest.param(c, p, marks=marks(c, p)) for c in CASES for p in PROMISES]


@parametrize("case, promise", DEFAULTS)
def test_defaults(case, promise):
    check(case, promise)


@parametrize("case, name", [by_itself(c, n) for c, n in OPTION_SETS])
def test_options(case, name):
    check(case, "gradient", name=name)  # and the value beside it


@parametrize("case, name", [apart(c, n) for c, n in OPTION_SETS if "axis" in c.options[n]])
def test_masks_along_other_axes(case, name):
    check(case, "mask", name=name)


@parametrize("case", [only(KINDS, c) for c in CASES if "everything" in c.options])
def test_mask_under_every_option(case):
    check(case, "mask", name="everything")


@pytest.mark.long  # the short run has the exact Hessian of these options instead
@pytest.mark.parametrize("promise", ["modes", "transformations", "precision"])
@parametrize("case", [c for c in CASES if "everything" in c.options])
def test_every_option_at_once(case, promise):
    check(case, promise, name="everything")


@parametrize("case, name", [apart(c, n) for c, n in OPTION_SETS if n.startswith("broadcast")])
def test_what_devices_share(case, name):
    """Under shard_map the cotangent of a replicated argument is the sum over the devices."""
    check(case, "transformations", name=name)


@parametrize("case", [apart(c) for c in OWN])
def test_mask_in_bfloat16(case):
    check(case, "mask", jnp.bfloat16)


@parametrize("case", [apart(c) for c in OWN])
def test_mask_in_float16(case):
    """Values and gradients are those of float32, as for bfloat16, by "precision"."""
    check(case, "mask", jnp.float16)


@pytest.mark.parametrize("promise", ["modes", pytest.param("transformations", marks=pytest.mark.long)])
@parametrize("case", [only(ENGINE, c) for c in OWN])
def test_bfloat16(case, promise):
    check(case, promise, jnp.bfloat16)


@parametrize("case", [only(KINDS, c) for c in OWN])
def test_float64(case):
    with jax.enable_x64(True):  # as exact as the numerical derivative: 2e-10 for the logarithm of a small target
        check(case, "gradient", np.float64, rtol=1e-10)


@parametrize("case", CASES)
def test_residuals(case):
    _check_residuals(case, "default", jnp.float32)


@parametrize(
    "case, name",
    [*((c, "default") for c in CASES), *(only(KINDS, c, n) for c, n in OPTION_SETS if n not in c.shapes)],
)
def test_residuals_in_bfloat16(case, name):
    """What is kept in float32 for its own sake is larger there, so that this is the stricter one of the two."""
    _check_residuals(case, name, jnp.bfloat16)


def _check_residuals(case, name, dtype):
    """Many classes, so that a copy in float32 cannot hide behind the numbers for each row; nothing is compiled."""
    options = case.option_set(name, (8, 129))
    check_loss(case.fn, case.arguments(dtype, name, (8, 129)), options=options, promises=["residuals"])
