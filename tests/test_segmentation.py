"""Losses of segmentations and boxes: masks and weights of pixels, shapes, and what other libraries say."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import peers
import pytest
import segmentation_formulas as formulas
from registry_formulas import FLOAT64

import jaxloss

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 5, 7, 3)).astype(np.float32)
Y = RNG.integers(0, 3, X.shape[:-1]).astype(np.int32)
HOT = np.eye(3, dtype=np.float32)[Y]
BOX = np.array([0.0, 0.0, 1.0, 1.0], np.float32)
KEEP = RNG.random(X.shape[:-1]) < 0.7
INDEX = [jaxloss.dice_loss, jaxloss.tversky_loss, jaxloss.focal_tversky_loss, jaxloss.jaccard_loss]
OF_PIXELS = [*INDEX, jaxloss.lovasz_softmax_loss]
of_pixels = pytest.mark.parametrize("fn", OF_PIXELS, ids=lambda f: f.__name__)
of_index = pytest.mark.parametrize("fn", INDEX, ids=lambda f: f.__name__)


def both(fn, x, *args, **options):
    return jax.value_and_grad(lambda x: jnp.sum(fn(x, *args, **options)))(x)


def one_image(fn, x, y, keep, **options):
    """The kept pixels alone, as an image of one row."""
    return fn(x[keep][None], y[keep][None], **options)[0]


@of_pixels
def test_dropped_pixels_are_not_there(fn):
    bad = np.where(KEEP[..., None], X, np.nan), np.where(KEEP, Y, -100)
    got = fn(*bad, where=KEEP)
    np.testing.assert_allclose(got, [one_image(fn, x, y, k) for x, y, k in zip(X, Y, KEEP, strict=True)], rtol=1e-6)
    slopes = np.asarray(both(fn, *bad, where=KEEP)[1])
    want = np.asarray(both(fn, X, Y, where=KEEP)[1])
    np.testing.assert_array_equal(slopes, want)
    assert not slopes[~KEEP].any() and np.all(np.isfinite(slopes)) and slopes[KEEP].any()


@of_pixels
def test_ignored_index_is_a_mask(fn):
    np.testing.assert_array_equal(fn(X, np.where(KEEP, Y, 255), ignore_index=255), fn(X, Y, where=KEEP))


@of_pixels
def test_nothing_kept(fn):
    value, slopes = both(fn, np.full_like(X, np.nan), Y, where=np.zeros_like(KEEP))
    assert value == 0 and not np.asarray(slopes).any()


@of_pixels
def test_dropped_classes(fn):
    """Two classes of three: the softmax is over those."""
    keep = np.broadcast_to([True, True, False], X.shape)
    y = Y % 2
    few = fn(X[..., :2], y, reduction="none")
    np.testing.assert_allclose(fn(np.where(keep, X, np.nan), y, where=keep, reduction="none")[:, :2], few, rtol=1e-6)
    assert np.all(np.isfinite(both(fn, np.where(keep, X, np.nan), y, where=keep)[1]))


@of_pixels
def test_one_hot_targets_are_indices(fn):
    for a, b in zip(both(fn, X, Y), both(fn, X, HOT), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
    assert fn(X, HOT.astype(bool)).shape == (2,)


@of_index
def test_weights_of_pixels_repeat_them(fn):
    counts = RNG.integers(0, 3, Y.shape[1:])
    many = [np.repeat(a.reshape(2, 35, *a.shape[3:]), counts.ravel(), 1) for a in (X, Y)]
    np.testing.assert_allclose(fn(X, Y, weights=counts), fn(*many), rtol=1e-6)


@of_index
def test_gradient_of_weights(fn):
    weights = jnp.asarray(RNG.uniform(0.5, 2, Y.shape), jnp.float32)

    formula = {jaxloss.focal_tversky_loss: formulas.focal_tversky_loss, jaxloss.jaccard_loss: formulas.jaccard_loss}

    def total(w):
        return np.sum(formula.get(fn, formulas.index_loss)(FLOAT64, X.astype(float), Y, weights=np.where(KEEP, w, 0)))

    slopes = np.asarray(jax.grad(lambda w: jnp.sum(fn(X, Y, weights=w, where=KEEP)))(weights))
    direction = RNG.standard_normal(Y.shape)
    step = 1e-5 * direction
    numerical = (total(np.asarray(weights, float) + step) - total(np.asarray(weights, float) - step)) / 2e-5
    np.testing.assert_allclose(np.sum(slopes * direction), numerical, rtol=1e-4)
    assert not np.asarray(slopes)[~KEEP].any()


@pytest.mark.parametrize("option", ["alpha", "beta", "smooth"])
def test_gradient_of_options(option):
    given = {"alpha": 0.3, "beta": 0.8, "smooth": 0.5}

    def ours(value):
        return jnp.sum(jaxloss.tversky_loss(X, Y, **{**given, option: value}))

    def theirs(value):
        return formulas.index_loss(FLOAT64, X.astype(float), Y, **{**given, option: value}).sum()

    h = 1e-5
    numerical = (theirs(given[option] + h) - theirs(given[option] - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(ours)(given[option]), numerical, rtol=1e-5)


def test_confident_pixels_keep_their_digits():
    """p (1 - p) of a pixel with a logit 40 ahead is 0 in float32 unless 1 - p is known."""
    logits, y = [[40.0, 0.0, -3.0], [0.0, 30.0, 1.0]], np.array([[0, 1]])
    value, slopes = both(jaxloss.jaccard_loss, jnp.asarray([logits]), y, smooth=0.0, reduction="sum")

    def exact(logits):
        p = [[mpmath.exp(v) / sum(map(mpmath.exp, row)) for v in row] for row in logits]
        there = [(p[0][0], p[0][0] + p[1][0]), (p[1][1], p[0][1] + p[1][1])]
        return sum(1 - hits / (1 + total - hits) for hits, total in there) + 1  # nobody has the third class

    with mpmath.workdps(60):
        rows = [[mpmath.mpf(v) for v in row] for row in logits]
        np.testing.assert_allclose(float(value) - 1, 0, atol=1e-6)
        for i, row in enumerate(rows):
            for k, v in enumerate(row):
                h = mpmath.mpf(10) ** -20
                row[k] = v + h
                high = exact(rows)
                row[k] = v - h
                low = exact(rows)
                row[k] = v
                want = float((high - low) / (2 * h))
                np.testing.assert_allclose(slopes[0, i, k], want, rtol=2e-6)


def test_summed_axes():
    whole = jaxloss.dice_loss(X, Y, axis=(0, 1, 2))
    flat = jaxloss.dice_loss(X.reshape(1, -1, 3), Y.reshape(1, -1))
    assert whole.shape == ()
    np.testing.assert_allclose(whole, flat[0], rtol=1e-6)
    np.testing.assert_allclose(jaxloss.dice_loss(X, Y, axis=-2).shape, (2, 5))
    assert jaxloss.dice_loss(X[0, 0], HOT[0, 0]).shape == (7,)  # [batch, classes]: nothing to sum


def test_absent_class_weighs_as_the_rarest():
    """optax gives it 10^7 times the weight of the others, and so all of it."""
    y = np.array([[0, 0, 0, 1]])
    x = np.log(np.array([[[0.7, 0.2, 0.1]] * 3 + [[0.2, 0.7, 0.1]]], np.float32))
    losses = np.asarray(jaxloss.dice_loss(x, y, reduction="none"))[0]
    rarity = np.array([1 / 9, 1, 1])
    want = np.mean(losses * rarity / rarity.sum() * 3)
    np.testing.assert_allclose(jaxloss.multiclass_generalized_dice_loss(x, y), want, rtol=1e-6)


def test_probabilities_under_jit():
    """optax checks their sum, which cannot be traced."""
    p = jax.nn.softmax(X)
    got = jax.jit(lambda p: jaxloss.dice_loss(p, Y, apply_softmax=False))(p)
    np.testing.assert_allclose(got, jaxloss.dice_loss(X, Y), rtol=1e-6)
    half = jaxloss.dice_loss(p.astype(jnp.bfloat16), Y, apply_softmax=False)
    np.testing.assert_allclose(half, got, rtol=1e-2)
    one = jax.nn.sigmoid(X[..., 0])
    got = jaxloss.binary_dice_loss(one, Y == 0, apply_sigmoid=False)
    np.testing.assert_allclose(got, jaxloss.binary_dice_loss(X[..., 0], Y == 0), rtol=1e-6)


def test_large_images():
    """A float32 sum of a quarter of a million pixels in one go would lose three digits."""
    x = RNG.standard_normal((1, 512, 512, 2)).astype(np.float32)
    y = RNG.integers(0, 2, x.shape[:-1]).astype(np.int32)
    exact = formulas.index_loss(FLOAT64, x.astype(float), y)
    np.testing.assert_allclose(jaxloss.dice_loss(x, y), exact, rtol=2e-6)


def test_lovasz_of_a_batch_as_one_image():
    """The authors' code does that unless told otherwise."""
    whole = jaxloss.lovasz_softmax_loss(X, Y, axis=(0, 1, 2))
    flat = jaxloss.lovasz_softmax_loss(X.reshape(1, -1, 3), Y.reshape(1, -1))
    np.testing.assert_allclose(whole, flat[0], rtol=1e-6)


