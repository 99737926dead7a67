"""What is special about losses of preferences: values by hand, where their theory has an optimum, and edges."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxloss import cpo_loss, dpo_loss, kto_loss, orpo_loss, simpo_loss

PAIRED = [dpo_loss, simpo_loss, cpo_loss, orpo_loss]
EACH_PAIRED = pytest.mark.parametrize("fn", PAIRED, ids=lambda f: f.__name__)


def close(got, want, rtol=2e-6, atol=0.0):
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=rtol, atol=atol)


# Values by hand: the chosen response gained 1 over its reference, the rejected one lost 2; both with beta 0.1.

HAND = (-12.0, -15.0, -13.0, -13.0)
Z = 0.1 * ((-12 + 13) - (-15 + 13))


@pytest.mark.parametrize(
    "options, want",
    [
        ({}, np.log(1 + np.exp(-Z))),
        ({"label_smoothing": 0.2}, 0.8 * np.log(1 + np.exp(-Z)) + 0.2 * np.log(1 + np.exp(Z))),
        (
            {"loss_type": "robust", "label_smoothing": 0.2},
            (0.8 * np.log(1 + np.exp(-Z)) - 0.2 * np.log(1 + np.exp(Z))) / 0.6,
        ),
        ({"loss_type": "hinge"}, 1 - Z),
        ({"loss_type": "hinge", "beta": 2.0}, 0.0),
        ({"loss_type": "ipo"}, (3 - 1 / 0.2) ** 2),
    ],
)
def test_dpo_by_hand(options, want):
    close(dpo_loss(*HAND, **options), want)


def test_dpo_without_a_reference_model():
    chosen, rejected = jnp.array([-12.0, -3.0]), jnp.array([-15.0, -4.0])
    for loss_type in ("sigmoid", "hinge", "ipo", "robust"):
        got = dpo_loss(chosen, rejected, loss_type=loss_type)
        np.testing.assert_array_equal(got, dpo_loss(chosen, rejected, 0.0, 0.0, loss_type=loss_type))


def test_dpo_keeps_digits_of_long_responses():
    """The difference of a long response and a short one is rounded; those from their references are not."""
    args = np.array([-3001.0625, -0.123, -3000.9375, -0.125], np.float32)
    wide = args.astype(np.float64)
    margin = (wide[0] - wide[2]) - (wide[1] - wide[3])
    close(dpo_loss(*args, beta=1.0, loss_type="hinge"), 1 - margin, 1e-7)
    close(jax.grad(lambda b: dpo_loss(*args, beta=b, loss_type="hinge"))(1.0), -margin, 1e-7)


def test_dpo_has_its_minimum_at_the_policy_of_reinforcement_learning():
    """With preferences of Bradley and Terry for rewards r, it is pi_0 exp(r / beta) / Z (Rafailov et al., eq. 4)."""
    beta, rewards = 0.5, jnp.array([0.3, -1.0, 0.7, 0.1])
    reference = jax.nn.log_softmax(jnp.array([0.1, 0.2, -0.4, 1.0]))
    first, second = np.triu_indices(4, 1)
    flips = jax.nn.sigmoid(rewards[second] - rewards[first])

    def expected(logits):
        x = jax.nn.log_softmax(logits)
        return dpo_loss(
            x[first], x[second], reference[first], reference[second], beta=beta, label_smoothing=flips, reduction="sum"
        )

    close(jax.grad(expected)(reference + rewards / beta), 0.0, atol=1e-6)
    assert jnp.max(jnp.abs(jax.grad(expected)(reference))) > 0.05


def test_robust_dpo_is_unbiased():
    """Its expectation over flipped labels is the loss of the true ones (Chowdhury et al., lemma 3.1)."""
    chosen, rejected = jnp.array([-12.0, -3.0, -70.0]), jnp.array([-15.0, -4.0, -20.0])
    options = {"loss_type": "robust", "label_smoothing": 0.3}
    expected = 0.7 * dpo_loss(chosen, rejected, **options) + 0.3 * dpo_loss(rejected, chosen, **options)
    close(expected, dpo_loss(chosen, rejected), 1e-5)


def test_simpo_by_hand():
    """gamma after beta, as in the paper; the authors' code subtracts gamma / beta before the multiplication."""
    chosen, rejected = -1.0, -1.5
    z = 2.0 * (-1.0 + 1.5) - 0.75
    close(simpo_loss(chosen, rejected, gamma=0.75), np.log(1 + np.exp(-z)))
    close(simpo_loss(chosen, rejected, gamma=0.75), np.log(1 + np.exp(-2.0 * ((-1.0 + 1.5) - 0.75 / 2.0))))
    smoothed = 0.9 * np.log(1 + np.exp(-z)) + 0.1 * np.log(1 + np.exp(z))
    close(simpo_loss(chosen, rejected, gamma=0.75, label_smoothing=0.1), smoothed)


