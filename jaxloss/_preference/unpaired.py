"""Single responses, each labelled desirable or not."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.devices import divided_like
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction
from jaxloss._preference.arguments import elementwise, option, product


@loss(arrays=4)
def kto_loss(
    log_probs: Float[ArrayLike, "*shape"],
    reference_log_probs: Float[ArrayLike, "..."],
    desirable: Bool[ArrayLike, "..."],
    *,
    kl: Float[ArrayLike, "..."] = 0.0,
    beta: float | Array = 0.1,
    desirable_weight: float | Array = 1.0,
    undesirable_weight: float | Array = 1.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Kahneman-Tversky optimization, for each response: $\lambda\,\sigma(\pm\beta(r - z))$.

    $r = \log\pi(y) - \log\pi_0(y)$ is the log-ratio to the reference model and $z = \max(0, \mathrm{kl})$ the point
    that gains and losses are told apart by. The sign is $-$ for a desirable response, which costs less the larger $r$
    is, and $+$ for an undesirable one. This is $\lambda$ minus the paper's value $v$.

    Args:
      log_probs: $\log\pi(y)$, summed over the tokens, any shape; one response each.
      reference_log_probs: $\log\pi_0(y)$, broadcast to the shape of the log-probs.
      desirable: which responses are desirable, boolean, broadcast likewise.
      kl: divergence of the model from the reference, a number or broadcast likewise; below 0 it counts as 0. The paper
        estimates it as the mean of $r$ over a batch in which prompts and responses do not belong together, across all
        devices. It is a baseline and has no gradient: if it depends on the parameters, pass
        `jax.lax.stop_gradient(kl)`.
      beta: $\beta > 0$. Like the other numbers, one or broadcast likewise.
      desirable_weight: $\lambda$ of desirable responses, at least 0.
      undesirable_weight: $\lambda$ of the others. Choose the two so that, each times the number of its responses, they
        differ by a factor below 4/3.
      where: responses to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the log-probs, or a scalar; at least float32, between 0 and $\lambda$. NaN where both log-probs are
      `-inf`.

    Raises:
      TypeError: log-probabilities are not floating-point, `desirable` or `where` are not boolean, or `kl` is
        differentiated.
      ValueError: a shape does not broadcast, an option is out of its range, or an unknown reduction.

    Reference: Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization" (2024), eq. 8.

    >>> good = jnp.array([True, False])
    >>> print(kto_loss(jnp.array([-4.0, -4.0]), jnp.array([-9.0, -9.0]), good, kl=1.0, beta=0.5))  # r - z = 4
    [0.11920292 0.880797  ]
    """
    fn = "kto_loss"
    for name, value in (("desirable_weight", desirable_weight), ("undesirable_weight", undesirable_weight)):
        checks.in_range(fn, name, value, 0, jnp.inf)
    checks.in_range(fn, "beta", beta, 0, jnp.inf, open_low=True)
    baseline = kl if checks.static_number(kl) else checks.no_gradient(fn, "kl", checks.number(fn, "kl", kl))
    good = checks.array(fn, "desirable", desirable)
    if good.dtype != jnp.bool_:
        raise TypeError(f"{fn}: desirable must be boolean (True for a desirable response), got {good.dtype}")

    def formula(log_prob: Array, reference: Array) -> Array:
        b, desired, undesired, z = (
            option(fn, name, value, log_prob)
            for name, value in (
                ("beta", beta),
                ("desirable_weight", desirable_weight),
                ("undesirable_weight", undesirable_weight),
                ("kl", baseline),
            )
        )
        is_good = divided_like(checks.broadcast(fn, "desirable", good, log_prob.shape, "log_probs"), log_prob)
        gain = product(b, (log_prob - reference) - jnp.maximum(z, 0))
        return jnp.where(is_good, desired, undesired) * _sigmoid(jnp.where(is_good, -gain, gain))

    arguments = {"log_probs": log_probs, "reference_log_probs": reference_log_probs}
    return elementwise(fn, formula, arguments, where=where, weights=weights, reduction=reduction)


@jax.custom_jvp
def _sigmoid(z: Array) -> Array:
    return jax.nn.sigmoid(z)


@_sigmoid.defjvp
def _sigmoid_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Why a rule: jax has s (1 - s), which has lost its digits at 10 and is 0 from 17 on.
    (z,) = primals
    return _sigmoid(z), _sigmoid(z) * _sigmoid(-z) * tangents[0]
