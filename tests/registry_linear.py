"""Cases of the losses without logits, one for each way to compute them.

They stand apart from `registry.CASES`: in half precision their gradients are products of rounded operands, not those of
float32 to the last bit. Everything else is promised and checked alike (`test_linear_conformance.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import registry_formulas as formulas
from registry_case import Case
from registry_formulas import Maths

import jaxloss

RNG = np.random.Generator
Shape = tuple[int, ...]
CLASSES = 7
CHUNK = {"chunk_size": 3}  # of 8 tokens: the last chunk overlaps


def head(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Hidden states and a kernel."""
    return [rng.standard_normal(shape), 0.7 * rng.standard_normal((shape[-1], CLASSES))]


def labelled(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [*head(rng, shape), rng.integers(0, CLASSES, shape[:-1]).astype(np.int32)]


def tied(rng: RNG, shape: Shape) -> list[np.ndarray]:
    hidden, kernel, labels = labelled(rng, shape)
    return [hidden, kernel.T.copy(), labels]


def distributed(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [*head(rng, shape), rng.uniform(0.1, 1.0, (*shape[:-1], CLASSES))]


def with_numbers(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [*head(rng, shape), rng.standard_normal(shape[:-1])]


def two_heads(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [*head(rng, shape), *head(rng, shape)]


def per_class(low: float, high: float) -> Any:
    return lambda rng, shape: rng.uniform(low, high, CLASSES)


def rows_kept(rng: RNG, shape: Shape) -> np.ndarray:
    keep = rng.random(shape[:-1]) < 0.5
    keep.flat[0] = True
    return keep


def logits(hidden: Any, kernel: Any, bias: Any = None, kernel_layout: str = "dv") -> Any:
    x = hidden @ (kernel if kernel_layout == "dv" else kernel.T)
    return x if bias is None else x + bias


def cross_entropy(
    m: Maths, h: Any, w: Any, labels: Any, bias: Any = None, kernel_layout: str = "dv", where: Any = None,
    chunk_size: Any = None, **options: Any,
) -> Any:  # fmt: skip
    x = logits(h, w, bias, kernel_layout)
    rule = formulas.softmax_cross_entropy if np.ndim(labels) == np.ndim(x) else formulas.integer_cross_entropy
    return formulas.weighted(m, rule(m, x, labels, **options), where)


def mean_cross_entropy(m: Maths, *args: Any, where: Any = None, weights: Any = 1.0, **options: Any) -> Any:
    losses = cross_entropy(m, *args, **options)
    weights = formulas.weighted(m, weights + 0 * losses, where)
    return m.total(losses * weights) / m.total(weights)


def log_probs(m: Maths, *args: Any, **options: Any) -> Any:
    return -cross_entropy(m, *args, **options)


def squared_gap(m: Maths, h: Any, w: Any, t: Any, bias: Any = None, where: Any = None, scale: Any = 1.0) -> Any:
    return formulas.weighted(m, scale * (m.log_sum_exp(logits(h, w, bias))[..., 0] - t) ** 2, where)


def distillation(
    m: Maths, h: Any, w: Any, g: Any, v: Any, bias: Any = None, teacher_bias: Any = None,
    divergence: str = "forward_kl", temperature: Any = 1.0, scale_by_temperature_squared: bool = False,
    where: Any = None, chunk_size: Any = None, **options: Any,
) -> Any:  # fmt: skip
    x, y = logits(h, w, bias), logits(g, v, teacher_bias)
    if divergence == "js":
        losses = formulas.js_divergence(m, x, y, temperature=temperature, **options)
    else:
        x, y = (y, x) if divergence == "reverse_kl" else (x, y)
        losses = formulas.softmax_kl_divergence(m, x, y, temperature=temperature)
    losses = losses * temperature**2 if scale_by_temperature_squared else losses
    return formulas.weighted(m, losses, where)


def none(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The loss with the default reduction of all others, so that it is checked as they are."""

    @functools.wraps(fn)
    def call(*args: Any, where: Any = None, weights: Any = None, reduction: str = "none", **options: Any) -> Any:
        return fn(*args, where=where, weights=weights, reduction=reduction, **options)

    del call.__wrapped__  # its signature is that of `call`
    return call


def log_probs_reduced(
    *args: Any, where: Any = None, weights: Any = None, reduction: str = "none", **options: Any
) -> Any:
    found = jaxloss.linear_log_probs(*args, where=where, **options)
    return jaxloss.reduce(found, where=where, weights=weights, reduction=reduction)


def own_loss(
    h: Any, w: Any, t: Any, *, scale: Any = 1.0, where: Any = None, weights: Any = None, reduction: str = "none",
    **options: Any,
) -> Any:  # fmt: skip
    """(lse - t)^2 times a number that the loss closes over."""

    def squares(x: Any, t: Any) -> Any:
        return jnp.asarray(scale, x.dtype) * jnp.square(jax.nn.logsumexp(x, -1) - t.astype(x.dtype))

    return jaxloss.linear_loss(squares, h, w, t, where=where, weights=weights, reduction=reduction, **CHUNK, **options)


def mean(fn: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """A scalar, whose gradient is made in the forward pass."""

    def call(*args: Any, where: Any = None, weights: Any = None, **options: Any) -> Any:
        return fn(*args, where=where, weights=weights, reduction="mean", **fixed, **options)

    return call


_EVERYTHING: dict[str, Any] = {
    "bias": per_class(-1.0, 1.0),
    "class_weights": per_class(0.5, 2.0),
    "label_smoothing": 0.1,
    "z_loss": 0.1,
    "logit_softcap": 3.0,
    "temperature": 1.5,
}
_SOME = {name: _EVERYTHING[name] for name in ("bias", "logit_softcap", "temperature")}
_WEIGHED = {"weights": lambda rng, shape: rng.uniform(0.5, 2.0, shape[:-1])}
_JS: dict[str, Any] = {
    "bias": per_class(-1.0, 1.0),
    "teacher_bias": per_class(-1.0, 1.0),
    "divergence": "js",
    "beta": 0.3,
    "temperature": 1.5,
    "scale_by_temperature_squared": True,
}


def _cross_entropy(method: str) -> Case:
    chunk = {} if method == "dense" else CHUNK
    fn = none(functools.partial(jaxloss.linear_cross_entropy, method=method, **chunk))
    options = {
        "tied": {"kernel_layout": "vd"},
        "distributions": {"label_smoothing": 0.1, "class_weights": per_class(0.5, 2.0)},
        "everything": _EVERYTHING,
    }
    makers = {"tied": tied, "distributions": distributed}
    return Case(fn, cross_entropy, labelled, "axis", name=f"{method} cross-entropy", makers=makers, options=options)


CASES = [
    _cross_entropy("dense"),
    _cross_entropy("lean"),
    Case(
        mean(jaxloss.linear_cross_entropy, method="fast", **CHUNK),
        mean_cross_entropy,
        labelled,
        "total",
        name="fast cross-entropy",
        makers={"tied": tied, "distributions": distributed},
        options={
            "tied": {"kernel_layout": "vd", **_WEIGHED},
            "distributions": {"label_smoothing": 0.1, "where": rows_kept},
            "everything": _EVERYTHING | _WEIGHED | {"where": rows_kept},
        },
    ),
    Case(
        log_probs_reduced,
        log_probs,
        labelled,
        "axis",
        name="log-probabilities",
        nonnegative=False,
        options={"everything": _SOME | CHUNK},
    ),
    Case(
        own_loss,
        squared_gap,
        with_numbers,
        "axis",
        name="own loss",
        options={"everything": {"bias": per_class(-1.0, 1.0), "scale": 1.5}},
    ),
    Case(
        none(jaxloss.linear_distillation_loss),
        distillation,
        two_heads,
        "axis",
        name="distillation",
        options={
            "reversed": {"divergence": "reverse_kl", **CHUNK},
            "normalized": {"divergence": "js", "normalized": True, "beta": 0.2},
            "everything": _JS | CHUNK,
        },
    ),
    Case(
        mean(jaxloss.linear_distillation_loss, **CHUNK),
        lambda m, *args, **options: distillation(m, *args, **options).mean(),
        two_heads,
        "total",
        name="mean distillation",
        options={"everything": _JS},
    ),
]