def test_cpo_by_hand():
    """Preferences of whole responses; the likelihood of a whole one, or of each of its 4 and 10 tokens."""
    chosen, rejected = jnp.array([-2.0, -30.0]), jnp.array([-7.0, -20.0])
    preference = np.log(1 + np.exp(-0.1 * np.array([5.0, -10.0])))
    close(cpo_loss(chosen, rejected), preference + np.array([2.0, 30.0]))
    close(cpo_loss(chosen, rejected, alpha=1 / jnp.array([4.0, 10.0])), preference + np.array([0.5, 3.0]))
    np.testing.assert_array_equal(cpo_loss(chosen, rejected, alpha=0.0), dpo_loss(chosen, rejected))


def test_orpo_by_hand():
    """Odds of 3 and 1 / 4: their ratio is 12."""
    chosen, rejected = np.log(0.75), np.log(0.2)
    close(orpo_loss(chosen, rejected, beta=0.5), -np.log(0.75) + 0.5 * np.log(1 + 1 / 12))
    close(orpo_loss(rejected, chosen, beta=0.5), -np.log(0.2) + 0.5 * np.log(1 + 12))


@pytest.mark.parametrize("chosen", [-1e-30, -1e-20, -1e-7, -1e-3, -0.5, -20.0, -100.0])
@pytest.mark.parametrize("rejected", [-1e-30, -1e-20, -1e-7, -1e-3, -0.5, -20.0, -100.0])
def test_orpo_near_certainty_and_far_from_it(chosen, rejected):
    chosen, rejected = np.float32(chosen), np.float32(rejected)
    loss, slopes = jax.value_and_grad(orpo_loss, (0, 1))(chosen, rejected, beta=1.0)
    with mpmath.workdps(60):
        p, q = (mpmath.exp(mpmath.mpf(float(x))) for x in (chosen, rejected))
        odds = p / (1 - p), q / (1 - q)
        wrong = odds[1] / (odds[0] + odds[1])
        want = mpmath.log(1 + odds[1] / odds[0]) - mpmath.mpf(float(chosen))
        to_chosen, to_rejected = -1 - wrong / (1 - p), wrong / (1 - q)
    close(loss, float(want), 2e-6)
    close(slopes[0], float(to_chosen), 1e-5)  # exp(-80) in float32 itself is known to 4e-6
    close(slopes[1], float(to_rejected), 1e-5, 1e-37)


def test_orpo_takes_rounding_above_zero():
    for chosen in (0.0, 1e-7):
        loss, slopes = jax.value_and_grad(orpo_loss, (0, 1))(chosen, np.log(0.5), beta=1.0)
        close(loss, -chosen)
        close(slopes, (-2.0, 0.0))  # the odds of the rejected one are 1