def test_lovasz_of_certain_pixels_is_the_jaccard_loss():
    x = np.where(HOT[:, ::-1] > 0, 200.0, 0.0).astype(np.float32)
    predicted = x.argmax(-1)
    want = [
        [1 - np.sum((p == k) & (y == k)) / np.sum((p == k) | (y == k)) for k in range(3)]
        for p, y in zip(predicted, Y, strict=True)
    ]
    np.testing.assert_allclose(jaxloss.lovasz_softmax_loss(x, Y, reduction="none"), want, rtol=1e-6)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["giou", "diou", "ciou"])
def test_boxes_against_their_papers_in_torch(name):
    """The formulas of torchvision, with its constant trade-off."""
    torch = peers.load("torch")
    a, b = (np.sort(RNG.uniform(0, 1, (2, 50, 2)), 0).transpose(1, 0, 2).reshape(50, 4) for _ in range(2))
    given = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (a, b)]
    losses = torch_boxes(torch, *given)[name]
    losses.sum().backward()
    variant = {"giou": "generalized", "diou": "distance", "ciou": "complete"}[name]

    def ours(a, b):
        return jaxloss.iou_loss(a, b, variant=variant)

    args = [jnp.asarray(v, jnp.float32) for v in (a, b)]
    np.testing.assert_allclose(ours(*args), losses.detach(), rtol=2e-5)
    slopes = jax.grad(lambda *v: jnp.sum(ours(*v)), (0, 1))(*args)
    for got, want in zip(slopes, given, strict=True):
        np.testing.assert_allclose(got, want.grad, rtol=1e-3, atol=1e-4)


