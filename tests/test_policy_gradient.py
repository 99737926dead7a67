"""The clipped surrogate: what is clipped, what a mean is, and ratios that overflow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import jaxloss
from jaxloss import policy_gradient_loss

RATIOS = np.array([0.5, 1.1, 1.5])


def close(got, want, rtol=2e-6, atol=0.0):
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=rtol, atol=atol)


def rollout(shape=(6, 7), seed=0):
    """Log-probabilities, advantages of sequences, and tokens to keep: of one sequence none."""
    rng = np.random.default_rng(seed)
    new, old = -rng.uniform(0.1, 2.0, (2, *shape)).astype(np.float32)
    keep = np.arange(shape[1]) < rng.integers(1, shape[1] + 1, shape[0])[:, None]
    keep[2] = False
    return (
        jnp.asarray(new),
        jnp.asarray(old),
        jnp.asarray(rng.standard_normal(shape[0]), jnp.float32),
        jnp.asarray(keep),
    )


# Clipping.


@pytest.mark.parametrize(
    "advantage, factors, unclipped", [(2.0, [0.5, 1.1, 1.2], [1, 1, 0]), (-3.0, [0.8, 1.1, 1.5], [0, 1, 1])]
)
def test_clipped_on_the_side_that_binds(advantage, factors, unclipped):
    def loss(new, advantages, low, high):
        return policy_gradient_loss(new, jnp.zeros(3), advantages, clip_low=low, clip_high=high, reduction="sum")

    args = jnp.log(jnp.asarray(RATIOS)), jnp.full(3, advantage), 0.2, 0.2
    values, slopes = jax.value_and_grad(loss, (0, 1, 2, 3))(*args)
    close(values, -advantage * np.sum(factors))
    close(slopes[0], -advantage * RATIOS * unclipped)
    close(slopes[1], -np.array(factors))
    close(slopes[2:], (advantage, 0.0) if advantage < 0 else (0.0, -advantage))  # one token is clipped


def test_bounds_of_their_own():
    """DAPO raises the upper one; without bounds it is the plain importance-weighted return."""
    args = jnp.log(jnp.asarray(RATIOS)), jnp.zeros(3)
    close(policy_gradient_loss(*args, 1.0, clip_high=0.28), [-0.5, -1.1, -1.28])
    close(policy_gradient_loss(*args, -1.0, clip_low=0.4), [0.6, 1.1, 1.5])
    for advantage in (1.0, -1.0):
        close(policy_gradient_loss(*args, advantage, clip_low=1.0, clip_high=np.inf), -advantage * RATIOS)
    lows, highs = jnp.array([0.6, 0.1, 0.1]), jnp.array([0.1, 0.05, 0.9])
    close(policy_gradient_loss(*args, 1.0, clip_low=lows, clip_high=highs), [-0.5, -1.05, -1.5])


def test_present_policy_is_reinforce():
    """Without old log-probabilities the ratio is 1 and its gradient that of the log-probability."""
    new, _, advantages, keep = rollout()
    loss = functools.partial(policy_gradient_loss, advantages=advantages, where=keep, reduction="sum")
    value, slope = jax.value_and_grad(loss)(new, None)
    np.testing.assert_array_equal(value, loss(new, new))
    np.testing.assert_array_equal(slope, jax.grad(loss)(new, new))
    close(slope, np.where(keep, -np.asarray(advantages)[:, None], 0))


def test_expected_gradient_is_that_of_the_return():
    """Every action weighed by its probability: the gradient is that of the expected reward by the logits."""
    rewards, logits = jnp.array([1.0, -2.0, 0.5, 3.0]), jnp.array([0.3, 0.1, -1.0, 0.2])
    probabilities = jax.nn.softmax(logits)

    def loss(logits, baseline):
        x = jax.nn.log_softmax(logits)[:, None]
        weights = probabilities[:, None]
        return policy_gradient_loss(x, None, rewards - baseline, weights=weights, reduction="sum")

    want = -jax.grad(lambda x: jax.nn.softmax(x) @ rewards)(logits)
    for baseline in (0.0, 5.0):
        close(jax.grad(loss)(logits, baseline), want, 1e-5)


# What a mean is. The loops are the algorithms as their papers write them.


def token_losses(new, old, advantages):
    ratio = np.exp(np.asarray(new, np.float64) - np.asarray(old, np.float64))
    a = np.asarray(advantages, np.float64)[:, None]
    return -np.minimum(ratio * a, np.clip(ratio, 0.8, 1.2) * a)


def by_hand(losses, keep, weights, normalizer):
    total = count = 0.0
    for row, kept, w in zip(losses, keep, weights, strict=True):
        if not kept.any():
            continue
        for loss, weight in zip(row[kept], w[kept], strict=True):
            total += weight * loss / {"token": 1, "sequence": kept.sum()}.get(normalizer, normalizer)
        count += w[kept].sum() if normalizer == "token" else w[kept].mean()
    return total, total / count


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("normalizer", ["token", "sequence", 16, 16.0])
def test_normalizers(normalizer, weighted):
    new, old, advantages, keep = rollout()
    weights = np.random.default_rng(1).uniform(0.5, 2.0, new.shape) if weighted else np.ones(new.shape)
    want = by_hand(token_losses(new, old, advantages), np.asarray(keep), weights, normalizer)
    for reduction, exact in zip(("sum", "mean"), want, strict=True):
        got = policy_gradient_loss(
            new,
            old,
            advantages,
            normalizer=normalizer,
            where=keep,
            weights=jnp.asarray(weights, jnp.float32) if weighted else None,
            reduction=reduction,
        )
        close(got, exact, 1e-5)


def test_length_may_be_traced():
    data = rollout()[:3]
    loss = functools.partial(policy_gradient_loss, *data, reduction="mean")
    value, slope = jax.jit(jax.value_and_grad(lambda n: loss(normalizer=n)))(16.0)
    close(value, loss(normalizer=16))
    close(slope, -value / 16)


def test_sequences_of_one_length_have_one_mean():
    new, old, advantages, _ = rollout()
    means = [
        policy_gradient_loss(new, old, advantages, normalizer=n, reduction="mean") for n in ("token", "sequence", 7)
    ]
    close(means, float(means[0]))


def test_empty_sequences_count_if_the_denominator_says_so():
    """As in TRL, whose mean over sequences divides by all of them."""
    new, old, advantages, keep = rollout()
    call = functools.partial(policy_gradient_loss, new, old, advantages, normalizer="sequence", where=keep)
    close(call(reduction="mean", denominator=6), call(reduction="sum") / 6)
    close(call(reduction="mean"), call(reduction="sum") / 5)


@pytest.mark.parametrize("normalizer", ["token", "sequence", 16])
def test_micro_batches_add_up(normalizer):
    *data, keep = rollout()
    count = float(jnp.sum(keep) if normalizer == "token" else jnp.sum(jnp.any(keep, -1)))

    def loss(new, old, advantages, keep, **options):
        return policy_gradient_loss(
            new, old, advantages, normalizer=normalizer, where=keep, reduction="mean", **options
        )

    whole, slope = jax.value_and_grad(loss)(*data, keep)
    parts = [jax.value_and_grad(loss)(*(x[i : i + 2] for x in (*data, keep)), denominator=count) for i in (0, 2, 4)]
    close(sum(p for p, _ in parts), whole, 1e-5)
    close(np.concatenate([s for _, s in parts]), slope, 1e-5)


@pytest.mark.parametrize("normalizer", ["token", "sequence", 16])
@pytest.mark.parametrize("weighted", [False, True])
def test_mean_across_devices(normalizer, weighted):
    """Each of 4 devices keeps another number of tokens and sequences."""
    data = rollout((8, 7))
    weights = jnp.linspace(0.5, 2.0, 56).reshape(8, 7) if weighted else jnp.ones((8, 1))
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))

    def loss(new, old, advantages, keep, weights, **options):
        return policy_gradient_loss(
            new, old, advantages, normalizer=normalizer, where=keep, weights=weights, reduction="mean", **options
        )

    parallel = jax.shard_map(
        functools.partial(loss, axis_name="data"), mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec()
    )
    got = jax.jit(jax.value_and_grad(parallel))(*data, weights)
    want = jax.jit(jax.value_and_grad(loss))(*data, weights)
    close(got[0], want[0], 1e-5)
    close(got[1], want[1], 1e-5, 1e-8)


def test_nothing_kept():
    new, old, advantages, keep = rollout()
    for normalizer in ("token", "sequence", 16):
        for importance in ("token", "sequence"):
            loss = functools.partial(
                policy_gradient_loss,
                advantages=advantages,
                where=jnp.zeros_like(keep),
                importance=importance,
                normalizer=normalizer,
                reduction="mean",
            )
            value, slope = jax.value_and_grad(loss)(jnp.full_like(new, jnp.nan), old)
            assert value == 0
            assert not np.any(slope)


# Sequences.


def test_ratio_of_a_sequence_is_a_geometric_mean():
    """GSPO, equation 5 and 7: the same mean over tokens, then over sequences; the gradient reaches every token."""
    new, old, advantages, keep = rollout()
    total, rows = 0.0, [i for i in range(6) if keep[i].any()]
    for i in rows:
        kept = np.asarray(keep[i])
        s = np.exp(np.mean((np.asarray(new[i], np.float64) - np.asarray(old[i], np.float64))[kept]))
        a = float(advantages[i])
        total += -min(s * a, np.clip(s, 0.8, 1.2) * a)
    call = functools.partial(policy_gradient_loss, importance="sequence", normalizer="sequence", where=keep)
    close(call(new, old, advantages, reduction="mean"), total / len(rows), 1e-5)
    wide = functools.partial(call, clip_low=1.0, clip_high=jnp.inf, reduction="sum")
    slope = jax.grad(wide)(new, old, jnp.ones(6))
    count = np.maximum(np.asarray(keep).sum(-1, keepdims=True), 1)
    s = np.exp(np.sum(np.where(keep, np.asarray(new) - np.asarray(old), 0), -1, keepdims=True) / count)
    close(slope, np.where(keep, -s / count, 0), 1e-5)


def test_advantages_of_sequences_and_tokens():
    new, old, advantages, keep = rollout()
    want = policy_gradient_loss(new, old, advantages, where=keep)
    for same in (advantages[:, None], jnp.broadcast_to(advantages[:, None], new.shape)):
        np.testing.assert_array_equal(policy_gradient_loss(new, old, same, where=keep), want)
    square = policy_gradient_loss(new[:, :6], old[:, :6], advantages)  # as many tokens as sequences
    np.testing.assert_array_equal(square, policy_gradient_loss(new[:, :6], old[:, :6], advantages[:, None]))
    row = policy_gradient_loss(new[0], old[0], advantages[0])
    np.testing.assert_array_equal(row, policy_gradient_loss(new, old, advantages)[0])
    whole = policy_gradient_loss(new, old, jnp.array([1, -1, 1, -1, 1, 1]))
    np.testing.assert_array_equal(whole, policy_gradient_loss(new, old, jnp.array([1.0, -1.0, 1.0, -1.0, 1.0, 1.0])))


# The divergence.


def test_divergence_by_hand():
    new, reference = jnp.log(jnp.array([0.5, 0.25])), jnp.log(jnp.array([0.25, 0.5]))
    k3 = np.array([0.5 - 1 - np.log(0.5), 2 - 1 - np.log(2.0)])
    got = policy_gradient_loss(new, None, 3.0, reference, kl_weight=0.1)
    close(got, -3 + 0.1 * k3)
    slope = jax.grad(lambda w: policy_gradient_loss(new, None, 3.0, reference, kl_weight=w, reduction="sum"))
    close(slope(0.0), np.sum(k3))
    close(slope(0.1), np.sum(k3))


def test_divergence_of_near_policies_keeps_its_digits():
    """exp(d) - 1 - d has none left in float32 at 1e-4."""
    d = np.array([1e-6, -1e-4, 1e-2])
    new = jnp.zeros(3)
    value, slope = jax.vmap(
        jax.value_and_grad(lambda x, r: policy_gradient_loss(x[None], None, 0.0, r, kl_weight=1.0)[0])
    )(new, jnp.asarray(d, jnp.float32))
    d = np.float32(d).astype(np.float64)
    close(value, d**2 / 2 + d**3 / 6 + d**4 / 24, 1e-6)
    close(slope, -np.expm1(d), 1e-6)


# Extremes.


@pytest.mark.parametrize("importance", ["token", "sequence"])
@pytest.mark.parametrize("far", [1e4, -1e4, 3e38])
def test_far_policies(far, importance):
    new = jnp.array([[-1.0, -1.0], [-2.0, -3.0]])
    old, advantages = new - far, jnp.array([1.0, 0.0])
    loss = functools.partial(policy_gradient_loss, importance=importance, reduction="sum")
    value, slopes = jax.value_and_grad(loss, (0, 1, 2))(new, old, advantages)
    close(value, -2.4 if far > 0 else 0.0)
    assert all(np.all(np.isfinite(s)) for s in slopes)
    close(slopes[0], 0.0)
    value, slope = jax.value_and_grad(loss)(new, old, -jnp.ones(2))
    close(value, np.inf if far > 0 else 4 * 0.8)
    assert not np.any(np.isnan(slope))


def test_weights_of_zero_beside_an_overflow():
    """A traced weight of 0 adds 0, to the gradient too, and its own derivative is the largest number."""
    new, reference = jnp.array([-1e4]), jnp.array([0.0])
    loss = functools.partial(policy_gradient_loss, reduction="sum")
    value, slopes = jax.value_and_grad(lambda x, w: loss(x, x, 1.0, reference, kl_weight=w), (0, 1))(new, 0.0)
    close(value, -1.0)
    assert slopes[0] == 0
    assert slopes[1] == np.finfo(np.float32).max


def test_masked_tokens_may_be_anything():
    new, old, advantages, keep = rollout()
    rng = np.random.default_rng(2)
    for importance in ("token", "sequence"):
        loss = functools.partial(
            policy_gradient_loss, where=keep, importance=importance, normalizer="sequence", reduction="mean"
        )
        want = jax.value_and_grad(loss, (0, 1, 2))(new, old, advantages)
        for bad in (np.nan, np.inf, -np.inf):
            spoiled = [jnp.where(keep | (rng.random(keep.shape) < 0.3), x, bad) for x in (new, old)]
            advantages_too = jnp.where(jnp.any(keep, -1), advantages, bad)
            got = jax.value_and_grad(loss, (0, 1, 2))(*spoiled, advantages_too)
            jax.tree.map(np.testing.assert_array_equal, got, want)


def test_half_precision():
    new, old, advantages, keep = rollout()
    half = [x.astype(jnp.bfloat16) for x in (new, old, advantages)]
    wide = [x.astype(jnp.float32) for x in half]
    loss = functools.partial(policy_gradient_loss, where=keep, importance="sequence", reduction="mean")
    value, slope = jax.value_and_grad(loss)(*half)
    assert value.dtype == jnp.float32
    assert slope.dtype == jnp.bfloat16
    close(value, loss(*wide))


# Bad input.


@pytest.mark.parametrize(
    "error, message, call",
    [
        (
            ValueError,
            r"advantages of shape \(7,\) are not one for each sequence, \(6,\), and do not broadcast to .* \(6, 7\)",
            lambda new, old, a: policy_gradient_loss(new, old, jnp.zeros(7)),
        ),
        (
            ValueError,
            r"old_log_probs of shape \(6, 1, 1\) does not broadcast to the shape \(6, 7\) of the log_probs",
            lambda new, old, a: policy_gradient_loss(new, jnp.zeros((6, 1, 1)), a),
        ),
        (ValueError, "log_probs must have a time axis", lambda new, old, a: policy_gradient_loss(-1.0, -1.0, 1.0)),
        (TypeError, "advantages must be real", lambda new, old, a: policy_gradient_loss(new, old, a.astype(complex))),
        (TypeError, "old_log_probs .* got int32", lambda new, old, a: policy_gradient_loss(new, old.astype(int), a)),
        (ValueError, r"clip_low must be in \[0, 1\]", lambda *args: policy_gradient_loss(*args, clip_low=1.5)),
        (ValueError, "clip_high must be in .*got -0.1", lambda *args: policy_gradient_loss(*args, clip_high=-0.1)),
        (
            ValueError,
            "kl_weight needs reference_log_probs",
            lambda *args: policy_gradient_loss(*args, kl_weight=0.1),
        ),
        (
            ValueError,
            "importance must be one of 'token', 'sequence', got 'row'",
            lambda *args: policy_gradient_loss(*args, importance="row"),
        ),
        (
            ValueError,
            "normalizer must be one of 'token', 'sequence', got 'length'",
            lambda *args: policy_gradient_loss(*args, normalizer="length"),
        ),
        (
            ValueError,
            r"normalizer must be in \(0, inf\), got 0",
            lambda *args: policy_gradient_loss(*args, normalizer=0),
        ),
        (
            ValueError,
            "denominator divides a mean",
            lambda *args: policy_gradient_loss(*args, denominator=3.0),
        ),
        (ValueError, "axis_name adds up", lambda *args: policy_gradient_loss(*args, axis_name="data")),
    ],
)
def test_bad_input(error, message, call):
    with pytest.raises(error, match="^policy_gradient_loss: " + message):
        call(*rollout()[:3])


def test_reduce_takes_its_losses():
    """What comes out unreduced can be reduced later, here with another weight for every sequence."""
    new, old, advantages, keep = rollout()
    weights = jnp.arange(1.0, 7.0)[:, None]
    losses = policy_gradient_loss(new, old, advantages, where=keep)
    want = policy_gradient_loss(new, old, advantages, where=keep, weights=weights, reduction="mean")
    close(jaxloss.reduce(losses, where=keep, weights=weights), want)
