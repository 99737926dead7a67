"""Cross-entropy of labels on one CPU device, whose statistics are relative to the label (`_core/label_rows.py`)."""

import itertools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import one_device
import pytest

import jaxloss

ROWS, CLASSES = 96, 700
SHORT = 1640, 21  # in three slices, of which the last begins in the one before
SCALES = (1e-3, 1, 10, 100, 1e6)  # up to 10 relative to a label, beyond relative to the maxima
LABELS = ("random", "largest", "smallest", "first", "last")
EDGES = {  # of rows among others: what to write into the logits before, at and after the label
    "nan": (np.nan, None, None),
    "nan at the label": (None, np.nan, None),
    "inf": (np.inf, None, None),
    "inf at the label": (None, np.inf, None),
    "two inf": (np.inf, None, np.inf),
    "inf at the label and another": (None, np.inf, np.inf),
    "-inf": (-np.inf, None, -np.inf),
    "-inf at the label": (None, -np.inf, None),
    "huge": (3e38, None, -3e38),
    "huge at the label": (None, 3e38, None),
    "-huge at the label": (None, -3e38, None),
    "far above": (200.0, None, None),
}


def loss(x, labels, **options):
    return jaxloss.softmax_cross_entropy_with_integer_labels(x, labels, **options)


@jax.jit
def both(x, labels):
    """The losses and the gradient of their sum."""
    losses, pull = jax.vjp(lambda x: loss(x, labels), x)
    return losses, pull(jnp.ones_like(losses))[0]


def logits(scale, kind, dtype="float32", seed=0):
    """Logits, rounded to the dtype, and labels."""
    random = np.random.default_rng(seed)
    x = np.array(jnp.asarray(random.normal(size=(ROWS, CLASSES)) * scale, dtype).astype(jnp.float32))
    at = {"largest": x.argmax(1), "smallest": x.argmin(1), "random": random.integers(0, CLASSES, ROWS)}
    at |= {"first": np.zeros(ROWS, int), "last": np.full(ROWS, CLASSES - 1)}
    return x, at[kind].astype(np.int32)


def expected(x, labels):
    """Losses and the gradient of their sum, in float64."""
    x, rows = x.astype(np.float64), np.arange(len(x))
    gap = x - x[rows, labels][:, None]
    top = gap.max(1, keepdims=True)
    e = np.exp(gap - top)
    e[rows, labels] = 0
    others, own = e.sum(1), np.exp(-top[:, 0])
    losses = np.where(own > 0.5, np.log1p(others / np.maximum(own, 0.5)), top[:, 0] + np.log(others + own))
    gradient = e / (others + own)[:, None]
    gradient[rows, labels] = -others / (others + own)
    return losses, gradient


def accuracy():
    """The largest relative errors of values and gradients, where the exact ones are normal."""
    found = {}
    for dtype, scale, kind in itertools.product(("float32", "bfloat16"), SCALES, LABELS):
        x, labels = logits(scale, kind, dtype)
        pairs = list(zip(both(jnp.asarray(x, dtype), labels), expected(x, labels), strict=True))
        for got, want in pairs[: 1 if dtype == "bfloat16" else 2]:  # in half precision the gradient is rounded
            normal = np.abs(want) > 2**-126
            error = np.abs(np.asarray(got, np.float64) - want)[normal] / np.abs(want)[normal]
            found[f"{dtype} {scale} {kind} {np.ndim(got)}"] = float(np.max(error, initial=0))
    return {k: e for k, e in found.items() if not e < 1e-6}


