"""Cases of the likelihoods and deviances of counts and positive quantities."""

from __future__ import annotations

from typing import Any

import formulas_regression as formulas
import numpy as np
from registry_case import HUGE, INF, NAN, Case, Edge
from registry_regression import columns_kept, component_weights, kept
from registry_regression_differences import each_component

import jaxloss

RNG = np.random.Generator
Shape = tuple[int, ...]


def counts(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [rng.standard_normal(shape), rng.poisson(2.0, shape).astype(float)]


def counts_by_mean(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = counts(rng, shape)
    return [np.exp(x), y]


def shared_counts(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = counts(rng, shape)
    return [x, y[0].astype(np.int8)]


def amounts(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [rng.standard_normal(shape), rng.uniform(0.2, 4.0, shape)]


def amounts_by_mean(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = amounts(rng, shape)
    return [np.exp(x), y]


def shared_amounts(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = amounts(rng, shape)
    return [x, y[0]]


def of_size(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """Mean and target of this size."""
    return [np.log(scale * rng.uniform(0.2, 2.0, shape)), scale * rng.uniform(0.2, 2.0, shape)]


def near_the_target(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """Means that are off by this factor, or nearly right."""
    x, y = of_size(rng, shape, 10.0)
    return [np.log(y) + scale * rng.choice([-1, 1], shape) * rng.uniform(0.3, 1.0, shape), y]


def off_target(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Not nearly right, where the logarithm of the target has no digits to spare."""
    y = rng.uniform(0.2, 4.0, shape)
    return [np.log(y) + rng.choice([-1, 1], shape) * rng.uniform(0.4, 1.5, shape), y]


def off_target_mean(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = off_target(rng, shape)
    return [np.exp(x), y]


def off_shared_target(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = off_target(rng, shape)
    return [x - np.log(y) + np.log(y[0]), y[0]]


def right_ones(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [np.zeros(shape), np.ones(shape)]


def common(**everything: Any) -> dict[str, Any]:
    return {
        "everything": {"where": kept, "weights": component_weights, **everything},
        "columns kept": {"where": columns_kept},
        "broadcast targets": {},
    }


NOT_A_NUMBER = Edge("nan", ([NAN, 0.0], [1.0, NAN]), [NAN, NAN], ([NAN, NAN], [NAN, NAN]))
MEAN = {"log_input": False}

CASES = [
    Case(
        jaxloss.poisson_nll,
        formulas.poisson_nll,
        counts,
        "elementwise",
        options={**common(full=True), "full": {"full": True}, "rate": MEAN, "full rate": {"full": True, **MEAN}},
        makers={"broadcast targets": shared_counts, "rate": counts_by_mean, "full rate": counts_by_mean},
        nonnegative=False,
        accurate=of_size,
        scales=(1e-3, 1.0, 30.0, 1e6),
        conditioned=0.0,
        edges=(
            Edge("nan", ([NAN, 0.0], [1.0, NAN]), [NAN, NAN], ([NAN, NAN], [NAN, 0.0])),
            Edge("nothing", ([-INF, -1e4], [0.0, 0.0]), [0.0, 0.0], ([0.0, 0.0], [HUGE, 1e4])),
            Edge("impossible", ([-INF], [2.0]), [INF], ([-2.0], [HUGE])),
            Edge("overflow", ([100.0, INF], [3.0, 3.0]), [INF, INF], ([INF, INF], [-100.0, -HUGE])),
            Edge("at the rate", ([1e-7], [1.0]), [1.0], ([1e-7], [-1e-7])),
            Edge("large count", ([-INF, INF], [8.0, 8.0]), [INF, INF], ([-8.0, INF], [HUGE, -INF]), {"full": True}),
            Edge("no rate of a large count", ([0.0], [8.0]), [INF], ([-INF], [HUGE]), {"full": True, **MEAN}),
            Edge("no rate", ([0.0, 0.0], [0.0, 2.0]), [0.0, INF], ([1.0, -INF], "any"), MEAN),
            Edge("negative rate", ([-1.0, -1.0], [0.0, 1.0]), [NAN, NAN], "any", MEAN),
            Edge("large rate", ([1e30, INF], [1e30, 1.0]), [1e30 * (1 - np.log(1e30)), INF], ([0.0, 1.0], "any"), MEAN),
        ),
    ),
    Case(
        jaxloss.negative_binomial_nll,
        formulas.negative_binomial_nll,
        counts,
        "elementwise",
        options={
            **common(dispersion=each_component(0.05, 5.0), full=True),
            "full": {"full": True},
            "broadcast targets": {"full": True},
            "slight": {"dispersion": 0.01, "full": True},
            "strong": {"dispersion": 5.0, "full": True},
            "mean": {"dispersion": 0.5, **MEAN},
            "full mean": {"full": True, "dispersion": each_component(0.05, 5.0), **MEAN},
        },
        makers={"broadcast targets": shared_counts, "mean": counts_by_mean, "full mean": counts_by_mean},
        nonnegative=False,
        accurate=of_size,
        scales=(1e-3, 1.0, 30.0, 1e6),
        conditioned=0.0,
        edges=(
            NOT_A_NUMBER,
            Edge("nothing", ([-INF, -1e4], [0.0, 0.0]), [0.0, 0.0], ([0.0, 0.0], "finite")),
            Edge("impossible", ([-INF], [2.0]), [INF], ([-2.0], "any")),
            Edge("far", ([100.0, -100.0], [0.0, 1.0]), [100.0, 100.0], ([1.0, -1.0], "any")),
            Edge("infinite", ([INF], [3.0]), [INF], ([1.0], "any")),
            Edge(
                "poisson",
                ([0.0, 1.0, -INF], [3.0, 0.0, 0.0]),
                [1.0, np.e, 0.0],
                ([-2.0, np.e, 0.0], "finite"),
                {"dispersion": 0.0},
            ),
            Edge("nearly poisson", ([0.0], [3.0]), [1.0], ([-2.0], [-1.5e-30]), {"dispersion": 1e-30}),
            Edge("boundless dispersion", ([0.0], [5.0]), "finite", ([-4e-30], "any"), {"dispersion": 1e30}),
            Edge("infinite large count", ([INF, -INF], [8.0, 8.0]), [INF, INF], ([1.0, -8.0], "any"), {"full": True}),
            Edge("no mean", ([0.0, 0.0], [0.0, 2.0]), [0.0, INF], ([1.0, -INF], "any"), MEAN),
            Edge("no mean of a large count", ([0.0], [8.0]), [INF], ([-INF], "any"), {"full": True, **MEAN}),
            Edge("negative mean", ([-1.0, -1.0], [0.0, 1.0]), [NAN, NAN], "any", MEAN),
        ),
    ),
    Case(
        jaxloss.gamma_nll,
        formulas.gamma_nll,
        amounts,
        "elementwise",
        options={
            **common(shape=each_component(0.3, 20.0)),
            "shape": {"shape": 3.0},
            "narrow": {"shape": 50.0},
            "mean": {"shape": 0.5, **MEAN},
            "means": {"shape": each_component(0.3, 20.0), **MEAN},
        },
        makers={"broadcast targets": shared_amounts, "mean": amounts_by_mean, "means": amounts_by_mean},
        nonnegative=False,
        accurate=of_size,
        scales=(1e-6, 1e-3, 1.0, 1e6),
        conditioned=0.0,
        edges=(
            Edge("nan", ([NAN, 0.0], [1.0, NAN]), [NAN, NAN], ([NAN, NAN], [NAN, 1.0])),
            Edge("exponential at 0", ([1.0], [0.0]), [1.0], ([1.0], [np.exp(-1.0)])),
            Edge("all tiny", ([2.0**-84], [2.0**-84]), [2.0**-83], ([1.0], [1.0])),
            Edge("likely zero", ([1.0], [0.0]), [-INF], ([0.5], [INF]), {"shape": 0.5}),
            Edge("impossible zero", ([1.0], [0.0]), [INF], ([2.0], [-INF]), {"shape": 2.0}),
            Edge("small mean", ([-100.0], [1.0]), [INF], ([-INF], [INF])),
            Edge("large mean", ([1e4], [1.0]), [1e4], ([1.0], [0.0])),
            Edge("negative", ([1.0], [-1.0]), [NAN], "any", {"shape": 2.0}),
        ),
    ),
    Case(
        jaxloss.tweedie_deviance,
        formulas.tweedie_deviance,
        off_target,
        "elementwise",
        options={
            **common(power=1.2),
            "poisson": {"power": 1.0},
            "gamma": {"power": 2.0},
            "inverse gaussian": {"power": 3.0},
            "steep": {"power": 4.5},
            "mean": MEAN,
            "gamma mean": {"power": 2, **MEAN},
        },
        makers={"broadcast targets": off_shared_target, "mean": off_target_mean, "gamma mean": off_target_mean},
        zero=right_ones,
        accurate=near_the_target,
        scales=(1e-4, 1e-2, 1.0, 10.0),
        conditioned=0.0,
        edges=(
            NOT_A_NUMBER,
            Edge("zero", ([0.0, 2.0], [0.0, 0.0]), [4.0, 4 * np.e], ([2.0, 2 * np.e], [-HUGE, -HUGE])),
            Edge("zero count", ([0.0], [0.0]), [2.0], ([2.0], [-HUGE]), {"power": 1.0}),
            Edge("impossible zero", ([0.0], [0.0]), [INF], ([2.0], [-HUGE]), {"power": 2.0}),
            Edge("nothing expected", ([-1e4], [0.0]), [0.0], ([0.0], [-HUGE])),
            Edge("far", ([60.0], [0.0]), [4 * np.exp(30.0)], ([2 * np.exp(30.0)], [-HUGE])),
            Edge("near", ([1e-6], [1.0]), [1.0000003333e-12], ([2.000001e-6], [-2e-6]), {"power": 1.0}),
            Edge("near in the mean", ([1.0000001192092896], [1.0]), "finite", "finite", MEAN),
            Edge("negative", ([1.0], [-1.0]), [NAN], "any"),
            Edge("overflow", ([-128.0], [1.0]), [INF], ([-INF], [HUGE]), {"power": 3.0}),
            Edge("steep overflow", ([20.0], [2.0**-100]), [INF], ([2 * np.exp(-40.0)], [-HUGE]), {"power": 4.0}),
            Edge("overflow in the mean", ([2.0**-72], [1.0]), [INF], ([-INF], [HUGE]), {"power": 4.0, **MEAN}),
            Edge("no mean", ([0.0, 2.0**-144], [1.0, 1.0]), [INF, INF], ([-INF, -INF], [HUGE, HUGE]), MEAN),
            Edge("no mean of a count", ([0.0, 0.0], [1.0, 0.0]), [INF, 0.0], "any", {"power": 1.0, **MEAN}),
            Edge("right and tiny", ([2.0**-26], [2.0**-26]), [0.0], ([0.0], [0.0]), {"power": 7.0, **MEAN}),
        ),
    ),
]
