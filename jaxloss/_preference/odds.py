"""Odds-ratio preference optimization: fine-tuning and preference in one loss, without a reference model."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction
from jaxloss._preference.arguments import elementwise, option, product


@loss()
def orpo_loss(
    chosen_log_probs: Float[ArrayLike, "*shape"],
    rejected_log_probs: Float[ArrayLike, "..."],
    *,
    beta: float | Array = 0.1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Odds-ratio preference optimization, for each pair: $-\bar\ell_w + \beta\log(1 + o(\bar\ell_l) / o(\bar\ell_w))$.

    $\bar\ell = \frac1{|y|}\log\pi(y)$ is the log-probability of a response per token and
    $o(\ell) = e^\ell / (1 - e^\ell)$ its odds. The first term is the likelihood of the chosen response, the second
    $-\beta\log\sigma$ of the log odds ratio. Neither loses digits or overflows, near probability 1 or far from it.

    Args:
      chosen_log_probs: $\bar\ell_w \le 0$, averaged over the tokens, any shape; one pair each.
      rejected_log_probs: $\bar\ell_l \le 0$, broadcast to the shape of the chosen ones.
      beta: weight of the odds ratio, at least 0, the paper's $\lambda$; a number or broadcast likewise.
      where: pairs to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the chosen log-probabilities, or a scalar; at least float32. A log-probability that rounding put
      above 0 has the odds of 0. NaN where both have probability 1, or both 0.

    Raises:
      TypeError: log-probabilities are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast, `beta` is out of its range, or an unknown reduction.

    Reference: Hong, Lee, Thorne, "ORPO: Monolithic Preference Optimization without Reference Model" (2024), eq. 6.

    >>> print(orpo_loss(jnp.log(jnp.array([0.75])), jnp.log(jnp.array([0.5])), beta=1.0))  # log(4 / 3) + log(1 + 1 / 3)
    [0.5753642]
    """
    fn = "orpo_loss"
    checks.in_range(fn, "beta", beta, 0, jnp.inf)

    def formula(chosen: Array, rejected: Array) -> Array:
        if checks.is_zero(beta):
            return -chosen
        return product(option(fn, "beta", beta, chosen), _odds_loss(chosen, rejected)) - chosen

    arguments = {"chosen_log_probs": chosen_log_probs, "rejected_log_probs": rejected_log_probs}
    return elementwise(fn, formula, arguments, where=where, weights=weights, reduction=reduction, filler=-1.0)


@jax.custom_jvp
def _odds_loss(chosen: Array, rejected: Array) -> Array:
    """log(1 + t) with the ratio of odds t = exp(rejected - chosen) (1 - exp(chosen)) / (1 - exp(rejected))."""
    gap, of_rest = _gap(chosen, rejected), _rest(chosen) / _rest(rejected)
    log_ratio = gap + jnp.log(of_rest)  # both summands have one sign
    return jnp.where(gap < 0, jnp.log1p(jnp.exp(gap) * of_rest), log_ratio + jnp.log1p(jnp.exp(-log_ratio)))


@_odds_loss.defjvp
def _odds_loss_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # Why a rule: autodiff meets 0 * inf where the chosen response has probability 1; the slope there is minus the odds
    # of the other. In general it is -p_l / (p_l q_w + p_w q_l) with q = 1 - p, here divided by the larger p.
    gap, rest_chosen, rest_rejected = _gap(*primals), _rest(primals[0]), _rest(primals[1])
    above = gap <= 0
    smaller = jnp.exp(jnp.where(above, gap, -gap))
    total = jnp.where(above, rest_chosen * smaller + rest_rejected, rest_chosen + rest_rejected * smaller)
    slope = jnp.where(above, smaller, 1) / total
    return _odds_loss(*primals), slope * (rest_chosen / rest_rejected) * tangents[1] - slope * tangents[0]


def _gap(chosen: Array, rejected: Array) -> Array:
    return jnp.minimum(rejected, 0) - jnp.minimum(chosen, 0)


def _rest(log_prob: Array) -> Array:
    """1 - exp(log_prob), and not -0 at 0."""
    return jnp.abs(jnp.expm1(jnp.minimum(log_prob, 0)))
