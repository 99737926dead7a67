"""Cases of the contrastive and ranking losses."""

from __future__ import annotations

import functools
import math
from typing import Any

import contrastive_formulas as formulas
import jax.numpy as jnp
import numpy as np
from contrastive_arguments import (
    apart,
    broadcast_negatives,
    columns,
    distances,
    distances_at,
    embeddings,
    for_rows,
    in_groups,
    items,
    kept,
    kept_elements,
    lists,
    lists_apart,
    ragged,
    ranked,
    ranked_at,
    ranked_right,
    rows_kept,
    signed_pairs,
    signed_pairs_at,
    similar_alike,
    similar_at,
    similar_or_not,
    triplets,
    triplets_apart,
    triplets_at,
    two_views,
    weights,
    with_negatives,
    with_own_negatives,
)
from registry_case import INF, NAN, Case, Edge, normal

import jaxloss

RNG = np.random.Generator
Shape = tuple[int, ...]


@functools.wraps(jaxloss.circle_loss)
def circle_with_moving_weights(*args: Any, **options: Any) -> Any:
    """Whose gradient is the derivative of the loss; `test_contrastive.py` has the paper's."""
    return jaxloss.circle_loss(*args, **{"constant_weights": False, "gamma": 8.0, **options})


_SIGMOID = 1 / (1 + math.exp(-1.0))  # of 1
_LOG = math.log1p(math.exp(-1.0))
_TINY = 1.8048513878454153e-35  # exp(-80)
_WARM = {"temperature": 1.0}
_UNBIASED = {"temperature": 1.0, "bias": 0.0}
_IN_BATCH_OPTIONS: dict[str, Any] = {
    "warm": {"temperature": 0.5},
    "kept": {"where": kept, "weights": weights, "temperature": 0.2},
    "everything": {"temperature": 2.0, "normalize": False},
}
_EVEN = {"gamma": 1.0, "margin": 0.0}
_UNEQUAL = [[2.0**60, 0.0], [0.0, 2.0**-60]], [[2.0**-60, 0.0], [0.0, 2.0**60]]


_TOWARD = [[0.0, (1 - _SIGMOID) / 2.0**60], [(1 - _SIGMOID) * 2.0**60, 0.0]]
_AWAY = [[0.0, (1 - _SIGMOID) * 2.0**60], [(1 - _SIGMOID) / 2.0**60, 0.0]]
_ORIGIN = [[0.0, 0.0]] * 2
_OPPOSED = [[1.0, 0.0], [-1.0, 0.0]]
_IN_BATCH_EDGES = (
    Edge("one example", ([[3.0, 4.0]], [[-3.0, 4.0]]), [0.0], (_ORIGIN[:1], _ORIGIN[:1])),
    Edge("lengths far apart", _UNEQUAL, [_LOG, _LOG], (_TOWARD, _AWAY), _WARM),
    Edge("all alike", ([[1.0, 0.0]] * 3, [[2.0, 0.0]] * 3), [math.log(3.0)] * 3, ([[0.0, 0.0]] * 3,) * 2),
    Edge("zeros", (_ORIGIN, _ORIGIN), [math.log(2.0)] * 2, (_ORIGIN, _ORIGIN)),
    Edge("a zero", ([[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0]]), "finite", "finite"),
    Edge("confident", (_OPPOSED, _OPPOSED), [_TINY, _TINY], (_ORIGIN, _ORIGIN), {"temperature": 0.025}),
    Edge("nan", ([[NAN, 1.0]], [[1.0, 1.0]]), [NAN], "any"),
)
_N_PAIR_EDGES = (
    Edge("one example", ([[3.0, 4.0]], [[-3.0, 4.0]]), [0.0], (_ORIGIN[:1], _ORIGIN[:1])),
    Edge("zeros", (_ORIGIN, _ORIGIN), [math.log(2.0)] * 2, (_ORIGIN, _ORIGIN)),
    Edge("confident", ([[8.0], [-8.0]], [[5.0], [-5.0]]), [_TINY, _TINY], ([[-10 * _TINY], [10 * _TINY]], "finite")),
    Edge("wrong by far", ([[1e4], [-1e4]], [[-1.0], [1.0]]), [2e4, 2e4], ([[2.0], [-2.0]], [[-2e4], [2e4]])),
    Edge("nan", ([[NAN, 1.0]], [[1.0, 1.0]]), [NAN], "any"),
)
_SIGLIP_EDGES = (
    Edge("one example", ([[1.0, 0.0]], [[0.0, 4.0]]), [math.log(2.0)], ([[0.0, -0.5]], [[-0.125, 0.0]]), _UNBIASED),
    Edge("zeros", (_ORIGIN, _ORIGIN), [2 * math.log(2.0)] * 2, (_ORIGIN, _ORIGIN), _UNBIASED),
    Edge("a zero", ([[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0]]), "finite", "finite"),
    Edge("confident", (_OPPOSED, _OPPOSED), [2 * _TINY] * 2, (_ORIGIN, _ORIGIN), _UNBIASED | {"temperature": 0.0125}),
    Edge("nan", ([[NAN, 1.0]], [[1.0, 1.0]]), [NAN], "any"),
)