def with_edge(edge):
    """A batch with such a row in the middle, and its labels."""
    x, labels = logits(1, "random")
    labels[ROWS // 2] = CLASSES // 2
    for place, value in zip((CLASSES // 4, CLASSES // 2, CLASSES - 3), EDGES[edge], strict=True):
        if value is not None:
            x[ROWS // 2, place] = value
    return x, labels


def edges():
    """Losses and gradients of each batch with an edge."""
    found = {}
    for edge in EDGES:
        x, labels = with_edge(edge)
        found[edge] = [np.asarray(a).tolist() for a in both(x, labels)]
    return found


def options_of():
    x, labels = logits(5, "random")
    labels[::7] = -100
    kept = np.random.default_rng(1).uniform(size=x.shape) < 0.8
    weights = np.linspace(0, 2, CLASSES, dtype=np.float32)
    known = np.where(labels < 0, 3, labels)
    return {
        "ignore_index": (x, labels, dict(ignore_index=-100)),
        "rows": (x, known, dict(where=labels >= 0)),
        "classes": (x, known, dict(where=kept)),
        "temperature": (x, known, dict(temperature=0.5)),
        "softcap": (x, known, dict(logit_softcap=3.0, temperature=2.0)),
        "class weights": (x, known, dict(class_weights=weights)),
        "axis": (np.ascontiguousarray(x.T), known, dict(axis=0)),
        "middle axis": (x.reshape(8, -1, CLASSES).swapaxes(1, 2).copy(), known.reshape(8, -1), dict(axis=1)),
        "unknown labels": (x, labels, {}),
    }


def with_options():
    found = {}
    for name, (x, labels, options) in options_of().items():

        def total(x, y, options=options):
            losses = loss(x, y, **options)
            return jnp.sum(losses), losses

        (_, losses), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x, labels)
        found[name] = [np.asarray(losses).tolist(), np.asarray(gradient).tolist()]
    return found


def modes(scale):
    """vmap against a loop, a tangent, a Hessian product, and wide labels."""
    x, labels = logits(scale, "random")
    several, those = np.stack([x, x[::-1] * 2]), np.stack([labels, labels[::-1]])
    program = jax.jit(jax.vmap(loss)).lower(several, those).compile()
    both = program(several, those)
    one_by_one = jnp.stack([loss(a, b) for a, b in zip(several, those, strict=True)])
    step = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    _, tangent = jax.jvp(lambda x: loss(x, labels), (x,), (step,))
    slope = jax.grad(lambda x: jnp.sum(loss(x, labels)))
    product = jax.jit(lambda x, step: jax.jvp(slope, (x,), (step,))[1])(x, step)
    other = jax.jit(lambda x, step: jax.grad(lambda x: jnp.vdot(slope(x), step))(x))(x, step)
    p = expected(x, labels)[1]
    p[np.arange(ROWS), labels] += 1
    moved = np.sum(p * step, 1) - step[np.arange(ROWS), labels]
    hessian = p * (step - np.sum(p * step, 1, keepdims=True))
    with jax.enable_x64(True):
        wide = loss(jnp.asarray(x), jnp.asarray(labels, jnp.int64))
    return {
        "branches": "conditional" in program.as_text(),
        "vmap": float(jnp.max(jnp.abs(both - one_by_one) / jnp.maximum(one_by_one, 1e-30))),
        "wide labels": float(jnp.max(jnp.abs(wide - loss(x, labels)))),
        "jvp": float(np.max(np.abs(tangent - moved)) / np.max(np.abs(moved))),
        "forward over reverse": float(np.max(np.abs(product - hessian)) / np.max(np.abs(hessian))),
        "reverse over reverse": float(np.max(np.abs(other - hessian)) / np.max(np.abs(hessian))),
    }


def alone(call):
    code = "import json, jax, test_label_rows as t; assert jax.device_count() == 1"
    return json.loads(
        one_device.output_of(f"{code}; t.ROWS, t.CLASSES = {ROWS}, {CLASSES}; print(json.dumps(t.{call}))")
    )


@pytest.fixture(params=[(ROWS, CLASSES), SHORT], ids=["long rows", "short rows"], autouse=True)
def shape(request, monkeypatch):
    for name, size in zip(("ROWS", "CLASSES"), request.param, strict=True):
        monkeypatch.setattr(sys.modules[__name__], name, size)


def test_accuracy():
    assert alone("accuracy()") == {}


def test_edges_are_those_of_the_plain_form():
    """... which the suite's several devices take; and no other row sees them."""
    for edge, got in alone("edges()").items():
        x, labels = with_edge(edge)
        for a, b in zip(got, both(x, labels), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6, err_msg=edge)


def test_options_are_those_of_the_plain_form():
    found = alone("with_options()")
    for name, want in with_options().items():
        for a, b in zip(found[name], want, strict=True):
            np.testing.assert_allclose(a, b, rtol=3e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("scale", [1, 100])
def test_modes(scale):
    found = alone(f"modes({scale})")
    assert found.pop("branches")
    assert found["vmap"] < 1e-6
    assert max(found.values()) < 1e-5, found
