"""Losses of pairs of responses, one of which was preferred: DPO and what became of it.

>>> import jax, jax.numpy as jnp
>>> chosen, rejected = jnp.array([-12.0, -30.0]), jnp.array([-15.0, -25.0])  # summed over the tokens of each response
>>> reference = jnp.array([-13.0, -28.0]), jnp.array([-13.0, -28.0])
>>> print(dpo_loss(chosen, rejected, *reference))
[0.55435526 0.974077  ]
>>> print(jax.grad(lambda c: dpo_loss(c, rejected, *reference, reduction="mean"))(chosen).round(4))
[-0.0213 -0.0311]
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction
from jaxloss._preference.arguments import elementwise, option, product

LOSS_TYPES = ("sigmoid", "hinge", "ipo", "robust")


@loss(arrays=4)
def dpo_loss(
    chosen_log_probs: Float[ArrayLike, "*shape"],
    rejected_log_probs: Float[ArrayLike, "..."],
    reference_chosen_log_probs: Float[ArrayLike, "..."] | None = None,
    reference_rejected_log_probs: Float[ArrayLike, "..."] | None = None,
    *,
    beta: float | Array = 0.1,
    loss_type: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid",
    label_smoothing: float | Array = 0.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Direct preference optimization, for each pair: $-\log\sigma(\beta h)$.

    The margin is $h = (\log\pi(y_w) - \log\pi_0(y_w)) - (\log\pi(y_l) - \log\pi_0(y_l))$ of the chosen response $y_w$
    and the rejected one $y_l$, with the reference model $\pi_0$. With $z = \beta h$ and $\epsilon$ the label smoothing,
    the loss types are

    - `"sigmoid"`: $-(1-\epsilon)\log\sigma(z) - \epsilon\log\sigma(-z)$, for $\epsilon > 0$ conservative DPO;
    - `"robust"`: $(-(1-\epsilon)\log\sigma(z) + \epsilon\log\sigma(-z)) / (1 - 2\epsilon)$, whose expectation over
      labels that are flipped with probability $\epsilon$ is the loss of the true ones; it may be negative;
    - `"hinge"`: $\max(0, 1 - z)$;
    - `"ipo"`: $(h - \frac1{2\beta})^2$.

    Log-probabilities are those of whole responses, summed over the tokens, as in the papers. TRL averages over the
    tokens for `"ipo"`: what you pass decides.

    Args:
      chosen_log_probs: $\log\pi(y_w)$, any shape; one pair each.
      rejected_log_probs: $\log\pi(y_l)$, broadcast to the shape of the chosen ones.
      reference_chosen_log_probs: $\log\pi_0(y_w)$, broadcast likewise; `None` for both: no reference model. They have a
        gradient: what is computed from the parameters that are trained goes through `jax.lax.stop_gradient`.
      reference_rejected_log_probs: $\log\pi_0(y_l)$, broadcast likewise.
      beta: $\beta > 0$; the larger, the closer to the reference. Like the other numbers, one or broadcast likewise.
      loss_type: one of the above.
      label_smoothing: $\epsilon$, the probability that the labels are wrong: in [0, 1], below 0.5 for `"robust"`, and 0
        for `"hinge"` and `"ipo"`, which have none.
      where: pairs to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the chosen log-probabilities, or a scalar; at least float32. NaN where the margin is a difference of
      equal infinities.

    Raises:
      TypeError: log-probabilities are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast; only one side has a reference; an unknown loss type or reduction; an
        option is out of its range.

    Reference: Rafailov et al., "Direct Preference Optimization" (2023), eq. 7; Mitchell, "A note on DPO with noisy
    preferences" (2023) for smoothing; Chowdhury et al., "Provably Robust DPO" (2024); Zhao et al., "SLiC-HF" (2023) for
    the hinge; Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences" (2023),
    eq. 17, for IPO.

    >>> print(dpo_loss(jnp.array([-3.0]), jnp.array([-5.0]), beta=1.0, loss_type="ipo"))
    [2.25]
    """
    fn = "dpo_loss"
    checks.choice(fn, "loss_type", loss_type, LOSS_TYPES)
    checks.in_range(fn, "beta", beta, 0, jnp.inf, open_low=True)
    _check_flips(fn, loss_type, label_smoothing)
    if (reference_chosen_log_probs is None) != (reference_rejected_log_probs is None):
        missing = "chosen" if reference_chosen_log_probs is None else "rejected"
        raise ValueError(f"{fn}: reference_{missing}_log_probs is missing: give both or neither")

    def formula(chosen: Array, rejected: Array, *reference: Array) -> Array:
        if reference:  # close to the model: each of these differences is exact, that of both responses is not
            chosen, rejected = chosen - reference[0], rejected - reference[1]
        margin, b = chosen - rejected, option(fn, "beta", beta, chosen)
        if loss_type == "ipo":
            return jnp.square(margin - 0.5 / b)
        z = product(b, margin)
        if loss_type == "hinge":
            return jnp.where(z >= 1, 0, 1 - z)
        return (_robust if loss_type == "robust" else _logistic)(fn, z, label_smoothing)

    arguments = {
        "chosen_log_probs": chosen_log_probs,
        "rejected_log_probs": rejected_log_probs,
        "reference_chosen_log_probs": reference_chosen_log_probs,
        "reference_rejected_log_probs": reference_rejected_log_probs,
    }
    return elementwise(fn, formula, arguments, where=where, weights=weights, reduction=reduction)