_0, _1 = [[0.0, 0.0]], [[1.0, 0.0]]
_FIVE = [[3.0, 4.0]]
_BARE = {"eps": 0.0}
_ROOT = 2.0 ** (1 / 3)
_TRIPLET_EDGES = (
    Edge("identical", (_1, _1, _1), [1.0], (_0, _0, _0)),
    Edge("identical without eps", (_1, _1, _1), [1.0], (_0, _0, _0), _BARE),
    Edge("on the hinge", (_0, _0, _1), [0.0], (_0, _0, _0), _BARE),
    Edge("long", (_0, [[3 * 2.0**100, 4 * 2.0**100]], _0), [5 * 2.0**100], ([[-0.6, -0.8]], [[0.6, 0.8]], _0), _BARE),
    Edge(
        "short",
        (_0, [[3 * 2.0**-100, 4 * 2.0**-100]], _0),
        [5 * 2.0**-100],
        ([[-0.6, -0.8]], [[0.6, 0.8]], _0),
        _BARE | {"margin": 0.0},
    ),
    Edge("odd degree", (_0, [[1.0, -1.0]], _0), [3.0], ([[-1.0, 1.0]], [[1.0, -1.0]], _0), _BARE | {"norm_degree": 1}),
    Edge(
        "third degree",
        (_0, [[1.0, -1.0]], _0),
        [_ROOT + 1],
        ([[-(_ROOT**-2), _ROOT**-2]], [[_ROOT**-2, -(_ROOT**-2)]], _0),
        _BARE | {"norm_degree": 3},
    ),
    Edge("cusp", (_0, _1, _0), [2.0], ([[-1.0, 0.0]], _1, _0), _BARE | {"norm_degree": 0.5}),
    Edge("identical with degree 1", (_1, _1, _1), [1.0], (_0, _0, _0), _BARE | {"norm_degree": 1}),
    Edge("identical with degree 3", (_1, _1, _1), [1.0], (_0, _0, _0), _BARE | {"norm_degree": 3}),
    Edge("identical at a cusp", (_1, _1, _1), [1.0], (_0, _0, _0), _BARE | {"norm_degree": 0.5}),
    Edge("largest", (_0, _FIVE, _0), [5.0], ([[0.0, -1.0]], [[0.0, 1.0]], _0), {"norm_degree": INF}),
    Edge("close to the positive", (_0, _1, _1), [2.0], ([[-1.0, 0.0]], _1, _0), _BARE | {"swap": True}),
    Edge("nan", (_0, _1, [[NAN, 0.0]]), [NAN], "any"),
)
_CONTRASTIVE_EDGES = (
    Edge("similar and identical", (_1, _1, [1]), [0.0], (_0, _0)),
    Edge("dissimilar and identical", (_1, _1, [0]), [0.5], (_0, _0)),
    Edge("beyond the margin", (_0, _FIVE, [0]), [0.0], (_0, _0)),
    Edge("dissimilar by far", (_0, [[2.0**100, 0.0]], [0]), [0.0], (_0, _0)),
    Edge("similar by far", (_0, [[2.0**60, 0.0]], [1]), [2.0**119], ([[-(2.0**60), 0.0]], [[2.0**60, 0.0]])),
    Edge("half", (_0, [[0.5, 0.0]], [0.5]), [0.125], ([[0.0, 0.0]], [[0.0, 0.0]], [0.0])),
    Edge("neither", (_1, _1, [2]), [NAN], "any"),
    Edge("sign", (_1, _0, [-1]), [NAN], "any"),
    Edge("nan", (_1, [[NAN, 0.0]], [0]), [NAN], "any"),
)
_COSINE_EDGES = (
    Edge("same way", (_1, [[2.0, 0.0]], [1]), [0.0], (_0, _0)),
    Edge("opposed", (_1, [[-2.0, 0.0]], [1]), [2.0], (_0, _0)),
    Edge("opposed as they should", (_1, [[-2.0, 0.0]], [-1]), [0.0], (_0, _0)),
    Edge("right angle", (_1, [[0.0, 4.0]], [1]), [1.0], ([[0.0, -1.0]], [[-0.25, 0.0]])),
    Edge("right angle of a long one", ([[2.0**100, 0.0]], [[0.0, 2.0**-100]], [1]), [1.0], "finite"),
    Edge("zero together", (_0, _1, [1]), [1.0], (_0, _0)),
    Edge("zeros together", (_0, _0, [1]), [1.0], (_0, _0)),
    Edge("zero apart", (_0, _1, [-1]), [0.0], (_0, _0)),
    Edge("zero apart with a margin", (_0, _1, [-1]), [0.5], (_0, _0), {"margin": -0.5}),
    Edge("no label", (_1, _1, [0]), [NAN], ([[NAN, NAN]],) * 2),
    Edge("nan", ([[NAN, 1.0]], _1, [1]), [NAN], "any"),
)
_HINGE_EDGES = (
    Edge("on the hinge", ([1.0], [-1]), [0.0], ([0.0],)),
    Edge("at distance 0", ([0.0, 0.0], [1, -1]), [0.0, 1.0], ([1.0, -1.0],)),
    Edge("infinite", ([INF, INF], [1, -1]), [INF, 0.0], ([1.0, 0.0],)),
    Edge("no label", ([1.0, 0.5], [0, 2]), [NAN, NAN], ([NAN, NAN],)),
    Edge("nan", ([NAN, NAN], [1, -1]), [NAN, NAN], "any"),
)
_RANKING_EDGES = (
    Edge("tied", ([1.0], [1.0], [1]), [0.0], ([0.0], [0.0])),
    Edge("tied with a margin", ([1.0], [1.0], [1]), [0.5], ([-1.0], [1.0]), {"margin": 0.5}),
    Edge("wrong by far", ([-3e38, 3e38], [0.0, 0.0], [1, -1]), [3e38, 3e38], ([-1.0, 1.0], [1.0, -1.0])),
    Edge("no label", ([1.0], [0.0], [0]), [NAN], ([NAN], [NAN])),
    Edge("nan", ([NAN], [0.0], [1]), [NAN], "any"),
)
_TWO = [[1.0, 0.0], [4.0, 0.0], [0.0, 1.0], [0.0, 2.0]]
_CALM = [[0.0, 0.0]] * 4
_NTXENT_EDGES = (
    Edge("no positives", (_TWO, [0, 1, 2, 3]), 0.0, (_CALM,)),
    Edge("no negatives", (_TWO, [0, 0, 0, 0]), 0.0, (_CALM,)),
    Edge("one example", (_1, [0]), 0.0, (_0,)),
    Edge("two pairs", (_TWO, [0, 0, 1, 1]), math.log(1 + 2 * math.exp(-1.0)), "finite", {"temperature": 1.0}),
    Edge("all alike", ([[1.0, 0.0]] * 4, [0, 0, 1, 1]), math.log(3.0), (_CALM,)),
    Edge("zeros", (_CALM, [0, 0, 1, 1]), math.log(3.0), (_CALM,)),
    Edge("confident", (_OPPOSED + _OPPOSED, [0, 1, 0, 1]), 2 * _TINY, (_CALM,), {"temperature": 0.025}),
    Edge("nan without negatives", ([[NAN, 1.0], [1.0, 0.0]], [0, 0]), NAN, "any"),
    Edge("nan", ([[NAN, 1.0], *_TWO[1:]], [0, 0, 1, 1]), NAN, "any"),
)
_SUPERVISED_EDGES = (
    Edge("no positives", (_TWO, [0, 1, 2, 3]), [0.0] * 4, (_CALM,)),
    Edge("one example", (_1, [0]), [0.0], (_0,)),
    Edge("no negatives", (_TWO[:2], [0, 0]), [0.0] * 2, (_CALM[:2],)),
    Edge("two pairs", (_TWO, [0, 0, 1, 1]), [math.log(1 + 2 * math.exp(-1.0))] * 4, "finite", {"temperature": 1.0}),
    Edge("all alike", ([[1.0, 0.0]] * 4, [0, 0, 1, 1]), [math.log(3.0)] * 4, (_CALM,)),
    Edge("zeros", (_CALM, [0, 0, 1, 1]), [math.log(3.0)] * 4, (_CALM,)),
    Edge("zeros inside", (_CALM, [0, 0, 0, 1]), [math.log(3.0)] * 3 + [0.0], (_CALM,), {"variant": "in"}),
    Edge("no positives inside", (_TWO, [0, 1, 2, 3]), [0.0] * 4, (_CALM,), {"variant": "in"}),
    Edge("no negatives inside", (_TWO[:2], [0, 0]), [0.0] * 2, (_CALM[:2],), {"variant": "in"}),
    Edge("confident", (_OPPOSED + _OPPOSED, [0, 1, 0, 1]), [2 * _TINY] * 4, (_CALM,), {"temperature": 0.025}),
    Edge("nan", ([[NAN, 1.0], *_TWO[1:]], [0, 0, 1, 1]), [NAN] * 4, "any"),
)
_CIRCLE_EDGES = (
    Edge("no positives", (_TWO, [0, 1, 2, 3]), [0.0] * 4, (_CALM,)),
    Edge("no negatives", (_TWO, [0, 0, 0, 0]), [0.0] * 4, (_CALM,)),
    Edge("one example", (_1, [0]), [0.0], (_0,)),
    Edge("zeros", (_CALM, [0, 0, 1, 1]), [math.log(1 + 2 * math.exp(1.0))] * 4, (_CALM,), _EVEN),
    Edge("opposed", (_OPPOSED + _OPPOSED, [0, 1, 0, 1]), [math.log(3.0)] * 4, (_CALM,), {"margin": 0.0}),
    Edge("nan", ([[NAN, 1.0], *_TWO[1:]], [0, 0, 1, 1]), [NAN] * 4, "any"),
)
_SQUARE = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]
_LONG, _SHORT = [[2.0**60, -(2.0**60)], [-(2.0**60), -(2.0**60)]], [[2.0**-60, 1.0], [-(2.0**-60), 1.0]]
_CONSTANT = [[0.1, 1.0], [0.1, -1.0], [0.1, 0.0]]
_COLLAPSED = [[0.1, -3.0]] * 3
_BARLOW_EDGES = (
    Edge("one example", (_1, _FIVE), 2.0, (_0, _0)),
    Edge("same", (_SQUARE, [[3 * a + 7, 4 * b] for a, b in _SQUARE]), 0.0, (_CALM, _CALM)),
    Edge("opposed", (_SQUARE, [[-a, -b] for a, b in _SQUARE]), 8.0, (_CALM, _CALM)),
    Edge("units far apart", (_LONG, _SHORT), 1.0, (_ORIGIN, _ORIGIN)),
    Edge("constant feature", (_CONSTANT, _CONSTANT), 1.0, ([[0.0, 0.0]] * 3,) * 2),
    Edge("collapsed", (_COLLAPSED, _COLLAPSED), 2.0, ([[0.0, 0.0]] * 3,) * 2),
    Edge("nan", ([[NAN, 1.0], [1.0, 0.0]], _ORIGIN), NAN, "any"),
)
_VICREG_EDGES = (
    Edge("one example", (_FIVE, _FIVE), 49.5, (_0, _0)),
    Edge("spread", ([[2 * a, 2 * b] for a, b in _SQUARE],) * 2, 0.0, (_CALM, _CALM)),
    Edge("collapsed", (_COLLAPSED, _COLLAPSED), 49.5, ([[0.0, 0.0]] * 3,) * 2),
    Edge("collapsed without eps", (_COLLAPSED, _COLLAPSED), 50.0, ([[0.0, 0.0]] * 3,) * 2, {"eps": 0.0}),
    Edge("nan", ([[NAN, 1.0], [1.0, 0.0]], _ORIGIN), NAN, "any"),
)
_RANKING_SOFTMAX_EDGES = (
    Edge("equal scores", ([0.0, 0.0], [1.0, 0.0]), math.log(2.0), ([-0.5, 0.5], [math.log(2.0)] * 2)),
    Edge("nothing relevant", ([[1.0, 2.0]], [[0.0, 0.0]]), 0.0, (_0, "finite")),
    Edge("one item", ([[3.0]], [[2.0]]), 0.0, ([[0.0]], [[0.0]])),
    Edge("confident", ([80.0, 0.0], [1.0, 0.0]), _TINY, ([-_TINY, _TINY], "finite")),
    Edge("ruled out", ([1.0, -INF], [1.0, 0.0]), 0.0, ([0.0, 0.0], "any")),
    Edge("relevant but ruled out", ([1.0, -INF], [0.0, 1.0]), INF, "any"),
    Edge("nan", ([NAN, 1.0], [1.0, 0.0]), NAN, "any"),
)

