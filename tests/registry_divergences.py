"""Cases of the Kullback-Leibler family."""

from __future__ import annotations

from typing import Any

import numpy as np
import registry_formulas as formulas
from registry_case import HUGE, INF, NAN, Case, Edge, Maker, equal_pair, normal

import jaxloss

RNG = np.random.Generator
Shape = tuple[int, ...]


def softmax(x: np.ndarray) -> np.ndarray:
    p = np.exp(x - x.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def probabilities(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Neither side sums to 1, and the log-predictions are not those of probabilities."""
    return [rng.standard_normal(shape), rng.uniform(0.1, 1.0, shape)]


def distributions(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [np.log(softmax(rng.standard_normal(shape))), softmax(rng.standard_normal(shape))]


def far_distributions(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """Log-predictions that are off by `scale`, downwards: every term of the target is positive."""
    targets = softmax(rng.standard_normal(shape))
    return [np.log(targets) - scale * rng.uniform(0.5, 1.0, shape), targets]


def far_log_distributions(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    predictions, targets = far_distributions(rng, shape, scale)
    return [predictions, np.log(targets)]


def logarithms(make: Maker) -> Maker:
    return lambda rng, shape: [(made := make(rng, shape))[0], np.log(made[1])]


def unequal_measures(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    targets = rng.uniform(0.1, 1.0, shape)
    return [np.log(targets) + min(scale, 20.0) * rng.standard_normal(shape), targets]


def equal_distributions(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Powers of two: logarithm and exponential of a target of 1 are exact, those of 0 are -inf and 0."""
    targets = 1.0 * (np.arange(shape[-1]) == 1) * np.ones(shape)
    with np.errstate(divide="ignore"):
        return [np.log(targets), targets]


def equal_log_distributions(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x = np.log(softmax(rng.standard_normal(shape)))
    return [x, x.copy()]


def near_logits(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """Logits of order 1 that differ by `scale`."""
    x = rng.standard_normal(shape).astype(np.float32).astype(np.float64)
    return [x, x + scale * rng.standard_normal(shape)]


def gaussians(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [rng.standard_normal(shape), rng.standard_normal(shape)]


def two_gaussians(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [rng.standard_normal(shape) for _ in range(4)]


def standard(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [np.zeros(shape), np.zeros(shape)]


def near_standard(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """Never two of a kind: positive means, log-variances of both signs."""
    return [scale * rng.uniform(0.5, 1.0, shape), min(scale, 20.0) * rng.standard_normal(shape)]


def elements_kept(rng: RNG, shape: Shape) -> np.ndarray:
    keep = rng.random(shape) < 0.6
    keep[..., 0] = True
    return keep


def rows_kept(rng: RNG, shape: Shape) -> np.ndarray:
    keep = rng.random(shape[:-1]) < 0.6
    keep.flat[0] = True
    return keep


_AXES: dict[str, Any] = {
    "elements kept": {"where": elements_kept},
    "rows kept": {"where": rows_kept},
    "first axis": {"axis": 0},
    "two axes": {"axis": (0, 2)},
    "all axes": {"axis": None},
}
_SHAPES: dict[str, Shape] = {"first axis": (5, 8), "two axes": (2, 4, 3)}

_KL_EDGES = (
    Edge("zero target", ([[0.0, -1.0]], [[1.0, 0.0]]), [0.0], ([[-1.0, 0.0]], [[1.0, -HUGE]])),
    Edge("zero on both sides", ([[0.0, -INF]], [[1.0, 0.0]]), [0.0], ([[-1.0, 0.0]], "any")),
    Edge("prediction rules the target out", ([[0.0, -INF]], [[0.5, 0.5]]), [INF], ([[-0.5, -0.5]], "any")),
    Edge("no target", ([[0.0, -INF]], [[0.0, 0.0]]), [0.0], ([[0.0, 0.0]], [[-HUGE, HUGE]])),
    Edge("nan", ([[NAN, 0.0]], [[1.0, 0.0]]), [NAN], "any"),
)
_LOG_EDGES = (
    Edge("zero target", ([[0.0, -1.0]], [[0.0, -INF]]), [0.0], ([[-1.0, 0.0]], [[1.0, 0.0]])),
    Edge("zero on both sides", ([[0.0, -INF]], [[0.0, -INF]]), [0.0], ([[-1.0, 0.0]], [[1.0, 0.0]])),
    Edge("prediction rules the target out", ([[0.0, -INF]], [[0.0, 0.0]]), [INF], ([[-1.0, -1.0]], "any")),
)
_GENERALIZED_EDGES = (
    Edge("zero target", ([[0.0, 0.0]], [[1.0, 0.0]]), [1.0], ([[0.0, 1.0]], [[0.0, -HUGE]])),
    Edge("zero on both sides", ([[0.0, -INF]], [[1.0, 0.0]]), [0.0], ([[0.0, 0.0]], "any")),
)
_RENYI_SLOPES = ([[-0.5, 0.5]], [[0.0, 0.0]])
_LOGIT_EDGES = (
    Edge("equal", ([[1.0, 2.0]], [[1.0, 2.0]]), [0.0], ([[0.0, 0.0]], [[0.0, 0.0]])),
    Edge("shifted", ([[1.0, 2.0]], [[101.0, 102.0]]), [0.0], ([[0.0, 0.0]], [[0.0, 0.0]])),
    Edge("class ruled out by both", ([[1.0, -INF]], [[2.0, -INF]]), [0.0], ([[0.0, 0.0]], [[0.0, 0.0]])),
    Edge("nan", ([[NAN, 0.0]], [[1.0, 0.0]]), [NAN], "any"),
)


def _measure(fn: Any, make: Maker, **given: Any) -> Case:
    return Case(fn, getattr(formulas, given.pop("formula", fn.__name__)), make, "axis", shapes=_SHAPES, **given)


CASES = [
    _measure(
        jaxloss.kl_divergence,
        probabilities,
        options=_AXES,
        edges=_KL_EDGES,
        optax="kl_divergence",
        nonnegative=False,
        zero=equal_distributions,
        accurate=far_distributions,
        scales=(1.0, 30.0, 1e3),
        conditioned=0.0,
    ),
    _measure(
        jaxloss.kl_divergence_with_log_targets,
        logarithms(probabilities),
        options=_AXES,
        edges=_LOG_EDGES,
        optax="kl_divergence_with_log_targets",
        nonnegative=False,
        zero=equal_log_distributions,
        accurate=far_log_distributions,
        scales=(1.0, 30.0, 1e3),
        conditioned=0.0,
    ),
    *(
        _measure(
            fn,
            probabilities,
            formula="generalized_kl_divergence",
            options=options,
            edges=_GENERALIZED_EDGES,
            optax=fn.__name__,
            zero=equal_distributions,
            accurate=unequal_measures,
            scales=(1.0, 10.0),
            conditioned=0.0,
        )
        for fn, options in (
            (jaxloss.generalized_kl_divergence, _AXES),
            (jaxloss.convex_kl_divergence, {"two axes": {"axis": (0, 2)}}),
        )
    ),
    _measure(
        jaxloss.softmax_kl_divergence,
        normal,
        options={**_AXES, "everything": {"temperature": 2.0, "scale_by_temperature_squared": True}},
        edges=(
            *_LOGIT_EDGES,
            Edge(
                "target rules a class out", ([[0.0, 0.0]], [[0.0, -INF]]), [np.log(2.0)], ([[-0.5, 0.5]], [[0.0, 0.0]])
            ),
            Edge("prediction rules the target out", ([[0.0, -INF]], [[0.0, 0.0]]), [INF], "any"),
            Edge("far apart", ([[1e4, 0.0]], [[0.0, 1e4]]), [1e4], ([[1.0, -1.0]], [[0.0, 0.0]])),
        ),
        zero=equal_pair,
        accurate=near_logits,
        scales=(1e-6, 1e-3, 1.0, 30.0),
        conditioned=1.0,
    ),
    _measure(
        jaxloss.total_variation,
        normal,
        options=_AXES,
        edges=(
            *_LOGIT_EDGES,
            Edge("target rules a class out", ([[0.0, 0.0]], [[0.0, -INF]]), [0.5], ([[-0.25, 0.25]], [[0.0, 0.0]])),
            Edge("nothing in common", ([[0.0, -INF]], [[-INF, 0.0]]), [1.0], ([[0.0, 0.0]], [[0.0, 0.0]])),
            Edge("far apart", ([[1e4, 0.0]], [[0.0, 1e4]]), [1.0], ([[0.0, 0.0]], [[0.0, 0.0]])),
        ),
        zero=equal_pair,
        accurate=near_logits,
        scales=(1e-6, 1e-3, 1.0, 30.0),
        conditioned=0.0,
    ),
    _measure(
        jaxloss.hellinger_distance,
        normal,
        options=_AXES,
        edges=(
            *_LOGIT_EDGES,
            Edge("target rules a class out", ([[0.0, 0.0]], [[0.0, -INF]]), [np.sqrt(1 - np.sqrt(0.5))]),
            Edge("nothing in common", ([[0.0, -INF]], [[-INF, 0.0]]), [1.0], ([[0.0, 0.0]], [[0.0, 0.0]])),
            Edge("far apart", ([[1e4, 0.0]], [[0.0, 1e4]]), [1.0], ([[0.0, 0.0]], [[0.0, 0.0]])),
        ),
        zero=equal_pair,
        accurate=near_logits,
        scales=(1e-6, 1e-3, 1.0, 30.0),
        conditioned=0.0,
    ),
    _measure(
        jaxloss.wasserstein_1d,
        normal,
        temporaries=(1.0, 4.25),
        options=_AXES,
        edges=(
            *_LOGIT_EDGES,
            Edge("from end to end", ([[0.0, -INF, -INF]], [[-INF, -INF, 0.0]]), [2.0], ([[0.0] * 3], [[0.0] * 3])),
            Edge("far apart", ([[1e4, 0.0]], [[0.0, 1e4]]), [1.0], ([[0.0, 0.0]], [[0.0, 0.0]])),
        ),
        zero=equal_pair,
        accurate=near_logits,
        scales=(1e-6, 1e-3, 1.0, 30.0),
        conditioned=0.0,
    ),
    _measure(
        jaxloss.renyi_divergence,
        normal,
        options={**_AXES, "nearly 1": {"alpha": 0.999}, "everything": {"alpha": 2.5}, "small": {"alpha": 0.01}},
        edges=(
            *_LOGIT_EDGES,
            Edge(
                "target rules a class out", ([[0.0, 0.0]], [[0.0, -INF]]), [np.log(2.0)], ([[-0.5, 0.5]], [[0.0, 0.0]])
            ),
            Edge("prediction rules the target out", ([[0.0, -INF]], [[0.0, 0.0]]), [np.log(2.0)]),
            Edge("that above 1", ([[0.0, -INF]], [[0.0, 0.0]]), [INF], "any", {"alpha": 2.0}),
            Edge("nothing in common", ([[0.0, -INF]], [[-INF, 0.0]]), [INF], "any"),
            Edge("far apart", ([[1e4, 0.0]], [[0.0, 1e4]]), [1e4 - 2 * np.log(2.0)]),
        ),
        zero=equal_pair,
        accurate=near_logits,
        scales=(1e-6, 1e-3, 1.0, 10.0),
        conditioned=0.0,
    ),
    Case(
        jaxloss.sigmoid_kl_divergence,
        formulas.sigmoid_kl_divergence,
        normal,
        "elementwise",
        options={"everything": {"temperature": 2.0}},
        edges=(
            Edge("equal", ([1.0, -50.0], [1.0, -50.0]), [0.0, 0.0], ([0.0, 0.0], [0.0, 0.0])),
            Edge("both certain", ([INF, -INF], [INF, -INF]), [0.0, 0.0], ([0.0, 0.0], [0.0, 0.0])),
            Edge("nearly certain", ([2.0**99], [0.0]), [2.0**98], ([0.5], [-(2.0**97)])),
            Edge("certain", ([INF, -INF], [0.0, 0.0]), [INF, INF], ([0.5, -0.5], [-INF, INF])),
            Edge("wrong by far", ([1e4], [-1e4]), [1e4], ([1.0], [0.0])),
            Edge("nan", ([NAN], [0.0]), [NAN], "any"),
        ),
        zero=equal_pair,
        accurate=near_logits,
        scales=(1e-6, 1e-3, 1.0, 30.0),
        conditioned=1.0,
    ),
    _measure(
        jaxloss.gaussian_kl,
        gaussians,
        options={**_AXES, "another Gaussian": {}, "everything": {"where": elements_kept}},
        makers={"another Gaussian": two_gaussians, "everything": two_gaussians},
        edges=(
            Edge("standard", ([[0.0, 0.0]], [[0.0, 0.0]]), [0.0], ([[0.0, 0.0]], [[0.0, 0.0]])),
            Edge("narrow", ([[0.0]], [[-200.0]]), [99.5], ([[0.0]], [[-0.5]])),
            Edge("a point", ([[0.0]], [[-INF]]), [INF], "any"),
            Edge(
                "far and narrow prior",
                ([[1e4]], [[0.0]], [[1e4]], [[0.0]]),
                [0.0],
                ([[0.0]], [[0.0]], [[0.0]], [[0.0]]),
            ),
            Edge("nan", ([[NAN]], [[0.0]]), [NAN], "any"),
        ),
        zero=standard,
        accurate=near_standard,
        scales=(1e-6, 1e-3, 1.0, 10.0),
    ),
    _measure(
        jaxloss.js_divergence,
        normal,
        options={
            **_AXES,
            "forward": {"beta": 0.1},
            "reverse": {"beta": 0.9},
            "normalized": {"normalized": True},
            "everything": {"beta": 0.3, "normalized": True, "temperature": 2.0},
        },
        edges=(
            *_LOGIT_EDGES,
            Edge("disjoint", ([[0.0, -INF]], [[-INF, 0.0]]), [np.log(2.0)], "any"),
            *(
                Edge(name, ([[0.0, 0.0]], [[0.0, -INF]]), [0.0], ([[0.0, 0.0]], [[0.0, 0.0]]), {"beta": beta})
                for name, beta in (("ruled out at one end", 0.0), ("ruled out at the other", 1))
            ),
            Edge("far apart", ([[1e4, 0.0]], [[0.0, 1e4]]), [np.log(2.0)], ([[0.0, 0.0]], [[0.0, 0.0]])),
        ),
        zero=equal_pair,
        accurate=near_logits,
        scales=(1e-6, 1e-3, 1.0, 30.0),
        conditioned=1.0,
    ),
]
