"""Cases of the preference and policy-gradient losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import preference_formulas as formulas
from registry_case import INF, NAN, Case, Edge

import jaxloss

RNG = np.random.Generator
Shape = tuple[int, ...]


def pairs(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [-rng.uniform(5.0, 25.0, shape), -rng.uniform(5.0, 25.0, shape)]


def pairs_with_reference(rng: RNG, shape: Shape) -> list[np.ndarray]:
    made = pairs(rng, shape)
    return [*made, *(x + rng.uniform(-3.0, 3.0, shape) for x in made)]


def pairs_per_token(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [-rng.uniform(0.3, 2.0, shape), -rng.uniform(0.3, 2.0, shape)]


def broadcast_rejected(rng: RNG, shape: Shape) -> list[np.ndarray]:
    chosen, rejected = pairs_per_token(rng, shape)
    return [chosen, rejected[0]]


def decided(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [np.full(shape, -1.0), np.full(shape, -1e4)]


def apart(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """Log-probabilities of this size."""
    return [-scale * rng.uniform(0.1, 1.0, shape), -scale * rng.uniform(0.1, 1.0, shape)]


def responses(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x = -rng.uniform(5.0, 25.0, shape)
    return [x, x + rng.uniform(-9.0, 9.0, shape), rng.random(shape) < 0.5]


def responses_apart(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    return [*apart(rng, shape, scale), rng.random(shape) < 0.5]


def right_responses(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, desirable = np.full(shape, -3e4), rng.random(shape) < 0.5
    return [x, np.where(desirable, -6e4, 0.0), desirable]


def tokens(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Ratios on both sides of both bounds of clipping, none of them near one: there is no derivative there."""
    x = -rng.uniform(0.1, 5.0, shape)
    log_ratio = rng.choice([-1.2, -0.5, -0.1, 0.1, 0.5, 1.2], shape) + rng.uniform(-0.05, 0.05, shape)
    return [x, x - log_ratio, rng.choice([-1, 1], shape) * rng.uniform(0.1, 2.0, shape)]


