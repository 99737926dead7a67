"""Contrastive and ranking losses: definitions, digits, memory, bad input."""

import functools
import math

import contrastive_formulas as formulas
import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers
import pytest
from compiled import as_users_do, traced_in
from contrastive_batches import FEATURES, GROUPS, LABELS, PAIRS, N, arguments, close, numbers, pair
from jax.experimental import checkify
from registry_formulas import FLOAT64

import jaxloss
from jaxloss._contrastive import vectors
from jaxloss._testing.subject import jit_once

# Definitions


def test_simclr():
    """Two views of each example: the softmax over the 2N - 1 others, of which one is the other view."""
    x = jnp.concatenate(pair())
    labels = jnp.tile(jnp.arange(N), 2)
    u = np.asarray(x, np.float64)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    z = u @ u.T / 0.5
    np.fill_diagonal(z, -np.inf)
    lse = np.log(np.exp(z).sum(1))
    want = np.mean(lse - z[np.arange(2 * N), np.roll(np.arange(2 * N), N)])
    close(jaxloss.ntxent(x, labels, 0.5), want)
    for variant in ("out", "in"):
        close(jaxloss.supervised_contrastive_loss(x, labels, temperature=0.5, variant=variant, reduction="mean"), want)


def test_larger_groups_differ():
    """In ntxent the other positives are not in the denominator; the logarithm of a mean is larger than the mean."""
    x, labels = numbers(0, 15, FEATURES), jnp.arange(15) % 5
    options = {"temperature": 0.5, "reduction": "mean"}
    outside, inside = (jaxloss.supervised_contrastive_loss(x, labels, variant=v, **options) for v in ("out", "in"))
    assert jaxloss.ntxent(x, labels, 0.5) < 0.98 * outside
    assert inside < 0.99 * outside


def test_relations_of_losses_in_a_batch():
    x, y = pair()
    ways = jaxloss.info_nce_loss(x, y, temperature=0.5), jaxloss.info_nce_loss(y, x, temperature=0.5)
    close(jaxloss.clip_loss(x, y, temperature=0.5), (ways[0] + ways[1]) / 2)
    close(jaxloss.n_pair_loss(x, y), jaxloss.info_nce_loss(x, y, temperature=1.0, normalize=False))
    others = jnp.stack([jnp.delete(y, i, 0, assume_unique_indices=True) for i in range(N)])
    close(jaxloss.info_nce_loss(x, y, others), jaxloss.info_nce_loss(x, y))
    z = jnp.einsum("id,jd->ij", x, y)
    with jax.numpy_rank_promotion("allow"):
        want = optax.losses.softmax_cross_entropy_with_integer_labels(z, jnp.arange(N))
    close(jaxloss.n_pair_loss(x, y), want, 1e-5)


