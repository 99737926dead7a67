"""PyTorch's own sample inputs for its losses: what its test suite feeds them, options and odd shapes included.

Here each is computed by the function that MIGRATING.md names, in float64: the value, and the gradient of its sum with
respect to every floating-point argument that PyTorch can differentiate.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest

import jaxloss

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]


def class_axis(x):
    return 0 if x.ndim == 1 else 1  # PyTorch's


def labels_or_distributions(logits, target, weight=None, reduction="mean", ignore_index=-100, label_smoothing=0.0):
    axis = class_axis(logits)
    how = {"axis": axis, "class_weights": weight, "label_smoothing": label_smoothing}
    if jnp.issubdtype(target.dtype, jnp.floating):
        losses = jaxloss.softmax_cross_entropy(logits, target, **how)
        return reduced(losses, reduction)
    losses = jaxloss.softmax_cross_entropy_with_integer_labels(logits, target, ignore_index=ignore_index, **how)
    return reduced(losses, reduction, label_weights(target, weight, ignore_index))


def label_weights(labels, weight, ignore_index):
    """The mean of PyTorch divides by them."""
    kept = labels != ignore_index
    return kept.astype(float) if weight is None else jnp.where(kept, weight[jnp.where(kept, labels, 0)], 0)


def reduced(losses, reduction, divisors=None):
    if reduction == "mean" and divisors is not None:
        return jnp.sum(losses) / jnp.sum(divisors)
    return {"mean": jnp.mean, "sum": jnp.sum, "none": lambda x: x}[reduction](losses)


def linear_cross_entropy(
    hidden, kernel, target, linear_bias=None, weight=None, reduction="mean", ignore_index=-100, options=None
):
    how = {"kernel_layout": "vd", "class_weights": weight, "reduction": "none"}
    if jnp.issubdtype(target.dtype, jnp.integer):
        how["ignore_index"] = ignore_index
    loss = functools.partial(jaxloss.linear_cross_entropy, **how)
    if kernel.ndim == 2:
        losses = loss(hidden, kernel, target, bias=linear_bias)
    else:  # each position has a kernel of its own; the classes are before the positions
        flat = kernel.reshape(kernel.shape[0], -1, kernel.shape[-1])
        labels = target.reshape(*target.shape[: target.ndim - (kernel.ndim - 2)], -1)
        biases = jnp.zeros(flat.shape[:2]) if linear_bias is None else linear_bias.reshape(flat.shape[:2])
        losses = jax.vmap(lambda k, b, t: loss(hidden, k, t, bias=b), (1, 1, -1), -1)(flat, biases, labels)
        losses = losses.reshape(*losses.shape[:-1], *kernel.shape[1:-1])
    divisors = label_weights(target, weight, ignore_index) if "ignore_index" in how else None
    return reduced(losses, reduction, divisors)


def nll_loss(log_probs, labels, weight=None, reduction="mean", ignore_index=-100):
    how = {"axis": class_axis(log_probs), "class_weights": weight, "ignore_index": ignore_index}
    losses = jaxloss.nll_loss(log_probs, labels, **how)
    return reduced(losses, reduction, label_weights(labels, weight, ignore_index))


def cosine_similarity(x, y, dim=1, eps=1e-8):
    shape = jnp.broadcast_shapes(x.shape, y.shape)
    x, y = (jnp.broadcast_to(a, shape) for a in (x, y))
    if not shape:
        x, y = x[None], y[None]
    return jaxloss.cosine_similarity(x, y, axis=dim, epsilon=eps)


def binary_cross_entropy_with_logits(logits, target, weight=None, pos_weight=None, reduction="mean"):
    losses = jaxloss.sigmoid_binary_cross_entropy(logits, target, weights=weight, pos_weight=pos_weight)
    return reduced(losses, reduction)


def binary_cross_entropy(probs, target, weight=None, reduction="mean"):
    logits = jnp.log(probs) - jnp.log1p(-probs)
    return reduced(jaxloss.sigmoid_binary_cross_entropy(logits, target, weights=weight), reduction)


def elementwise(loss):
    """The same arguments and the same options under the same names; the mean by number."""

    def call(*args, reduction="mean", **options):
        return reduced(loss(*args, **options), reduction)

    return call


def margin_ranking_loss(x, y, target, margin=0.0, reduction="mean"):
    return reduced(jaxloss.margin_ranking_loss(x, y, target, margin=margin), reduction)


def multi_margin_loss(logits, labels, p=1, margin=1.0, weight=None, reduction="mean"):
    rows = jnp.atleast_2d(logits)  # one row may come without its axis, a class too
    losses = jaxloss.multi_margin_loss(rows, labels.reshape(-1), p=p, margin=margin, class_weights=weight)
    return reduced(losses.reshape(labels.shape), reduction)


def multilabel_soft_margin_loss(logits, truth, weight=None, reduction="mean"):
    if weight is not None and weight.ndim > 1:  # of each element
        return reduced(jnp.mean(jaxloss.sigmoid_binary_cross_entropy(logits, truth, weights=weight), -1), reduction)
    return reduced(jaxloss.multilabel_soft_margin_loss(logits, truth, class_weights=weight), reduction)


def triplet_margin_loss(anchors, positives, negatives, margin=1.0, p=2, eps=1e-6, swap=False, reduction="mean"):
    losses = jaxloss.triplet_margin_loss(
        anchors, positives, negatives, margin=margin, norm_degree=p, eps=eps, swap=swap
    )
    return reduced(losses, reduction)


def gaussian_nll_loss(x, target, variance, full=False, eps=1e-6, reduction="mean"):
    if variance.ndim == x.ndim - 1:  # of whole rows
        variance = variance[..., None]
    shape = jnp.broadcast_shapes(x.shape, target.shape)
    losses = jaxloss.gaussian_nll(jnp.broadcast_to(x, shape), target, jnp.maximum(variance, eps), full=full)
    return reduced(losses, reduction)


def poisson_nll_loss(x, target, log_input=True, full=False, eps=1e-8, reduction="mean"):
    shift = 0.0 if log_input else eps  # PyTorch adds it in the logarithm only
    losses = jaxloss.poisson_nll(x + shift, target, log_input=log_input) - shift
    if full:  # PyTorch adds Stirling's approximation of log k! for counts above 1
        k = jnp.where(target > 1, target, 1)
        losses = losses + jnp.where(target > 1, k * jnp.log(k) - k + 0.5 * jnp.log(2 * jnp.pi * k), 0)
    return reduced(losses, reduction)


def kl_div(log_probs, target, reduction="mean", log_target=False):
    loss = jaxloss.kl_divergence_with_log_targets if log_target else jaxloss.kl_divergence
    if reduction == "batchmean":
        return jnp.sum(loss(log_probs, target)) / log_probs.shape[0]
    return reduced(loss(log_probs[..., None], target[..., None]), reduction)


def cosine_embedding_loss(x, y, target, margin=0.0, reduction="mean"):
    return reduced(jaxloss.cosine_embedding_loss(x, y, target, margin=margin), reduction)


def ctc_loss(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    frames, lengths = jnp.asarray(input_lengths), jnp.asarray(target_lengths)
    frame_paddings = (jnp.arange(log_probs.shape[0]) >= frames[:, None]).astype(float)
    paddings = (jnp.arange(targets.shape[1]) >= lengths[:, None]).astype(float)
    how = {"blank_id": blank, "zero_infinity": zero_infinity}
    losses = jaxloss.ctc_loss(log_probs.swapaxes(0, 1), frame_paddings, targets, paddings, **how)
    return jnp.mean(losses / jnp.maximum(lengths, 1)) if reduction == "mean" else reduced(losses, reduction)


OURS = {
    "cross_entropy": labels_or_distributions,
    "linear_cross_entropy": linear_cross_entropy,
    "nll_loss": nll_loss,
    "cosine_similarity": cosine_similarity,
    "binary_cross_entropy_with_logits": binary_cross_entropy_with_logits,
    "binary_cross_entropy": binary_cross_entropy,
    "soft_margin_loss": elementwise(jaxloss.soft_margin_loss),
    "margin_ranking_loss": margin_ranking_loss,
    "multi_margin_loss": multi_margin_loss,
    "multilabel_soft_margin_loss": multilabel_soft_margin_loss,
    "triplet_margin_loss": triplet_margin_loss,
    "smooth_l1_loss": elementwise(jaxloss.smooth_l1_loss),
    "l1_loss": elementwise(jaxloss.absolute_error),
    "mse_loss": elementwise(jaxloss.squared_error),
    "huber_loss": elementwise(jaxloss.huber_loss),
    "ctc_loss": ctc_loss,
    "cosine_embedding_loss": cosine_embedding_loss,
    "gaussian_nll_loss": gaussian_nll_loss,
    "hinge_embedding_loss": elementwise(jaxloss.hinge_embedding_loss),
    "poisson_nll_loss": poisson_nll_loss,
    "kl_div": kl_div,
}


SIGNS = {"margin_ranking_loss", "hinge_embedding_loss", "cosine_embedding_loss"}  # their last argument is 1 or -1
LEFT_OUT = {
    "multilabel_margin_loss": "its samples list a label twice, which PyTorch counts twice",
    "triplet_margin_with_distance_loss": "any distance: see MIGRATING.md",
    "ctc_loss of concatenated targets": "here they are padded",
}
AT_MOST = 30  # samples of one function in the short run, spread over all


def sides(torch, op, name, sample):
    """Value and gradients, here and there."""
    arguments = [sample.input, *sample.args]
    if name in SIGNS:
        arguments[-1] = torch.where(arguments[-1] > 0, 1.0, -1.0).to(torch.float64)
    wanted = [i for i, a in enumerate(arguments) if getattr(a, "requires_grad", False)]
    value = op(*arguments, **sample.kwargs)
    slopes = torch.autograd.grad(value.sum(), [arguments[i] for i in wanted])

    given = [array(torch, a) for a in arguments]
    options = {k: array(torch, v) for k, v in sample.kwargs.items()}

    def total(*chosen):
        arguments = list(given)
        for i, x in zip(wanted, chosen, strict=True):
            arguments[i] = x
        result = OURS[name](*arguments, **options)
        return jnp.sum(result), result

    ours, result = jax.grad(total, range(len(wanted)), has_aux=True)(*(given[i] for i in wanted))
    return (result, ours), (value.detach().numpy(), tuple(s.numpy() for s in slopes))


def array(torch, x):
    return jnp.asarray(x.detach().numpy()) if isinstance(x, torch.Tensor) else x


@pytest.mark.parametrize("name", OURS)
def test_samples(name, request):
    torch = peers.load("torch")
    pytest.importorskip("expecttest")  # PyTorch's tests need it
    from torch.testing._internal.common_methods_invocations import op_db

    ops = [op for op in op_db if op.name == f"nn.functional.{name}"]
    samples = [(op, s) for op in ops for s in op.sample_inputs("cpu", torch.float64, requires_grad=True)]
    assert samples
    step = 1 if request.config.getoption("--long") else -(-len(samples) // AT_MOST)
    tolerance = 1e-5 if name == "triplet_margin_loss" else 1e-9  # where PyTorch adds epsilon to the differences
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for op, sample in samples[::step]:
            got, want = sides(torch, op, name, sample)
            assert jax.tree.map(jnp.shape, got) == jax.tree.map(np.shape, want), sample
            jax.tree.map(
                lambda a, b, s=sample: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=str(s)),
                got,
                want,
            )


def test_every_loss_is_here_or_left_out():
    torch = peers.load("torch")
    named = {n for n in dir(torch.nn.functional) if n.endswith(("_loss", "cross_entropy", "kl_div")) and n[0] != "_"}
    assert named - set(OURS) - set(LEFT_OUT) == set()
