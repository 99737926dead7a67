"""`jax.export` with an open batch, whose length is a symbol: a loss may compare only what is known."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import one_device
import pytest
from jax import export
from registry import ALIASES, BUILT_APART, BY_NAME, CASES, value_and_gradient

import jaxloss

NAMES = [c.name for c in CASES if c.name not in ALIASES]


def differences(names):
    """Of each loss, exported for any batch and called with twice that of the registry, or what was raised."""
    found = {}
    for name in names:
        case = BY_NAME[name]
        args = [jnp.asarray(a) for a in case.arguments()]
        batch = args[0].shape[0]
        (symbol,) = export.symbolic_shape("batch")
        open_ = [a.shape[:1] == (batch,) for a in args]
        shapes = [(symbol, *a.shape[1:]) if o else a.shape for o, a in zip(open_, args, strict=True)]
        f = functools.partial(value_and_gradient, case.fn)
        try:
            given = [jax.ShapeDtypeStruct(s, a.dtype) for s, a in zip(shapes, args, strict=True)]
            exported = export.export(jax.jit(f))(*given)
            twice = [jnp.concatenate([a, a]) if o else a for o, a in zip(open_, args, strict=True)]
            pairs = zip(exported.call(*twice), jax.jit(f)(*twice), strict=True)
            found[name] = max(float(np.max(np.abs(got - want) / np.max(np.abs(want)))) for got, want in pairs)
        except (TypeError, ValueError) as error:
            found[name] = str(error)[:200]
    return found


@pytest.mark.parametrize("devices", ["several", "one"])
def test_open_batch(pytestconfig, devices):
    names = NAMES if pytestconfig.getoption("--long") or devices == "one" else sorted(BUILT_APART)
    if devices == "several":
        found = differences(names)
    else:
        code = f"import json, test_exported\nprint(json.dumps(test_exported.differences({names})))"
        found = json.loads(one_device.output_of(code))
    assert len(found) == len(names)
    assert {name: d for name, d in found.items() if not (isinstance(d, float) and d < 2e-6)} == {}


def test_tokens_of_a_linear_loss():
    """Chunks need their number; all logits at once do not."""
    (tokens,) = export.symbolic_shape("tokens")
    shapes = ((tokens, 8), jnp.float32), ((8, 20), jnp.float32), ((tokens,), jnp.int32)
    args = [jax.ShapeDtypeStruct(*s) for s in shapes]

    def loss(method):
        return jax.jit(lambda h, w, y: jaxloss.linear_cross_entropy(h, w, y, method=method))

    with pytest.raises(ValueError, match=r"method='lean' needs the number of tokens, which is tokens .*\"dense\""):
        export.export(loss("lean"))(*args)
    rng = np.random.default_rng(0)
    given = [
        rng.standard_normal((6, 8)).astype(np.float32),
        rng.standard_normal((8, 20)).astype(np.float32),
        np.arange(6, dtype=np.int32),
    ]
    found = export.export(loss("dense"))(*args).call(*given)
    np.testing.assert_allclose(found, loss("lean")(*given), rtol=2e-6)