def _check_flips(fn: str, loss_type: str, flips: Any) -> None:
    if loss_type in ("hinge", "ipo") and not checks.is_zero(flips):
        raise ValueError(f"{fn}: label_smoothing must be 0 with loss_type={loss_type!r}, which has none, got {flips}")
    checks.in_range(fn, "label_smoothing", flips, 0, 1)
    if loss_type == "robust" and checks.static_number(flips) and flips >= 0.5:
        raise ValueError(f"{fn}: label_smoothing must be in [0, 0.5) with loss_type='robust', got {flips}")


def _logistic(fn: str, z: Array, flips: Any) -> Array:
    return stable.softplus(-z) if checks.is_zero(flips) else _smoothed(z, option(fn, "label_smoothing", flips, z))


@jax.custom_jvp
def _smoothed(z: Array, flips: Array) -> Array:
    """(1 - flips) softplus(-z) + flips softplus(z), as a sum of two non-negative terms."""
    size = jnp.abs(z)
    return jnp.log1p(jnp.exp(-size)) + product(jnp.where(z > 0, flips, 1 - flips), size)


@_smoothed.defjvp
def _smoothed_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # Why a rule: the absolute value has no derivative at 0, where training without a margin starts. Of the two forms of
    # the slope one does not cancel.
    z, flips = primals
    slope = jnp.where(z > 0, flips - jax.nn.sigmoid(-z), jax.nn.sigmoid(z) - (1 - flips))
    return _smoothed(z, flips), slope * tangents[0] + stable.finite(z) * tangents[1]


def _robust(fn: str, z: Array, flips: Any) -> Array:
    """Since softplus(z) = softplus(-z) + z, the division by 1 - 2 flips leaves the first term alone."""
    flips = option(fn, "label_smoothing", flips, z)
    return stable.softplus(-z) - product(flips / (1 - 2 * flips), z)


