"""Policy gradients on tokens: the clipped surrogate of PPO, as GRPO and its relatives use it.

>>> import jax, jax.numpy as jnp
>>> log_probs, old_log_probs = jnp.array([[-1.0, -2.0, -0.5], [-1.0, -3.0, jnp.nan]]), jnp.full((2, 3), -1.25)
>>> advantages, tokens = jnp.array([1.0, -1.0]), jnp.array([[True, True, True], [True, True, False]])
>>> def loss(x, normalizer):
...     return policy_gradient_loss(x, old_log_probs, advantages, normalizer=normalizer, where=tokens, reduction="mean")
>>> print(*(f"{loss(log_probs, n):.4f}" for n in ("token", "sequence", 8)))
-0.1577 0.0423 -0.0493
>>> print(jax.grad(loss)(log_probs, "token").round(4))  # none where the ratio is clipped
[[ 0.     -0.0945  0.    ]
 [ 0.2568  0.      0.    ]]
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.devices import alike
from jaxloss._core.precision import promote
from jaxloss._core.reduction import fill, reduce
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction
from jaxloss._preference.arguments import keep, log_probs, option, product


@loss(arrays=4)
def policy_gradient_loss(
    log_probs: Float[ArrayLike, "*batch time"],
    old_log_probs: Float[ArrayLike, "..."] | None,
    advantages: Num[ArrayLike, "..."],
    reference_log_probs: Float[ArrayLike, "..."] | None = None,
    *,
    clip_low: float | Array = 0.2,
    clip_high: float | Array = 0.2,
    kl_weight: float | Array = 0.0,
    importance: Literal["token", "sequence"] = "token",
    normalizer: Literal["token", "sequence"] | float | Array = "token",
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
    denominator: Num[ArrayLike, ""] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "..."]:
    r"""Clipped surrogate, for each token: $-\min(\rho A, \mathrm{clip}(\rho, 1-c_-, 1+c_+) A) + \beta\,\mathrm{kl}$.

    $\rho = \pi / \pi_{old}$ is the ratio of probabilities to those the token was sampled with, $A$ the advantage. The
    gradient is $-\rho A$, and 0 where the ratio is clipped, which it is only above $1 + c_+$ for $A \ge 0$ and below
    $1 - c_-$ for $A < 0$. $\mathrm{kl} = e^d - 1 - d$ with $d = \log\pi_0 - \log\pi$ estimates the divergence from a
    reference model (known as k3). The algorithms differ in what a ratio belongs to and in what a mean is divided by:

    | | `importance` | `normalizer` | the mean |
    | --- | --- | --- | --- |
    | PPO, DAPO | `"token"` | `"token"` | sum over all tokens / number of tokens |
    | GRPO | `"token"` | `"sequence"` | mean over each sequence, then over sequences |
    | Dr. GRPO | `"token"` | a number $L$ | sum over all tokens / ($L$ times number of sequences) |
    | GSPO | `"sequence"` | `"sequence"` | $\rho$ is the geometric mean over the sequence |

    Args:
      log_probs: $\log\pi$ of the sampled tokens, `[*batch, time]`.
      old_log_probs: $\log\pi_{old}$ of the same tokens, broadcast to that shape; `None` where they were sampled from
        the present policy: then $\rho = 1$, with the gradient of REINFORCE. It has a gradient of its own: what is
        computed from the parameters that are trained goes through `jax.lax.stop_gradient`, or the two cancel.
      advantages: $A$, one for each sequence, `[*batch]`, or broadcast to the shape of the log-probs. A correction for a
        sampler that is not quite $\pi_{old}$ is a factor of them: as `weights` it would divide the mean, too.
      reference_log_probs: $\log\pi_0$, broadcast likewise; needed for `kl_weight`. It has a gradient, too.
      clip_low: $c_-$ in [0, 1]; 1 for no bound. Like the other numbers, one or broadcast likewise.
      clip_high: $c_+ \ge 0$; `inf` for no bound. DAPO takes 0.28.
      kl_weight: $\beta$, at least 0.
      importance: `"token"` for a ratio of each token, `"sequence"` for one of the tokens that are kept of a sequence,
        through which all of its advantages, if they differ, move all of its tokens alike.
      normalizer: `"token"`; `"sequence"`, which divides each loss by the number of tokens kept of its sequence; or a
        number $L$, such as the longest response allowed, which divides all of them.
      where: tokens to keep, broadcast to the shape of the log-probs. What is dropped adds 0 to value and gradient, even
        if NaN.
      weights: multiply the losses, broadcast likewise: `[*batch, 1]` for sequences.
      reduction: `"none"`, `"mean"` or `"sum"`. `"mean"` divides by the number of tokens, or for another normalizer by
        that of the sequences of which a token is kept; with weights, by the sum of those, or of their means.
      denominator: a number to divide the mean by instead: of the tokens, or sequences, in all micro-batches or of a
        batch whose empty sequences count.
      axis_name: mesh axes over which sums are added up before they are divided; see `jaxloss.reduce`.

    Returns:
      `[*batch, time]`, or a scalar; at least float32. A ratio that overflows is infinite for $A < 0$, where it is not
      clipped, and harmless for $A \ge 0$. NaN where both policies give a token probability 0.

    Raises:
      TypeError: log-probabilities are not floating-point, advantages are not real, or `where` is not boolean.
      ValueError: a wrong shape, an option out of its range, `kl_weight` without `reference_log_probs`, a `denominator`
        or `axis_name` without a mean or sum.

    Reference: Schulman et al., "Proximal Policy Optimization Algorithms" (2017), eq. 7; Shao et al., "DeepSeekMath"
    (2024), eq. 3 for GRPO; Yu et al., "DAPO" (2025); Liu et al., "Understanding R1-Zero-Like Training" (2025) for Dr.
    GRPO; Zheng et al., "Group Sequence Policy Optimization" (2025), eq. 5.

    >>> print(policy_gradient_loss(jnp.log(jnp.array([0.5, 0.1])), jnp.log(jnp.array([0.25, 0.1])), jnp.array(2.0)))
    [-2.4 -2. ]
    """
    fn = "policy_gradient_loss"
    arrays, shape = _arguments(fn, log_probs, old_log_probs, advantages, reference_log_probs)
    _check_options(fn, clip_low, clip_high, kl_weight, importance, normalizer, reference_log_probs)
    where = keep(fn, where, shape, "log_probs")
    by_token = isinstance(normalizer, str) and normalizer == "token"

    def losses(arrays: dict[str, Array], where: Array | None) -> Array:
        full = alike(*(fill(where, jnp.broadcast_to(x, shape)) for x in promote(*arrays.values())))
        given = dict(zip(arrays, full, strict=True))
        x, a = given["log_probs"], given["advantages"]
        share = _share(where, x)
        log_ratio = x - given.get("old_log_probs", jax.lax.stop_gradient(x))
        if importance == "sequence":
            log_ratio = jnp.broadcast_to(jnp.sum(log_ratio * share, -1, keepdims=True), shape)
        values = _surrogate(log_ratio, a, option(fn, "clip_low", clip_low, x), option(fn, "clip_high", clip_high, x))
        if not checks.is_zero(kl_weight):
            k3 = _k3(given["reference_log_probs"] - x)
            values = values + product(option(fn, "kl_weight", kl_weight, x), k3)
        if not isinstance(normalizer, str):
            return values / option(fn, "normalizer", normalizer, x)
        return values if by_token else values * share

    # What is kept for the backward pass are the arguments as they came, not broadcast, filled or converted.
    values = jax.checkpoint(losses, prevent_cse=False)(arrays, where)
    if reduction == "mean" and denominator is None and not by_token:
        sequences = jnp.broadcast_to(_share(where, values), shape)
        denominator = reduce(sequences, where=where, weights=weights, reduction="sum", axis_name=axis_name, fn=fn)
    return reduce(
        values,
        where=where,
        weights=weights,
        reduction=reduction,
        denominator=denominator,
        axis_name=axis_name,
        fn=fn,
    )


def _arguments(
    fn: str, new: Any, old: Any, advantages: Any, reference: Any
) -> tuple[dict[str, Array], tuple[int, ...]]:
    given = {"log_probs": new, "old_log_probs": old, "reference_log_probs": reference}
    arrays, shape = log_probs(fn, given)
    if not shape:
        raise ValueError(f"{fn}: log_probs must have a time axis, got a scalar")
    a = checks.number(fn, "advantages", advantages)
    full = a[..., None] if a.ndim == len(shape) - 1 else a
    if not checks.broadcastable(full.shape, shape):
        raise ValueError(
            f"{fn}: advantages of shape {a.shape} are not one for each sequence, {shape[:-1]}, and do not broadcast "
            f"to the shape {shape} of the log_probs"
        )
    return {**arrays, "advantages": full}, shape


def _check_options(
    fn: str, clip_low: Any, clip_high: Any, kl_weight: Any, importance: Any, normalizer: Any, reference: Any
) -> None:
    checks.in_range(fn, "clip_low", clip_low, 0, 1)
    checks.in_range(fn, "clip_high", clip_high, 0, jnp.inf)
    checks.in_range(fn, "kl_weight", kl_weight, 0, jnp.inf)
    checks.choice(fn, "importance", importance, ("token", "sequence"))
    if isinstance(normalizer, str):
        checks.choice(fn, "normalizer", normalizer, ("token", "sequence"))
    else:
        checks.in_range(fn, "normalizer", normalizer, 0, jnp.inf, open_low=True)
    if reference is None and not checks.is_zero(kl_weight):
        raise ValueError(f"{fn}: kl_weight needs reference_log_probs, got None")


def _share(where: Array | None, x: Array) -> Array:
    """What one token is of its sequence: 1 / number of tokens that are kept."""
    if where is None:
        return jnp.full((1,) * x.ndim, 1 / max(x.shape[-1], 1), x.dtype)
    count = jnp.sum(jnp.broadcast_to(where, x.shape), -1, keepdims=True)
    return 1 / jnp.maximum(count, 1).astype(x.dtype)


def _surrogate(log_ratio: Array, advantages: Array, low: Array, high: Array) -> Array:
    up = advantages >= 0
    clipped = jnp.where(up, log_ratio > jnp.log1p(high), log_ratio < jnp.log1p(-low))
    # Filled before the maths as well: neither a ratio that overflows nor a bound of infinity meets a cotangent of 0.
    bound = jnp.where(clipped, jnp.where(up, 1 + high, 1 - low), 1)
    return -jnp.where(clipped, advantages * bound, stable.times_exp(advantages, jnp.where(clipped, 0, log_ratio)))


@jax.custom_jvp
def _k3(d: Array) -> Array:
    """exp(d) - 1 - d."""
    return jnp.where(d == jnp.inf, d, stable.phi(d))


@_k3.defjvp
def _k3_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Why a rule: an infinite slope meets the cotangent 0 of a weight of 0.
    return _k3(*primals), stable.finite(jnp.expm1(primals[0])) * tangents[0]