def torch_boxes(torch, a, b):
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.unbind(-1), b.unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    common = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - common
    iou = common / union
    wide, high = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1), torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    away = ((ax1 + ax2 - bx1 - bx2) ** 2 + (ay1 + ay2 - by1 - by2) ** 2) / 4 / (wide**2 + high**2)
    ratio = torch.atan((bx2 - bx1) / (by2 - by1)) - torch.atan((ax2 - ax1) / (ay2 - ay1))
    v = 4 / torch.pi**2 * ratio**2
    tradeoff = (v / (1 - iou + v)).detach()
    uncovered = (wide * high - union) / (wide * high)
    return {"giou": 1 - iou + uncovered, "diou": 1 - iou + away, "ciou": 1 - iou + away + tradeoff * v}


@pytest.mark.parametrize("call, error, message", [
    (lambda: jaxloss.dice_loss(X, HOT[..., :2]), ValueError, "targets must have the shape"),
    (lambda: jaxloss.dice_loss(X, HOT[..., 0]), TypeError, "integer class indices"),
    (lambda: jaxloss.dice_loss(Y, Y), TypeError, "predictions must have a floating-point dtype"),
    (lambda: jaxloss.dice_loss(X, HOT, ignore_index=0), ValueError, "use where"),
    (lambda: jaxloss.dice_loss(X, Y, axis=3), ValueError, "names the class axis"),
    (lambda: jaxloss.dice_loss(X, Y, smooth=-1.0), ValueError, "smooth must be in"),
    (lambda: jaxloss.dice_loss(X, Y, reduction="max"), ValueError, "reduction must be one of"),
    (lambda: jaxloss.dice_loss(X, Y, class_weights=np.ones(2)), ValueError, "class_weights must have the shape"),
    (lambda: jaxloss.dice_loss(X, Y, where=np.ones(X.shape[:-1])), TypeError, "where must be boolean"),
    (lambda: jaxloss.dice_loss(X, Y, weights=np.ones((2, 5))), ValueError, "weights of shape"),
    (lambda: jaxloss.focal_tversky_loss(X, Y, gamma=0.0), ValueError, "gamma must be in"),
    (lambda: jaxloss.lovasz_softmax_loss(X, Y, classes="some"), ValueError, "classes must be one of"),
    (lambda: jaxloss.lovasz_hinge_loss(X[..., 0], Y[:1, :1, :2]), ValueError, "does not broadcast"),
    (lambda: jaxloss.iou_loss(X, X), ValueError, "must be \\(x1, y1, x2, y2\\)"),
    (lambda: jaxloss.iou_loss(BOX[None], np.ones((3, 4))), ValueError, "does not broadcast"),
    (lambda: jaxloss.iou_loss(BOX, BOX, variant="giou"), ValueError, "variant must be one of"),
])  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