def test_kto_by_hand():
    """A log-ratio of 3 against a divergence of 1: beta (r - z) is 0.2."""
    gain = 0.1 * (3 - 1)
    close(kto_loss(-2.0, -5.0, True, kl=1.0), 1 / (1 + np.exp(gain)))
    close(kto_loss(-2.0, -5.0, False, kl=1.0), 1 / (1 + np.exp(-gain)))
    close(kto_loss(-2.0, -5.0, True, kl=1.0, desirable_weight=1.5, undesirable_weight=9.0), 1.5 / (1 + np.exp(gain)))
    close(kto_loss(-2.0, -5.0, False, kl=1.0, desirable_weight=9.0, undesirable_weight=1.5), 1.5 / (1 + np.exp(-gain)))


def test_kto_clips_the_divergence_at_zero():
    x, reference, desirable = jnp.array([-2.0, -3.0]), jnp.array([-3.0, -3.5]), jnp.array([True, False])
    for negative in (-1.0, jnp.array(-1.0), jnp.array([-1.0, -2.0])):
        np.testing.assert_array_equal(kto_loss(x, reference, desirable, kl=negative), kto_loss(x, reference, desirable))


def test_kto_baseline_has_no_gradient():
    """A divergence that depends on the parameters is refused until its gradient is stopped, and then adds none."""
    x, reference, desirable = jnp.array([-2.0, -3.0]), jnp.array([-3.0, -3.5]), jnp.array([True, False])

    def loss(x, detach):
        kl = detach(jnp.mean(x - reference))
        return kto_loss(x, reference, desirable, kl=kl, reduction="sum")

    for transform in (jax.grad, lambda f: jax.jit(jax.grad(f)), lambda f: lambda x: jax.jvp(f, (x,), (x,))):
        with pytest.raises(TypeError, match="kto_loss: kl has no gradient.*stop_gradient"):
            transform(lambda x: loss(x, lambda kl: kl))(x)
    got = jax.grad(lambda x: loss(x, jax.lax.stop_gradient))(x)
    gain = 0.1 * (np.array([1.0, 0.5]) - 0.75)
    close(got, np.array([-0.1, 0.1]) / (1 + np.exp(gain)) / (1 + np.exp(-gain)))
    np.testing.assert_allclose(loss(x, lambda kl: kl), loss(x, jax.lax.stop_gradient))  # without derivatives it may


def test_kto_keeps_the_digits_of_small_slopes():
    """sigma (1 - sigma) is 0 in float32 from 17 on."""
    gain = np.array([20.0, 60.0, 80.0])
    for desirable in (True, False):
        slope = jax.vmap(jax.grad(lambda x: kto_loss(x, 0.0, desirable, beta=1.0)))(jnp.asarray(gain))  # noqa: B023
        close(slope, np.exp(-gain) * (-1 if desirable else 1), 1e-5)


# An option that is traced may be 0 where its factor is infinite: nothing is NaN, and its derivative is not 0.


def test_options_at_zero_beside_infinity():
    certain = (jnp.array([-1.0]), jnp.array([-jnp.inf]))
    cases = [
        (lambda eps: dpo_loss(*certain, label_smoothing=eps)[0], np.finfo(np.float32).max),
        (lambda eps: dpo_loss(-1.0, -101.0, label_smoothing=eps), 10.0),
        (lambda alpha: cpo_loss(-3.0, -3.0, alpha=alpha), 3.0),
        (lambda beta: orpo_loss(np.log(0.75), np.log(0.75), beta=beta), np.log(2.0)),
    ]
    for f, slope in cases:
        value, got = jax.value_and_grad(f)(jnp.zeros(()))
        assert jnp.isfinite(value)
        close(got, slope)
    assert jax.grad(lambda b: dpo_loss(*certain, beta=b)[0])(0.1) == 0


