"""Gradients of short rows in half precision on one CPU device, in one loop over all entries (`_core/entries.py`)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import one_device
import pytest
from compiled import traced_in

import jaxloss
from jaxloss._core import entries
from jaxloss._testing.subject import jit_once

ROWS, CLASSES = 6, 11
KEEP = np.random.default_rng(1).random((ROWS, CLASSES)) < 0.7
KEEP[:, 0] = True
OPTIONS = {
    "default": {},
    "smoothing and z-loss": {"label_smoothing": 0.1, "z_loss": 0.01},
    "temperature and softcap": {"temperature": jnp.float32(0.7), "logit_softcap": jnp.float32(3.0)},
    "classes kept": {"where": KEEP},
    "the same classes in all rows": {"where": KEEP[:1]},
    "rows kept": {"where": KEEP[:, 1], "reduction": "mean"},
    "an infinite logit": {},
    "every row of them NaN": {},
}


def arguments(targets, options, dtype):
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, CLASSES)) * 3
    if options == "an infinite logit":
        x[0, 2], x[1, 3] = np.inf, -np.inf
    if options == "every row of them NaN":
        x[:, 4] = np.nan
    soft = random.dirichlet(np.ones(CLASSES), ROWS) * KEEP
    y = random.integers(0, CLASSES, ROWS).astype(np.int32) * KEEP[:, 1] if targets == "labels" else soft
    return jnp.asarray(x, dtype), jnp.asarray(y, None if targets == "labels" else dtype)


def results(targets, name, dtype):
    """Gradients in the arguments and options, alone and under vmap, and a derivative of theirs along the logits."""
    options = OPTIONS[name]
    x, y = arguments(targets, name, dtype)
    loss = {
        "labels": jaxloss.softmax_cross_entropy_with_integer_labels,
        "distributions": jaxloss.softmax_cross_entropy,
    }[targets]
    numbers = {k: v for k, v in options.items() if isinstance(v, jax.Array)}

    def total(x, numbers):
        return jnp.sum(loss(x, y, **{**options, **numbers}))

    gradients = jax.grad(total, (0, 1))

    def everything(x, numbers):
        moved = jax.jvp(lambda x: gradients(x, numbers), (x,), (jnp.ones_like(x),))[1]
        return gradients(x, numbers), moved, jax.vmap(gradients, (0, None))(jnp.stack([x, x + 1, 2 * x]), numbers)

    return jax.tree.map(np.asarray, jit_once(everything)(x, numbers)), str(jax.make_jaxpr(gradients)(x, numbers))


SETS = [(targets, name) for name in OPTIONS for targets in ("labels", "distributions")]
SHORT = [("labels", "temperature and softcap"), ("labels", "an infinite logit"), ("distributions", "classes kept")]


@pytest.mark.parametrize(
    "targets, name", [pytest.param(*s, marks=[] if s in SHORT else pytest.mark.long) for s in SETS]
)
def test_same_as_by_rows(monkeypatch, targets, name):
    found = {}
    for by_entries in (False, True):
        traced_in(("entries", by_entries))
        monkeypatch.setattr(entries, "suit", lambda logits, axis, on=by_entries: on and logits.ndim > 1)
        found[by_entries], text = results(targets, name, jnp.float16)
        assert ("cond[" in text) == by_entries
    traced_in(None)
    for got, want in zip(jax.tree.leaves(found[True]), jax.tree.leaves(found[False]), strict=True):
        got, want = got.astype(np.float64), want.astype(np.float64)
        largest = np.max(np.abs(want[np.isfinite(want)]), initial=0)
        np.testing.assert_allclose(got, want, rtol=2**-10, atol=2**-24 + 4e-6 * largest)  # a last bit; a sum's order


def measured():
    """Of real sizes on one device: does the program branch, what it keeps, and how far it is from the plain softmax."""
    found = {}
    for classes in (8, 10, 15, 16):
        random = np.random.default_rng(0)
        x = jnp.asarray(random.normal(size=(6400, classes)), jnp.bfloat16)
        y = jnp.asarray(random.integers(0, classes, 6400), jnp.int32)
        gradient = jax.jit(jax.grad(lambda x, y: jnp.mean(jaxloss.softmax_cross_entropy_with_integer_labels(x, y))))
        program = gradient.lower(x, y).compile()
        want = (jax.nn.softmax(x.astype(jnp.float32)) - jax.nn.one_hot(y, classes)) / 6400
        error = jnp.max(jnp.abs(program(x, y).astype(jnp.float32) - want) / jnp.abs(want))
        kept = program.memory_analysis().temp_size_in_bytes / x.nbytes
        found[classes] = "conditional(" in program.as_text(), kept, float(error)
    return found


def test_on_one_device():
    found = json.loads(one_device.output_of("import json, test_entries as t; print(json.dumps(t.measured()))"))
    assert {int(n): branches for n, (branches, _, _) in found.items()} == {8: False, 10: True, 15: True, 16: False}
    for _, kept, error in found.values():
        assert kept < 1.3  # four numbers in float32 for each row
        assert error < 2**-8  # a rounding to bfloat16