def test_gradient_of_circle_loss_is_that_of_the_paper():
    """Eq. 10 and 11: the weights are constants."""
    margin, gamma = 0.25, 6.0
    x = np.asarray(pair()[0], np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    s = x @ x.T
    positive, negative = formulas.groups(FLOAT64, np.asarray(LABELS))
    near = np.where(positive, np.exp(-gamma * np.maximum(1 + margin - s, 0) * (s - 1 + margin)), 0)
    far = np.where(negative, np.exp(gamma * np.maximum(s + margin, 0) * (s - margin)), 0)
    product = near.sum(1) * far.sum(1)
    z = (product / (1 + product))[:, None]
    to_s = z * gamma * far / far.sum(1, keepdims=True) * np.maximum(s + margin, 0)
    to_s -= z * gamma * near / near.sum(1, keepdims=True) * np.maximum(1 + margin - s, 0)
    want = to_s @ x + to_s.T @ x
    want -= x * (want * x).sum(1, keepdims=True)  # of unit vectors
    unit = jnp.asarray(x, jnp.float32)
    options = {"margin": margin, "gamma": gamma, "reduction": "sum"}
    close(jax.grad(lambda x: jaxloss.circle_loss(x, LABELS, **options))(unit), want, 1e-5)
    moving = jax.grad(lambda x: jaxloss.circle_loss(x, LABELS, constant_weights=False, **options))(unit)
    assert not np.allclose(moving, want, rtol=0.1)


def test_who_counts_in_a_mean():
    x = numbers(0, 5, 3)
    labels = jnp.asarray([0, 0, 1, 1, 2])  # the last is alone
    for loss in (jaxloss.supervised_contrastive_loss, jaxloss.circle_loss):
        losses = loss(x, labels)
        assert losses[4] == 0
        close(loss(x, labels, reduction="mean"), jnp.mean(losses[:4]))
        close(loss(x, labels, weights=jnp.arange(5.0), reduction="mean"), jnp.sum(jnp.arange(4.0) * losses[:4]) / 6)
    assert np.all(np.asarray(jaxloss.circle_loss(x[:2], labels[:2])) == 0)  # nothing but positives


@pytest.mark.peers
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_torch_agrees(reduction):
    torch = peers.load("torch")
    functional = torch.nn.functional
    a, b = pair()
    c, y = numbers(8, N, FEATURES), jnp.asarray(np.random.default_rng(9).choice([-1, 1], N), jnp.int32)
    d, e = jnp.abs(a[:, 0]), b[:, 0]

    def there(*arrays):
        return [torch.tensor(np.asarray(v)) for v in arrays]

    for mine, theirs, args, options in (
        (jaxloss.cosine_embedding_loss, functional.cosine_embedding_loss, (a, b, y), {"margin": 0.2}),
        (jaxloss.hinge_embedding_loss, functional.hinge_embedding_loss, (d, y), {"margin": 0.8}),
        (jaxloss.margin_ranking_loss, functional.margin_ranking_loss, (d, e, y), {"margin": 0.3}),
    ):
        want = theirs(*there(*args), reduction=reduction, **options).numpy()
        close(mine(*args, reduction=reduction, **options), want, 1e-5)
    for p in (1, 2, 3):
        for swap in (False, True):
            theirs = functional.triplet_margin_loss(*there(a, b, c), p=p, swap=swap, eps=0.0, reduction=reduction)
            mine = jaxloss.triplet_margin_loss(a, b, c, norm_degree=p, swap=swap, eps=0.0, reduction=reduction)
            close(mine, theirs.numpy(), 1e-5)


# Digits


def assert_rows(got, want):
    """To 8 ULP of the largest entry of each row."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    size = np.max(np.abs(want), axis=-1, keepdims=True) if want.ndim else np.abs(want)
    assert np.all(np.abs(got - want) <= 8 * 2.0**-23 * size), np.max(np.abs(got - want) / size) * 2**23


def gradient_in_float64(loss, args):
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a, np.float64)) if a.dtype.kind == "f" else jnp.asarray(a) for a in args]
        moving = tuple(i for i, a in enumerate(args) if a.dtype.kind == "f")
        return jit_once(jax.grad(lambda *a: jnp.sum(loss(*a)), moving))(*wide)


@pytest.mark.parametrize("scale", [*(pytest.param(s, marks=pytest.mark.long) for s in (1e-30, 1.0)), 1e30])
@pytest.mark.parametrize("name", ["info_nce", "clip", "siglip", "barlow", "ntxent", "out", "in", "circle"])
def test_length_does_not_count(name, scale):
    """Values to 8 ULP and gradients to 8 ULP of the largest entry of a row, whatever the length of the embeddings."""
    loss, args = {**PAIRS, **GROUPS}[name], arguments(name)
    formula = getattr(formulas, loss.func.__name__ if hasattr(loss, "func") else loss.__name__)
    options = {k: v for k, v in getattr(loss, "keywords", {}).items() if k != "constant_weights"}
    args = [np.asarray(a * scale) if a.dtype.kind == "f" else np.asarray(a) for a in args]
    wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in args]
    want = np.asarray(formula(FLOAT64, *wide, **options))
    np.testing.assert_allclose(as_users_do(loss)(*args), want, rtol=8 * 2.0**-23)
    moving = tuple(i for i, a in enumerate(args) if a.dtype.kind == "f")
    got = as_users_do(jax.grad(lambda *a: jnp.sum(loss(*a)), moving))(*args)
    jax.tree.map(assert_rows, got, gradient_in_float64(loss, args))


def test_nearly_equal_views():
    """1 - C_ii is 2e-10 here, of which 1 minus a correlation in float32 would have nothing."""
    x = numbers(0, 64, 3)
    y = x + 2e-5 * numbers(1, 64, 3)
    wide = [np.asarray(v, np.float64) for v in (x, y)]
    want = formulas.barlow_twins_loss(FLOAT64, *wide, off_diagonal_weight=0.0)
    np.testing.assert_allclose(jaxloss.barlow_twins_loss(x, y, off_diagonal_weight=0.0), want, rtol=2e-2)
    assert want < 1e-18


def test_confident_groups_keep_their_digits():
    x = jnp.asarray([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    labels = jnp.asarray([0, 0, 1, 1])
    want = 2 * math.exp(-200.0 / 3)
    close(jaxloss.ntxent(x, labels, 0.03), want, 1e-5)
    for variant in ("out", "in"):
        close(jaxloss.supervised_contrastive_loss(x, labels, temperature=0.03, variant=variant), [want] * 4, 1e-5)
    z = jnp.asarray([-1e30, -90.0, -80.0, 0.0, 39.0, 41.0, 100.0, 1e30])
    log1p_exp = jaxloss._contrastive.arguments.log1p_exp
    with np.errstate(over="ignore"):
        wide = np.asarray(z, np.float64)
        want = np.where(wide > 700, wide, np.log1p(3 * np.exp(np.minimum(wide, 700))))
    close(log1p_exp(z, jnp.float32(3.0)), np.where(want < 1e-37, 0, want), 1e-6)
    slope = jax.vmap(jax.grad(log1p_exp), (0, None))(z, jnp.float32(3.0))
    close(slope, 1 / (1 + np.exp(np.minimum(-wide, 700)) / 3), 1e-6)


DEGREES = [*((d, False) for d in (0.5, 1, 1.5, 2, 3, 7.25, math.inf)), (1, True), (2, True)]


@pytest.mark.parametrize("degree, shortcut", DEGREES)  # which one CPU takes where no power is out of range
@pytest.mark.parametrize("scale", [1e-25, 1e-19, 1.0, 1e25])
def test_distances_of_any_degree_and_length(degree, shortcut, scale, monkeypatch):
    monkeypatch.setattr(vectors.blocks, "pays_a_branch", lambda x: shortcut)
    traced_in(("distances", shortcut))
    a, p = (np.asarray(v * scale) for v in pair())
    n = a + p / 4  # a distance of 0 would have it all done with care
    wide = [v.astype(np.float64) for v in (a, p, n)]
    options = {"norm_degree": degree, "eps": 0.0, "margin": 0.0}
    loss = jax.jit(lambda p: jaxloss.triplet_margin_loss(a, p, n, **options))
    np.testing.assert_allclose(
        loss(p),
        formulas.triplet_margin_loss(FLOAT64, *wide, **options),
        rtol=2e-6,
    )
    slope = jax.grad(lambda p: jnp.sum(loss(p)))(jnp.asarray(p))
    z = wide[1] - wide[0]
    d = formulas.triplet_margin_loss(FLOAT64, wide[0], wide[1], wide[0], **options)[:, None]
    want = np.sign(z) * (np.abs(z) == d) if degree == math.inf else np.sign(z) * (np.abs(z) / d) ** (degree - 1)
    np.testing.assert_allclose(slope, want, rtol=5e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1.0, 1e25])
@pytest.mark.parametrize("name", ["cosine_distance", "info_nce_loss", "triplet_margin_loss"])
def test_vectors_that_are_constants(name, scale):
    """Of constants XLA makes (z / c)^2 into z^2 / c^2, which no scale c can save."""
    x, y = (np.asarray(v * scale) for v in pair())
    others, options = ((x + y, y), {"eps": 0.0}) if name == "triplet_margin_loss" else ((y,), {})
    loss = functools.partial(getattr(jaxloss, name), **options)
    want = as_users_do(loss)(x, *others)
    close(as_users_do(lambda x: loss(x, *map(jnp.asarray, others)))(x), want)
    close(as_users_do(lambda: loss(jnp.asarray(x), *map(jnp.asarray, others)))(), want)
    assert np.all(np.isfinite(want))


def test_dropped_labels_leave_no_nan():
    """Nor in what is kept for a gradient, where `jax_debug_nans` would find it."""
    x, y = pair()
    kept = jnp.arange(N) % 2 == 0
    with jax.debug_nans(True):
        for loss, wrong in ((jaxloss.cosine_embedding_loss, 0.0), (jaxloss.contrastive_loss, -1.0)):
            labels = jnp.where(kept, 1.0, wrong)
            jax.grad(lambda x, loss=loss, labels=labels: loss(x, y, labels, where=kept, reduction="sum"))(x)


def test_degree_as_an_array():
    """It is differentiated, and in second derivatives where coordinates agree."""
    a, p = pair()
    n = numbers(8, N, FEATURES)

    def total(degree, a=a):
        return jaxloss.triplet_margin_loss(a, p, n, norm_degree=degree, margin=20.0, reduction="sum")

    for degree in (1.3, 2.0, 4.5):
        step = 1e-3
        wide = [np.asarray(v, np.float64) for v in (a, p, n)]
        above, below = (
            formulas.triplet_margin_loss(FLOAT64, *wide, norm_degree=degree + h, margin=20.0).sum()
            for h in (step, -step)
        )
        close(jax.grad(total)(jnp.float32(degree)), (above - below) / (2 * step), 1e-4)
    same = p.at[:, 0].add(1.0)  # all other coordinates agree
    hessians = [jax.hessian(lambda e, d=d: total(d, same + e))(jnp.zeros((1, FEATURES))) for d in (2, jnp.float32(2))]
    close(hessians[1], hessians[0], 1e-5)
    assert np.all(np.abs(np.diagonal(np.asarray(hessians[0])[0, :, 0])) > 0.01)


# What peers get wrong


def test_no_two_examples_belong_together():
    """optax divides by 0."""
    x, _ = pair()
    value, slope = jax.value_and_grad(jaxloss.ntxent)(x, jnp.arange(N))
    assert value == 0 and np.all(np.asarray(slope) == 0)
    value, slope = jax.value_and_grad(jaxloss.ntxent)(x, jnp.zeros(N, jnp.int32))
    assert value == 0 and np.all(np.asarray(slope) == 0)


def test_short_embeddings_of_ntxent():
    """optax floors squared norms at 1e-7, in float32 and of every length."""
    x, _ = pair()
    close(jaxloss.ntxent(1e-6 * x, LABELS), jaxloss.ntxent(x, LABELS), 1e-5)


def test_odd_degrees_and_identical_triplets():
    """optax has no absolute value: degree 1 cancels, and degree 3 is NaN."""
    a, p, n = jnp.zeros((1, 2)), jnp.asarray([[1.0, -1.0]]), jnp.asarray([[-3.0, -4.0]])
    options = {"eps": 0.0, "margin": 10.0}
    close(jaxloss.triplet_margin_loss(a, p, n, norm_degree=1, **options), [2.0 - 7.0 + 10.0])
    close(jaxloss.triplet_margin_loss(a, p, n, norm_degree=3, **options), [2 ** (1 / 3) - 91 ** (1 / 3) + 10.0])
    for degree in (0.5, 1, 2, 3):
        slope = jax.grad(lambda a: jaxloss.triplet_margin_loss(a, a, a, norm_degree=degree, eps=0.0)[0])(a)  # noqa: B023
        assert np.all(np.asarray(slope) == 0)


# Masks


@pytest.mark.parametrize("name", ["barlow", "vicreg", "ntxent"])
def test_masked_batches_are_those_of_what_is_kept(name):
    loss, (x, second) = {**PAIRS, **GROUPS}[name], arguments(name)
    keep = np.random.default_rng(2).random(N) < 0.6
    want = jax.value_and_grad(loss)(x[keep], second[keep])
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        value, slope = jax.value_and_grad(loss)(x.at[~keep].set(bad), second, where=jnp.asarray(keep))
        close((value, slope[keep]), want)
        assert np.all(np.asarray(slope)[~keep] == 0)
    value, slope = jax.value_and_grad(loss)(x * jnp.nan, second, where=jnp.zeros(N, bool))
    assert value == 0 and np.all(np.asarray(slope) == 0)


def test_negatives_of_dropped_queries():
    x, y = pair()
    negatives = numbers(7, N, 3, FEATURES)
    keep = jnp.arange(N) % 3 > 0
    poisoned = jnp.where(keep[:, None, None], negatives, jnp.nan)
    got = jax.value_and_grad(lambda n: jaxloss.info_nce_loss(x, y, n, where=keep, reduction="mean"), allow_int=False)(
        poisoned
    )
    want = jax.value_and_grad(lambda n: jnp.mean(jaxloss.info_nce_loss(x, y, n)[keep]))(negatives)
    close(got, want)


def test_ragged_lists():
    scores, relevance = numbers(0, 4, 6), jnp.abs(numbers(1, 4, 6))
    length = jnp.asarray([6, 3, 0, 1])
    keep = jnp.arange(6)[None] < length[:, None]
    weights = jnp.abs(numbers(2, 4, 6))

    def each(s, r, w):
        return [
            jaxloss.ranking_softmax_loss(s[i, :n], r[i, :n], weights=w[i, :n]) for i, n in enumerate((6, 3, 0, 1)) if n
        ]

    def ours(s, r, w):
        return jaxloss.ranking_softmax_loss(s, r, where=keep, weights=w)

    want = jax.value_and_grad(lambda *a: jnp.mean(jnp.stack(each(*a))), (0, 1, 2))(scores, relevance, weights)
    given = [jnp.where(keep, v, jnp.nan) for v in (scores, relevance, weights)]
    close(jax.value_and_grad(ours, (0, 1, 2))(*given), want)
    losses = jaxloss.ranking_softmax_loss(given[0], given[1], where=keep, reduce_fn=None)
    assert losses.shape == (4,) and losses[2] == 0
    close(jaxloss.ranking_softmax_loss(given[0], given[1], where=keep, reduce_fn=jnp.sum), jnp.sum(losses))
    largest = jaxloss.ranking_softmax_loss(
        given[0], given[1], where=keep, reduce_fn=functools.partial(jnp.max, initial=-jnp.inf)
    )
    close(largest, jnp.max(losses))
    nothing = functools.partial(jaxloss.ranking_softmax_loss, where=jnp.zeros((4, 6), bool))
    value, slope = jax.value_and_grad(nothing)(scores * jnp.nan, relevance)
    assert value == 0 and np.all(np.asarray(slope) == 0)
    one_list = jaxloss.ranking_softmax_loss(scores, relevance, where=keep[1])  # the same items of each list
    close(one_list, jaxloss.ranking_softmax_loss(scores[:, :3], relevance[:, :3]))


# Memory, loops, precision


@pytest.mark.parametrize("name", [*PAIRS, *GROUPS])
def test_nothing_of_the_size_of_all_pairs_is_kept(name):
    loss = {**PAIRS, **GROUPS}[name]
    x = numbers(0, 64, 3)
    args = (x, x + 1) if name in PAIRS else (x, jnp.arange(64) % 7)
    moving = args[: 2 if name in PAIRS else 1]

    def kept(*moving):
        return jax.tree.leaves(jax.vjp(lambda *m: loss(*m, *args[len(m) :]), *moving)[1])

    sizes = [v.aval.size for v in jax.make_jaxpr(kept)(*moving).jaxpr.outvars]
    assert max(sizes) <= x.size


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: jaxloss.siglip_loss(x, x**2, temperature=1.0, bias=0.0, reduction="mean"),
        lambda x: jaxloss.ntxent(x, jnp.arange(6) % 2, 0.5),
        lambda x: jaxloss.supervised_contrastive_loss(x, jnp.arange(6) % 2, variant="in", reduction="mean"),
        lambda x: jaxloss.triplet_margin_loss(x, x**2, 0 * x, norm_degree=3, margin=9.0, reduction="mean"),
        lambda x: jaxloss.contrastive_loss(x, x**2, jnp.arange(6) % 2, margin=9.0, reduction="mean"),
        lambda x: jaxloss.vicreg_loss(x, x**2),
    ],
    ids=["siglip", "ntxent", "in", "triplet", "contrastive", "vicreg"],
)
def test_second_derivatives_through_a_scan(loss):
    """Forward over reverse, where JAX evaluates a loop in parts."""
    xs, v = numbers(0, 2, 6, 3), numbers(1, 6, 3)

    def looped(e):
        return jax.lax.scan(lambda c, x: (c + loss(x + e * v), None), 0.0, xs)[0]

    def plain(e):
        return loss(xs[0] + e * v) + loss(xs[1] + e * v)

    close(jax.jit(jax.jacfwd(jax.jacrev(looped)))(0.1), jax.jit(jax.jacfwd(jax.jacrev(plain)))(0.1), 2e-5)


def test_products_have_all_digits_unless_told_otherwise():
    x, y = pair()
    program = str(jax.make_jaxpr(jaxloss.clip_loss)(x, y))
    assert "HIGHEST" in program
    with jax.default_matmul_precision("bfloat16"):
        assert "HIGHEST" not in str(jax.make_jaxpr(jaxloss.clip_loss)(x, y))


# Bad input


def raises(error, *parts):
    return pytest.raises(error, match=".*".join(parts))


def test_shapes_of_a_batch():
    x, y = pair()
    with raises(ValueError, "clip_loss", "text_embeddings", r"\(16, 5\)", r"\(15, 5\)"):
        jaxloss.clip_loss(x, y[:-1])
    with raises(ValueError, "info_nce_loss", "queries", "features", r"\(16,\)", "vmap"):
        jaxloss.info_nce_loss(x[:, 0], y)
    with raises(ValueError, "ntxent", "labels", r"\(16,\)", r"\(15,\)"):
        jaxloss.ntxent(x, LABELS[:-1])
    with raises(ValueError, "info_nce_loss", "negatives", r"\[16, negatives, 5\]", r"\(7, 4\)"):
        jaxloss.info_nce_loss(x, y, numbers(0, 7, 4))
    with raises(ValueError, "siglip_loss", "bias", "single number", r"\(16,\)"):
        jaxloss.siglip_loss(x, y, bias=jnp.ones(N))
    with raises(ValueError, "supervised_contrastive_loss", "variant", "'out', 'in'", "'both'"):
        jaxloss.supervised_contrastive_loss(x, LABELS, variant="both")
    with raises(ValueError, "triplet_margin_loss", "norm_degree", "0"):
        jaxloss.triplet_margin_loss(x, y, x, norm_degree=0)
    with raises(ValueError, "triplet_margin_loss", "negatives", r"\(16, 16, 5\)", r"\(16, 5\)"):
        jaxloss.triplet_margin_loss(x, y, jnp.stack([x] * N))
    with raises(TypeError, "ranking_softmax_loss", "reduce_fn", "'mean'"):
        jaxloss.ranking_softmax_loss(x, y, reduce_fn="mean")


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int32, jnp.uint8, jnp.float32, jnp.bfloat16, jnp.bool_])
def test_labels_of_pairs_of_any_dtype(dtype):
    """Booleans are what they say; 0, the label of others' conventions, is never taken for one of ours."""
    d = jnp.asarray([0.25, 0.5])
    unsigned = jnp.issubdtype(dtype, jnp.unsignedinteger)
    labels = jnp.asarray([True, False]) if dtype == jnp.bool_ else jnp.asarray([1, 1 if unsigned else -1]).astype(dtype)
    close(jaxloss.hinge_embedding_loss(d, labels), [0.25, 0.5])
    if dtype != jnp.bool_:
        assert np.all(np.isnan(jaxloss.hinge_embedding_loss(d, jnp.zeros(2, dtype))))


def test_labels_have_no_gradient():
    x, y = pair()
    labels = jnp.ones(N)
    for loss in (
        lambda y_: jaxloss.cosine_embedding_loss(x, y, y_, reduction="sum"),
        lambda y_: jaxloss.hinge_embedding_loss(x[:, 0], y_, reduction="sum"),
        lambda y_: jaxloss.margin_ranking_loss(x[:, 0], y[:, 0], y_, reduction="sum"),
    ):
        loss(labels)
        with pytest.raises(TypeError, match="labels .*no gradient; pass jax.lax.stop_gradient"):
            jax.grad(loss)(labels)


def test_checkify_names_the_label():
    x, y = pair()
    labels = jnp.ones(N, jnp.int32).at[3].set(0)
    keep = jnp.arange(N) != 3
    for loss in (
        lambda where: jaxloss.cosine_embedding_loss(x, y, labels, where=where),
        lambda where: jaxloss.hinge_embedding_loss(x[:, 0], labels, where=where),
        lambda where: jaxloss.margin_ranking_loss(x[:, 0], y[:, 0], labels, where=where),
    ):
        checked = jax.jit(checkify.checkify(loss, errors=checkify.user_checks))
        checked(keep)[0].throw()
        with pytest.raises(checkify.JaxRuntimeError, match="labels must be 1 or -1"):
            checked(keep | True)[0].throw()