def test_options_for_each_pair():
    chosen, rejected, beta = jnp.array([-3.0, -4.0]), jnp.array([-9.0, -2.0]), jnp.array([0.1, 0.5])
    got = dpo_loss(chosen, rejected, beta=beta)
    want = [dpo_loss(c, r, beta=float(b)) for c, r, b in zip(chosen, rejected, beta, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    column = jax.grad(lambda b: dpo_loss(chosen, rejected, beta=b, reduction="sum"))(0.1)
    close(column, jnp.sum(jax.grad(lambda b: dpo_loss(chosen, rejected, beta=b, reduction="sum"))(jnp.full(2, 0.1))))


@EACH_PAIRED
def test_equal_responses_are_pulled_apart(fn):
    to_chosen, to_rejected = jax.grad(fn, (0, 1))(-1.0, -1.0)
    assert to_chosen < 0 < to_rejected


# Bad input.


@pytest.mark.parametrize(
    "error, message, call",
    [
        (ValueError, "loss_type must be one of 'sigmoid', 'hinge'", lambda: dpo_loss(-1.0, -2.0, loss_type="kto")),
        (ValueError, "reference_rejected_log_probs is missing", lambda: dpo_loss(-1.0, -2.0, -1.0)),
        (
            ValueError,
            "reference_chosen_log_probs is missing",
            lambda: dpo_loss(-1.0, -2.0, reference_rejected_log_probs=-1.0),
        ),
        (
            ValueError,
            r"reference_rejected_log_probs of shape \(3, 1\) does not broadcast to the shape \(3,\) of the chosen",
            lambda: dpo_loss(jnp.zeros(3), jnp.zeros(3), jnp.zeros(3), jnp.zeros((3, 1))),
        ),
        (TypeError, "rejected_log_probs must have a floating-point dtype, got int32", lambda: dpo_loss(-1.0, -2)),
        (ValueError, r"beta must be in \(0, inf\), got 0", lambda: dpo_loss(-1.0, -2.0, beta=0)),
        (TypeError, "beta must be a number, got True", lambda: dpo_loss(-1.0, -2.0, beta=True)),
        (
            ValueError,
            r"beta of shape \(2,\) does not broadcast to the shape \(\) of the losses",
            lambda: dpo_loss(-1.0, -2.0, beta=jnp.ones(2)),
        ),
        (
            ValueError,
            "label_smoothing must be 0 with loss_type='hinge'.*got 0.1",
            lambda: dpo_loss(-1.0, -2.0, loss_type="hinge", label_smoothing=0.1),
        ),
        (
            ValueError,
            "label_smoothing must be 0 with loss_type='ipo'",
            lambda: jax.grad(lambda e: dpo_loss(-1.0, -2.0, loss_type="ipo", label_smoothing=e))(0.0),
        ),
        (
            ValueError,
            r"label_smoothing must be in \[0, 0.5\) with loss_type='robust', got 0.5",
            lambda: dpo_loss(-1.0, -2.0, loss_type="robust", label_smoothing=0.5),
        ),
        (ValueError, "gamma must be in .*got -1", lambda: simpo_loss(-1.0, -2.0, gamma=-1.0)),
        (ValueError, "alpha must be in .*got -1", lambda: cpo_loss(-1.0, -2.0, alpha=-1.0)),
        (TypeError, "desirable must be boolean .*got int32", lambda: kto_loss(-1.0, -2.0, 1)),
        (
            ValueError,
            r"desirable of shape \(2,\) does not broadcast to the shape \(\) of the log_probs",
            lambda: kto_loss(-1.0, -2.0, jnp.array([True, False])),
        ),
        (
            ValueError,
            r"kl of shape \(2,\) does not broadcast",
            lambda: kto_loss(-1.0, -2.0, True, kl=jnp.zeros(2)),
        ),
        (
            ValueError,
            "undesirable_weight must be in .*got -1",
            lambda: kto_loss(-1.0, -2.0, True, undesirable_weight=-1.0),
        ),
    ],
)
def test_bad_input(error, message, call):
    with pytest.raises(error, match=r"^\w+_loss: " + message):
        call()
