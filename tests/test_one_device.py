"""On one CPU device rules run in lanes and blocks; the other tests have several devices, where they are plain.

What comes out must be the same, at sizes where there is more than one block.
"""

import jax
import jax.numpy as jnp
import numpy as np
import one_device
import pytest
from registry import ALIASES, BY_NAME, CASES

SHAPES = ((600, 120), (70, 1001))  # one axis is as many blocks as the other; and one whose length fits no lanes
TOLERANCE = 4e-6  # 32 ULP of the largest entry: sums of hundreds in another order, over a temperature; 2.5e-6 is seen
NAMES = [c.name for c in CASES if c.name not in ALIASES]


def computed(name, option_set, shape, dtype):
    """The loss, and the gradients of the sum of all, as float64."""
    case = BY_NAME[name]
    args, options = case.arguments(dtype, option_set, shape), case.option_set(option_set, shape)
    moving = tuple(i for i, a in enumerate(args) if jnp.issubdtype(a.dtype, jnp.floating))

    def both(*args):
        def total(*args):
            losses = case.fn(*args, **options)
            return jnp.sum(losses), losses

        (_, losses), gradients = jax.value_and_grad(total, moving, has_aux=True)(*args)
        return losses, *gradients

    return [np.asarray(x.astype(jnp.float32), np.float64) for x in jax.jit(both)(*args)]


def save(file, names, option_set, shape, dtype):
    assert jax.device_count() == 1
    found = {name: computed(name, option_set, shape, dtype) for name in names}
    np.savez(file, **{f"{name} {i}": x for name, xs in found.items() for i, x in enumerate(xs)})


@pytest.mark.filterwarnings("ignore:.*convex_kl_divergence.*:DeprecationWarning")
@pytest.mark.parametrize(
    "option_set, shape, dtype",
    [
        ("default", SHAPES[0], "float32"),
        pytest.param("default", SHAPES[1], "float32", marks=pytest.mark.long),
        pytest.param("default", SHAPES[0], "bfloat16", marks=pytest.mark.long),
        pytest.param("everything", SHAPES[0], "float32", marks=pytest.mark.long),
    ],
    ids=["default", "odd sizes", "bfloat16", "everything"],
)
def test_same_as_on_several(tmp_path, option_set, shape, dtype):
    names = [n for n in NAMES if option_set == "default" or option_set in BY_NAME[n].options]
    given = str(tmp_path / "alone.npz"), names, option_set, shape, dtype
    one_device.output_of(f"import test_one_device as t; t.save(*{given!r})")
    alone = np.load(given[0])
    eps = float(jnp.finfo(dtype).eps)
    wrong = {}
    for name in names:
        for i, want in enumerate(computed(name, option_set, shape, dtype)):
            got, size = alone[f"{name} {i}"], np.max(np.abs(want), initial=1e-30)
            if got.shape != want.shape:
                wrong[f"{name} {i}"] = got.shape, want.shape
                continue
            rounding = 2 * eps * np.abs(want) if i else 0  # gradients are rounded to the dtype
            error = np.max(np.abs(got - want) - rounding, initial=0) / size
            if not error <= TOLERANCE:
                wrong[f"{name} {i}"] = error
    assert not wrong