def tokens_of_sequences(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, old, advantages = tokens(rng, shape)
    return [x, old, advantages[..., 0]]


def tokens_with_reference(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, *rest = tokens(rng, shape)
    return [x, *rest, x + rng.uniform(-1.0, 1.0, shape)]


def tokens_apart(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    x, old, advantages = tokens(rng, shape)
    return [x, x + scale * (old - x), advantages]


def kept(rng: RNG, shape: Shape) -> np.ndarray:
    """Nothing of the second row."""
    keep = rng.random(shape) < 0.6
    keep[0, 0], keep[1] = True, False
    return keep


def columns(low: float, high: float) -> Any:
    return lambda rng, shape: rng.uniform(low, high, shape[-1])


_FLIPPED = {"label_smoothing": 0.1}
_PAIR_EDGES = (
    Edge("equal", ([-5.0], [-5.0]), "finite", "finite"),
    Edge("rejected impossible", ([-5.0], [-INF]), "finite", "finite"),
    Edge("chosen impossible", ([-INF], [-5.0]), [INF], "any"),
    Edge("both impossible", ([-INF], [-INF]), [NAN], "any"),
    Edge("nan", ([NAN], [-5.0]), [NAN], "any"),
)
_DPO_EDGES = (
    Edge("no margin", ([-5.0], [-5.0]), [np.log(2.0)], ([-0.05], [0.05])),
    Edge("no margin smoothed", ([-5.0], [-5.0]), [np.log(2.0)], ([-0.04], [0.04]), _FLIPPED),
    Edge("right by far", ([-1.0], [-1e5]), [0.0], ([0.0], [0.0])),
    Edge("rejected impossible", ([-1.0], [-INF]), [0.0], ([0.0], [0.0])),
    Edge("chosen impossible", ([-INF], [-1.0]), [INF], ([-0.1], [0.1])),
    Edge("certain of a flipped label", ([-1.0], [-INF]), [INF], ([0.01], [-0.01]), _FLIPPED),
    Edge("robust by far", ([0.0], [-8e3]), [-100.0], ([-0.0125], [0.0125]), _FLIPPED | {"loss_type": "robust"}),
    Edge("on the hinge", ([0.0], [-10.0]), [0.0], ([0.0], [0.0]), {"loss_type": "hinge"}),
    Edge("hinge wrong by far", ([-1e5], [0.0]), [10001.0], ([-0.1], [0.1]), {"loss_type": "hinge"}),
    Edge("hinge of an impossible one", ([-1.0], [-INF]), [0.0], ([0.0], [0.0]), {"loss_type": "hinge"}),
    Edge("hinge of nan", ([NAN], [-1.0]), [NAN], "any", {"loss_type": "hinge"}),
    Edge("ipo at its target", ([0.0], [-5.0]), [0.0], ([0.0], [0.0]), {"loss_type": "ipo"}),
    *_PAIR_EDGES,
)
_LOG_2 = float(np.log(np.float32(0.5)))  # of probability one half
_ORPO_EDGES = (
    Edge("equal", ([_LOG_2], [_LOG_2]), [1.1 * np.log(2.0)], ([-1.1], [0.1])),
    Edge("chosen certain", ([0.0], [_LOG_2]), [0.0], ([-1.1], [0.0])),
    Edge("chosen nearly certain", ([-1e-30], [_LOG_2]), [1.1e-30], ([-1.1], [2e-31])),
    Edge("chosen above 1", ([1e-7], [_LOG_2]), [-1e-7], ([-1.1], [0.0])),
    Edge("rejected certain", ([_LOG_2], [0.0]), [INF], "any"),
    Edge("rejected nearly certain", ([_LOG_2], [-1e-30]), "finite", "finite"),
    Edge("both nearly certain", ([-1e-30], [-1e-30]), "finite", "finite"),
    Edge("both certain", ([0.0], [0.0]), [NAN], "any"),
    Edge("far", ([-1e4], [-2e4]), [1e4], ([-1.0], [0.0])),
    Edge("far the wrong way", ([-2e4], [-1e4]), [2.1e4], ([-1.1], [0.1])),
    *_PAIR_EDGES[1:],
)
_BOTH = {"desirable_weight": 2.0}
_KTO_EDGES = (
    Edge("at the baseline", ([-5.0], [-5.0], [True]), [0.5], ([-0.025], [0.025])),
    Edge("at the baseline weighted", ([-5.0], [-5.0], [True]), [1.0], ([-0.05], [0.05]), _BOTH),
    Edge("below it", ([-5.0], [-5.0], [False]), [0.5], ([0.025], [-0.025]), {"kl": -3.0}),
    Edge("far", ([-1e4, -1e4], [0.0, 0.0], [True, False]), [1.0, 0.0], ([0.0, 0.0], [0.0, 0.0])),
    Edge("impossible", ([-INF, -INF], [0.0, 0.0], [True, False]), [1.0, 0.0], ([0.0, 0.0], [0.0, 0.0])),
    Edge("never impossible before", ([-1.0], [-INF], [True]), [0.0], ([0.0], [0.0])),
    Edge("both impossible", ([-INF], [-INF], [True]), [NAN], "any"),
    Edge("nan", ([NAN], [-1.0], [True]), [NAN], "any"),
)
_POLICY_EDGES = (
    Edge("same policy", ([-1.0, -1.0], [-1.0, -1.0], [2.0, -3.0]), [-2.0, 3.0], ([-2.0, 3.0], [2.0, -3.0], [-1, -1])),
    Edge("unclipped at no bound", ([-1.0], [-1.0], [2.0]), [-2.0], ([-2.0], [2.0], [-1.0]), {"clip_high": 0.0}),
    Edge("ratio overflows", ([0.0, 0.0], [-1e4, -1e4], [1.0, 0.0]), [-1.2, 0.0], ([0, 0], [0, 0], [-1.2, -1.2])),
    Edge("ratio overflows unclipped", ([0.0], [-1e4], [0.0]), [0.0], ([0.0], [0.0], "any"), {"clip_high": INF}),
    Edge("ratio overflows downwards", ([0.0], [-1e4], [-1e-3]), [INF], "any"),
    Edge("product does not overflow", ([0.0], [-90.0], [-1e-30]), "finite", ("finite", "finite", "any")),
    Edge("ratio underflows", ([-1e4, -1e4], [0.0, 0.0], [1.0, -1.0]), [0.0, 0.8], ([0, 0], [0, 0], [0.0, -0.8])),
    Edge("ratio 0", ([-INF, -INF], [0.0, 0.0], [1.0, -1.0]), [0.0, 0.8], ([0, 0], [0, 0], [0.0, -0.8])),
    Edge("ratio 0 unclipped", ([-INF], [0.0], [-1.0]), [0.0], ([0.0], [0.0], [0.0]), {"clip_low": 1.0}),
    Edge("ratio infinite", ([0.0], [-INF], [1.0]), [-1.2], ([0.0], [0.0], [-1.2])),
    Edge("both impossible", ([-INF], [-INF], [1.0]), [NAN], "any"),
    Edge("nan", ([NAN], [0.0], [1.0]), [NAN], "any"),
)
_KL = {"kl_weight": 0.1}
_KL_EDGES = (
    Edge("kl of far tokens", ([0.0], [0.0], [0.0], [-1e4]), [999.9], ([0.1], [0.0], [-1.0], [-0.1]), _KL),
    Edge("kl overflows", ([-1e4], [-1e4], [0.0], [0.0]), [INF], "any", _KL),
    Edge("kl of an impossible token", ([-INF], [0.0], [1.0], [0.0]), [INF], "any", _KL),
)

CASES = [
    Case(
        jaxloss.dpo_loss,
        formulas.dpo_loss,
        pairs,
        "elementwise",
        options={
            "reference": {},
            "conservative": _FLIPPED,
            "robust": {"loss_type": "robust", "label_smoothing": 0.2},
            "hinge": {"loss_type": "hinge"},
            "ipo": {"loss_type": "ipo", "beta": 0.3},
            "everything": {"beta": 0.2, "label_smoothing": 0.15},
            "weighted": {"where": kept, "weights": columns(0.5, 2.0), "beta": columns(0.05, 0.2)},
            "broadcast reference": {},
        },
        makers={
            "reference": pairs_with_reference,
            "everything": pairs_with_reference,
            "robust": pairs_with_reference,
            "ipo": pairs_with_reference,
            "broadcast reference": lambda rng, shape: [
                *(m := pairs_with_reference(rng, shape))[:2],
                m[2][0],
                m[3][:, :1],
            ],
        },
        edges=_DPO_EDGES,
        zero=decided,
        temporaries=(1.0, 2.0),
        accurate=apart,
        scales=(1e-3, 1.0, 100.0, 1e3),
        conditioned=100.0,
    ),
    Case(
        jaxloss.simpo_loss,
        formulas.simpo_loss,
        pairs_per_token,
        "elementwise",
        options={
            "everything": {"beta": 2.5, "gamma": 1.25, "label_smoothing": 0.1},
            "weighted": {"where": kept, "weights": columns(0.5, 2.0), "gamma": columns(0.1, 1.0)},
            "broadcast": {},
        },
        makers={"broadcast": broadcast_rejected},
        edges=_PAIR_EDGES,
        zero=decided,
        temporaries=(1.0, 2.0),
        accurate=apart,
        scales=(1e-3, 1.0, 10.0, 100.0),
        conditioned=10.0,
    ),
    Case(
        jaxloss.cpo_loss,
        formulas.cpo_loss,
        pairs_per_token,
        "elementwise",
        options={
            "preference only": {"alpha": 0.0},
            "everything": {"beta": 2.0, "alpha": columns(0.1, 1.0), "label_smoothing": 0.1},
            "weighted": {"where": kept, "weights": columns(0.5, 2.0)},
            "broadcast": {},
        },
        makers={"broadcast": broadcast_rejected},
        edges=(Edge("no margin", ([-2.0], [-2.0]), [2 + np.log(2.0)], ([-1.05], [0.05])), *_PAIR_EDGES),
        temporaries=(1.0, 4.0),
        accurate=apart,
        scales=(1e-3, 1.0, 100.0, 1e3),
        conditioned=100.0,
    ),
    Case(
        jaxloss.orpo_loss,
        formulas.orpo_loss,
        pairs_per_token,
        "elementwise",
        options={
            "likelihood only": {"beta": 0.0},
            "everything": {"beta": 0.5},
            "weighted": {"where": kept, "weights": columns(0.5, 2.0), "beta": columns(0.05, 0.5)},
            "broadcast": {},
        },
        makers={"broadcast": broadcast_rejected},
        edges=_ORPO_EDGES,
        temporaries=(2.0, 8.0),
        accurate=apart,
        scales=(1e-20, 1e-6, 1e-3, 1.0, 30.0, 1e3),
        conditioned=30.0,
    ),
    Case(
        jaxloss.kto_loss,
        formulas.kto_loss,
        responses,
        "elementwise",
        options={
            "baseline": {"kl": columns(-1.0, 3.0)},
            "everything": {"kl": 1.5, "beta": 0.2, "desirable_weight": 1.25, "undesirable_weight": 0.75},
            "weighted": {"where": kept, "weights": columns(0.5, 2.0), "desirable_weight": columns(0.5, 1.5)},
            "broadcast reference": {},
        },
        makers={"broadcast reference": lambda rng, shape: [(m := responses(rng, shape))[0], m[1][0], m[2][:, :1]]},
        edges=_KTO_EDGES,
        zero=right_responses,
        temporaries=(2.0, 4.0),
        accurate=responses_apart,
        scales=(1e-3, 1.0, 100.0, 1e3),
        conditioned=100.0,
    ),
    Case(
        jaxloss.policy_gradient_loss,
        formulas.policy_gradient_loss,
        tokens,
        "tokens",
        options={
            "advantages of sequences": {},
            "wide": {"clip_low": 1.0, "clip_high": INF},
            "divergence": {"kl_weight": 0.1},
            "mean over sequences": {"where": kept, "normalizer": "sequence"},
            "ratio of sequences": {"where": kept, "importance": "sequence", "normalizer": "sequence"},
            "weighted": {
                "where": kept,
                "weights": columns(0.5, 2.0),
                "normalizer": 16,
                "kl_weight": columns(0.05, 0.1),
            },
            "everything": {"clip_low": 0.15, "clip_high": 0.28, "kl_weight": 0.05, "normalizer": 7.0},
            "broadcast advantages": {"importance": "sequence"},
        },
        makers={
            "advantages of sequences": tokens_of_sequences,
            "ratio of sequences": tokens_of_sequences,
            "broadcast advantages": tokens_of_sequences,
            "divergence": tokens_with_reference,
            "weighted": tokens_with_reference,
            "everything": tokens_with_reference,
        },
        edges=(*_POLICY_EDGES, *_KL_EDGES),
        nonnegative=False,
        temporaries=(1.25, 2.5),
        accurate=tokens_apart,
        scales=(1e-3, 1.0, 30.0),
        conditioned=1.0,
    ),
]
