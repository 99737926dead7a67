"""Every pair of a batch as a decision of its own: SigLIP."""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._contrastive.arguments import Batch, positive_number, similarities, softplus
from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction


@loss()
def siglip_loss(
    image_embeddings: Float[ArrayLike, "examples features"],
    text_embeddings: Float[ArrayLike, "examples features"],
    *,
    temperature: float | Array = 0.1,
    bias: float | Array = -10.0,
    normalize: bool = True,
    where: Bool[ArrayLike, "examples"] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""SigLIP, for each image: $-\sum_j \log\sigma\bigl(z_{ij}(s_{ij}/T + b)\bigr)$.

    $s_{ij}$ is the cosine of image $i$ and text $j$, and $z_{ij}$ is 1 for $i = j$ and $-1$ otherwise. The mean over
    the images is the paper's loss. It learns $\log(1/T)$ and $b$ from the defaults on: pass `temperature=jnp.exp(-t)`.

    Args:
      image_embeddings: `[examples, features]`, of any length: their direction counts. A zero vector has cosine 0.
      text_embeddings: likewise; row $i$ belongs to image $i$.
      temperature: $T > 0$, a number or a scalar array.
      bias: $b$, a number or a scalar array; below 0, as most pairs do not belong together.
      normalize: `False` for dot products instead of cosines.
      where: pairs to keep, `[examples]`. What is dropped is compared with nothing, and adds 0 to value and gradient,
        even if NaN.
      weights: multiply the losses, `[examples]`.
      axis_name: inside `jax.shard_map`, the mesh axes that split the examples: the texts of all devices count, and a
        mean or sum is that of all. Gradients are those of the whole batch.
      reduction: `"none"`, `"mean"` or `"sum"` over the images; see `jaxloss.reduce`.

    Returns:
      One loss for each image, or a scalar; at least float32.

    Raises:
      TypeError: embeddings are not floating-point, or `where` is not boolean.
      ValueError: shapes do not fit, the temperature is not positive, `axis_name` is no axis here, or belongs to
        `shard_map(check_vma=False)`, where gradients would be multiplied.

    Reference: Zhai, Mustafa, Kolesnikov, Beyer, "Sigmoid Loss for Language Image Pre-Training" (2023), section 3.2.

    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> print(siglip_loss(x, x, temperature=1.0, bias=0.0))  # log(1 + exp(-1)) + log(2)
    [1.0064089 1.0064089]
    """
    fn = "siglip_loss"
    batch = Batch(fn, where, axis_name, image_embeddings=image_embeddings, text_embeddings=text_embeddings)
    temperature, bias = positive_number(fn, "temperature", temperature), checks.scalar(fn, "bias", bias)
    kept = batch.everyone_kept()

    def rule(x: Array, y: Array, temperature: Array, bias: Array) -> Array:
        z = similarities(x, y, temperature, normalize)
        z = z + bias.astype(z.dtype)
        own = batch.places()[:, None] == jnp.arange(z.shape[1])[None]
        losses = softplus(z * jnp.where(own, -1, 1).astype(z.dtype))  # a product, as of two ways to be divided
        return jnp.sum(losses if kept is None else losses * kept[None].astype(z.dtype), 1)

    x, y = batch.embeddings
    return batch.reduce(batch.losses(rule, x, batch.everyone(y), temperature, bias), weights, reduction)