@loss()
def simpo_loss(
    chosen_log_probs: Float[ArrayLike, "*shape"],
    rejected_log_probs: Float[ArrayLike, "..."],
    *,
    beta: float | Array = 2.0,
    gamma: float | Array = 0.5,
    label_smoothing: float | Array = 0.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Simple preference optimization, for each pair: $-(1-\epsilon)\log\sigma(z) - \epsilon\log\sigma(-z)$.

    $z = \beta(\bar\ell_w - \bar\ell_l) - \gamma$ with the log-probability of each response per token,
    $\bar\ell = \frac1{|y|}\log\pi(y)$. As in the paper, $\gamma$ is a margin of rewards, after the multiplication by
    $\beta$; so are `simpo_gamma` of TRL and `gamma` of Liger. The authors' code takes the ratio $\gamma / \beta$.

    Args:
      chosen_log_probs: $\bar\ell_w$, averaged over the tokens, any shape; one pair each.
      rejected_log_probs: $\bar\ell_l$, broadcast to the shape of the chosen ones.
      beta: $\beta > 0$. Like the other numbers, one or broadcast likewise.
      gamma: $\gamma \ge 0$, the margin to aim at.
      label_smoothing: $\epsilon$ in [0, 1], the probability that the labels are wrong.
      where: pairs to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the chosen log-probabilities, or a scalar; at least float32. NaN where both are `-inf`.

    Raises:
      TypeError: log-probabilities are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast, an option is out of its range, or an unknown reduction.

    Reference: Meng, Xia, Chen, "SimPO: Simple Preference Optimization with a Reference-Free Reward" (2024), eq. 6.

    >>> print(simpo_loss(jnp.array([-1.0]), jnp.array([-1.25]), beta=2.0, gamma=0.5))  # log 2
    [0.6931472]
    """
    fn = "simpo_loss"
    checks.in_range(fn, "beta", beta, 0, jnp.inf, open_low=True)
    checks.in_range(fn, "gamma", gamma, 0, jnp.inf)
    checks.in_range(fn, "label_smoothing", label_smoothing, 0, 1)

    def formula(chosen: Array, rejected: Array) -> Array:
        z = product(option(fn, "beta", beta, chosen), chosen - rejected) - option(fn, "gamma", gamma, chosen)
        return _logistic(fn, z, label_smoothing)

    arguments = {"chosen_log_probs": chosen_log_probs, "rejected_log_probs": rejected_log_probs}
    return elementwise(fn, formula, arguments, where=where, weights=weights, reduction=reduction)


@loss()
def cpo_loss(
    chosen_log_probs: Float[ArrayLike, "*shape"],
    rejected_log_probs: Float[ArrayLike, "..."],
    *,
    beta: float | Array = 0.1,
    alpha: float | Array = 1.0,
    label_smoothing: float | Array = 0.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Contrastive preference optimization: $-(1-\epsilon)\log\sigma(z) - \epsilon\log\sigma(-z) - \alpha\log\pi(y_w)$.

    $z = \beta(\log\pi(y_w) - \log\pi(y_l))$, for each pair: DPO without a reference model, and the likelihood of the
    chosen response $y_w$ to keep the model close to it.

    Args:
      chosen_log_probs: $\log\pi(y_w)$, summed over the tokens, any shape; one pair each.
      rejected_log_probs: $\log\pi(y_l)$, broadcast to the shape of the chosen ones.
      beta: $\beta > 0$. Like the other numbers, one or broadcast likewise.
      alpha: $\alpha \ge 0$, weight of the likelihood. 1 is the paper's, of the whole response; the number of pairs over
        that of all chosen tokens makes its mean one over tokens, as in TRL.
      label_smoothing: $\epsilon$ in [0, 1], the probability that the labels are wrong.
      where: pairs to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the chosen log-probabilities, or a scalar; at least float32. NaN where both are `-inf`.

    Raises:
      TypeError: log-probabilities are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast, an option is out of its range, or an unknown reduction.

    Reference: Xu et al., "Contrastive Preference Optimization" (2024), eq. 5.

    >>> print(cpo_loss(jnp.array([-2.0]), jnp.array([-2.0]), alpha=0.5))  # log 2 + 1
    [1.6931472]
    """
    fn = "cpo_loss"
    checks.in_range(fn, "beta", beta, 0, jnp.inf, open_low=True)
    checks.in_range(fn, "alpha", alpha, 0, jnp.inf)
    checks.in_range(fn, "label_smoothing", label_smoothing, 0, 1)

    def formula(chosen: Array, rejected: Array) -> Array:
        preference = _logistic(fn, product(option(fn, "beta", beta, chosen), chosen - rejected), label_smoothing)
        if checks.is_zero(alpha):
            return preference
        return preference + product(option(fn, "alpha", alpha, chosen), -chosen)

    arguments = {"chosen_log_probs": chosen_log_probs, "rejected_log_probs": rejected_log_probs}
    return elementwise(fn, formula, arguments, where=where, weights=weights, reduction=reduction)