CASES = [
    Case(
        jaxloss.info_nce_loss,
        formulas.info_nce_loss,
        embeddings,
        "batch",
        options={**_IN_BATCH_OPTIONS, "negatives": {}, "negatives of each": {"temperature": 0.5}},
        makers={"negatives": with_negatives, "negatives of each": with_own_negatives},
        edges=_IN_BATCH_EDGES,
        temporaries=(2.5, 6.0),
    ),
    Case(
        jaxloss.clip_loss,
        formulas.clip_loss,
        embeddings,
        "batch",
        options=_IN_BATCH_OPTIONS,
        edges=_IN_BATCH_EDGES,
        temporaries=(3.0, 7.0),
    ),
    Case(
        jaxloss.n_pair_loss,
        formulas.n_pair_loss,
        embeddings,
        "batch",
        options={"kept": {"where": kept, "weights": weights}, "everything": {"l2_weight": 0.02}},
        edges=_N_PAIR_EDGES,
        zero=apart,
        temporaries=(0.5, 5.0),
    ),
    Case(
        jaxloss.siglip_loss,
        formulas.siglip_loss,
        embeddings,
        "batch",
        options={
            "kept": {"where": kept, "weights": weights},
            "everything": {"temperature": 0.5, "bias": -2.0, "normalize": False},
        },
        edges=_SIGLIP_EDGES,
        temporaries=(2.5, 6.0),
    ),
    Case(
        jaxloss.triplet_margin_loss,
        formulas.triplet_margin_loss,
        triplets,
        "axis",
        options={
            "degree 1": {"norm_degree": 1},
            "degree 3": {"norm_degree": 3, "eps": 0.0},
            "below 1": {"norm_degree": 0.5},
            "swap": {"swap": True},
            "weighted": {"where": rows_kept, "weights": for_rows(0.5, 2.0), "margin": for_rows(0.5, 2.0)},
            "first axis": {"axis": 0, "margin": 2.0},
            "two axes": {"axis": (0, 2)},
            "broadcast negatives": {},
            "everything": {"norm_degree": 2.5, "margin": 0.7, "eps": 0.01, "swap": True},
        },
        shapes={"first axis": (5, 8), "two axes": (2, 4, 3)},
        makers={"broadcast negatives": broadcast_negatives},
        edges=_TRIPLET_EDGES,
        optax="triplet_margin_loss",
        zero=triplets_apart,
        accurate=triplets_at,
        scales=(1e-3, 1.0, 1e3),
        conditioned=0.0,
    ),
    Case(
        jaxloss.contrastive_loss,
        formulas.contrastive_loss,
        similar_or_not,
        "axis",
        options={
            "weighted": {"where": rows_kept, "weights": for_rows(0.5, 2.0), "margin": for_rows(2.0, 5.0)},
            "first axis": {"axis": 0},
            "everything": {"margin": 4.0},
        },
        shapes={"first axis": (5, 8)},
        makers={"first axis": lambda rng, shape: [*normal(rng, shape), rng.uniform(0.1, 0.9, shape[1:])]},
        edges=_CONTRASTIVE_EDGES,
        zero=similar_alike,
        accurate=similar_at,
        scales=(1e-3, 0.3, 30.0),
        conditioned=0.0,
    ),
    Case(
        jaxloss.cosine_embedding_loss,
        formulas.cosine_embedding_loss,
        signed_pairs,
        "axis",
        options={
            "weighted": {"where": rows_kept, "weights": for_rows(0.5, 2.0), "margin": for_rows(-0.5, 0.5)},
            "first axis": {"axis": 0},
            "everything": {"margin": -0.3},
        },
        shapes={"first axis": (5, 8)},
        makers={"first axis": lambda rng, shape: signed_pairs(rng, shape, 0)},
        edges=_COSINE_EDGES,
        accurate=signed_pairs_at,
        scales=(1e-12, 1.0, 1e30),
        conditioned=0.0,
    ),
    Case(
        jaxloss.hinge_embedding_loss,
        formulas.hinge_embedding_loss,
        distances,
        "elementwise",
        options={
            "weighted": {"where": kept_elements, "weights": columns(0.5, 2.0), "margin": columns(0.5, 1.5)},
            "everything": {"margin": 0.7},
        },
        edges=_HINGE_EDGES,
        accurate=distances_at,
        scales=(1e-3, 1.0, 1e3),
    ),
    Case(
        jaxloss.margin_ranking_loss,
        formulas.margin_ranking_loss,
        ranked,
        "elementwise",
        options={
            "weighted": {"where": kept_elements, "weights": columns(0.5, 2.0), "margin": columns(0.5, 1.5)},
            "broadcast": {},
            "everything": {"margin": 0.3},
        },
        makers={"broadcast": lambda rng, shape: [(r := ranked(rng, shape))[0], r[1][0], r[2][:, :1]]},
        edges=_RANKING_EDGES,
        zero=ranked_right,
        accurate=ranked_at,
        scales=(1e-3, 1.0, 1e3),
    ),
    Case(
        jaxloss.ntxent,
        formulas.ntxent,
        in_groups,
        "total",
        options={"cold": {"temperature": 0.1}, "kept": {"where": kept}, "everything": {"temperature": 0.5}},
        edges=_NTXENT_EDGES,
        optax="ntxent",
    ),
    Case(
        jaxloss.supervised_contrastive_loss,
        formulas.supervised_contrastive_loss,
        in_groups,
        "batch",
        options={
            "inside": {"variant": "in"},
            "kept": {"where": kept, "weights": weights, "temperature": 0.2},
            "everything": {"variant": "in", "temperature": 0.5},
        },
        edges=_SUPERVISED_EDGES,
        temporaries=(2.75, 6.0),
    ),
    Case(
        circle_with_moving_weights,
        formulas.circle_loss,
        in_groups,
        "batch",
        options={
            "kept": {"where": kept, "weights": weights},
            "steep": {"gamma": 80.0},
            "everything": {"margin": 0.25, "gamma": 10.0},
        },
        edges=_CIRCLE_EDGES,
        temporaries=(3.5, 7.0),
    ),
    Case(
        jaxloss.barlow_twins_loss,
        formulas.barlow_twins_loss,
        two_views,
        "total",
        options={"kept": {"where": kept}, "everything": {"off_diagonal_weight": 0.3}},
        edges=_BARLOW_EDGES,
    ),
    Case(
        jaxloss.vicreg_loss,
        formulas.vicreg_loss,
        two_views,
        "total",
        options={
            "kept": {"where": kept},
            "everything": {
                "invariance_weight": 2.0,
                "variance_weight": 3.0,
                "covariance_weight": 0.5,
                "target_deviation": 1.9,
                "eps": 0.05,
            },
        },
        edges=_VICREG_EDGES,
    ),
    Case(
        jaxloss.ranking_softmax_loss,
        formulas.ranking_softmax_loss,
        lists,
        "total",
        options={
            "each list": {"reduce_fn": None, "where": ragged},
            "ragged": {"where": ragged, "weights": items(0.5, 2.0)},
            "everything": {"weights": items(0.5, 2.0), "reduce_fn": lambda rng, shape: jnp.sum},
        },
        edges=_RANKING_SOFTMAX_EDGES,
        optax="ranking_softmax_loss",
        zero=lambda rng, shape: [300.0 * (x := 1.0 * (np.arange(shape[-1]) == 1)), x],
        accurate=lists_apart,
        scales=(1e-3, 1.0, 10.0, 1e3),
    ),
]
