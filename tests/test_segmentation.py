"""Losses of segmentations and boxes: masks and weights of pixels, shapes, and what other libraries say."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import peers
import pytest
import segmentation_formulas as formulas
from compiled import traced_in
from jax.experimental import checkify
from registry_formulas import FLOAT64

import jaxloss
from jaxloss._core import blocks

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


@pytest.mark.parametrize(
    "shape, axis", [((2, 36, 3), None), ((2, 37, 3), None), ((2, 3, 36, 3), (0, 1)), ((36, 2, 1), 0)], ids=str
)
def test_lines_of_pixels_in_blocks(monkeypatch, shape, axis):
    """As on one CPU, where a long axis is folded, if its length has a divisor that is a line."""
    rng = np.random.default_rng(1)
    x, w = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in (shape, shape[:-1]))
    y, keep = rng.integers(0, max(2, shape[-1]), shape[:-1]), rng.random(shape[:-1]) < 0.7
    x = jnp.where(keep[..., None], x, jnp.nan)

    def loss(x, w, alpha):
        return jnp.sum(jaxloss.tversky_loss(x, y, alpha=alpha, axis=axis, where=keep, weights=w**2))

    def derivatives():
        args = x, w, jnp.float32(0.3)
        along = jax.jvp(jax.grad(loss, 1), args, (jnp.cos(x).at[~keep].set(0), jnp.sin(w), jnp.float32(1)))[1]
        return jax.jit(lambda: (jax.value_and_grad(loss, (0, 1, 2))(*args), along))()

    def loops():
        return jax.jit(loss).lower(x, w, jnp.float32(0.3)).as_text().count("stablehlo.while")

    want = derivatives()
    assert not loops()
    traced_in("lines of pixels")
    monkeypatch.setattr(blocks, "one_cpu", lambda: True)
    monkeypatch.setattr(blocks, "may_slice", lambda x: True)
    for name, value in {"_LEAST": 24, "_SMALL": 0, "_FOR_EACH_CORE": 0, "_RUN": 1}.items():
        monkeypatch.setattr(blocks, name, value)
    assert loops()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), derivatives(), want)


@of_pixels
def test_ignored_index_is_a_mask(fn):
    np.testing.assert_array_equal(fn(X, np.where(KEEP, Y, 255), ignore_index=255), fn(X, Y, where=KEEP))


@of_pixels
@pytest.mark.parametrize("axis", [[], [1]], ids=["without", "with"])
def test_integers_of_one_class(fn, axis):
    """A void pixel is no foreground: NaN, in value and gradient, unless it is ignored."""
    x, y = X[..., :1], np.where(KEEP, Y == 1, 255).astype(np.uint8)
    want = fn(x, Y == 1, where=KEEP)
    y = y.reshape(*y.shape, *axis)
    np.testing.assert_array_equal(fn(x, y, ignore_index=255), want)
    np.testing.assert_array_equal(fn(x, y, where=KEEP), want)
    for part in both(fn, x, y):
        assert np.all(np.isnan(part))


@of_pixels
def test_integers_of_one_class_are_reported(fn):
    checked = checkify.checkify(lambda y: fn(X[..., :1], y), checkify.user_checks)
    assert "labels must be in [0, 2)" in checked(Y[..., None])[0].get()
    assert checked((Y == 1)[..., None])[0].get() is None


def test_binary_dice_of_a_void_pixel():
    y = np.array([[1, 255]], np.uint8)
    for part in both(jaxloss.binary_dice_loss, X[:1, 0, :2, 0], y):
        assert np.all(np.isnan(part))
    soft = jaxloss.binary_dice_loss(X[:1, 0, :2, 0], y.astype(np.float32))
    assert np.all(np.isfinite(soft))  # the user's business


@pytest.mark.parametrize("shape", [(2, 1), (2, 7, 1)])
def test_binary_dice_weights_with_the_last_axis(shape):
    x, y = X[:, 0, : shape[1] if len(shape) > 2 else 1, :1].reshape(shape), np.ones(shape, np.int32)
    w = RNG.uniform(0.5, 2, shape).astype(np.float32)
    want = jaxloss.binary_dice_loss(x[..., 0, None], y[..., 0, None], weights=w[..., 0])
    np.testing.assert_array_equal(jaxloss.binary_dice_loss(x, y, weights=w), want)
    np.testing.assert_array_equal(jaxloss.binary_dice_loss(x, y, where=w > 1), jaxloss.binary_dice_loss(
        x, y, where=w[..., 0] > 1
    ))  # fmt: skip


@pytest.mark.parametrize("classes", ["present", "all"])
def test_lovasz_of_a_target_that_is_nan(classes):
    bad = np.where(KEEP[..., None], HOT, np.nan)
    value, slopes = both(jaxloss.lovasz_softmax_loss, X, bad, classes=classes)
    assert np.isnan(value) and np.all(np.isnan(slopes))
    got, want = (both(jaxloss.lovasz_softmax_loss, X, y, classes=classes, where=KEEP) for y in (bad, HOT))
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


def test_hinge_of_a_label_that_is_nan():
    labels = np.where(KEEP, Y > 0, np.nan)
    labels[1] = 1.0
    losses, pullback = jax.vjp(lambda x: jaxloss.lovasz_hinge_loss(x, labels), X[..., 0])
    slopes = pullback(jnp.ones_like(losses))[0]
    for part in (losses, slopes):
        assert np.all(np.isnan(part[0])) and np.all(np.isfinite(part[1]))
    got, want = (both(jaxloss.lovasz_hinge_loss, X[..., 0], y, where=KEEP) for y in (labels, np.where(KEEP, labels, 0)))
    assert np.isfinite(got[0]) and not np.asarray(got[1])[~KEEP].any()
    np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32])
def test_indices_of_any_integer_dtype(dtype):
    x = RNG.standard_normal((1, 4, 200)).astype(np.float32)
    y = np.array([[0, 3, 100, 127]])
    for fn in (jaxloss.dice_loss, jaxloss.lovasz_softmax_loss):
        np.testing.assert_array_equal(fn(x, y.astype(dtype)), fn(x, y.astype(np.int32)))


@pytest.mark.parametrize("dtype, index", [(bool, 255), (np.uint8, -100), (np.int8, 255)])
def test_an_index_that_no_label_can_be(dtype, index):
    y = (Y == 1).astype(dtype)
    for fn, x in ((jaxloss.lovasz_hinge_loss, X[..., 0]), (jaxloss.dice_loss, X[..., :1])):
        np.testing.assert_array_equal(fn(x, y, ignore_index=index), fn(x, y))
    if dtype is not bool:
        np.testing.assert_array_equal(jaxloss.dice_loss(X, y, ignore_index=index), jaxloss.dice_loss(X, y))


@pytest.mark.parametrize("variant", ["plain", "generalized", "distance", "complete"])
def test_boxes_that_are_nan(variant):
    """The gradient is NaN too, and that of other boxes is not; nor is that of dropped ones."""
    a = np.array([[np.nan, 0.0, 1.0, 1.0], BOX], np.float32)
    b = np.array([BOX, BOX + 0.25], np.float32)

    def slopes(a, b, **options):
        total = lambda *boxes: jnp.sum(jaxloss.iou_loss(*boxes, variant=variant, **options))  # noqa: E731
        return np.asarray(jax.grad(total, (0, 1))(a, b))

    for given in ((a, b), (b, a)):
        found = slopes(*given)
        assert np.all(np.isnan(found[:, 0])) and np.all(np.isfinite(found[:, 1]))
        assert not slopes(*given, where=np.array([False, True]))[:, 0].any()


@pytest.mark.parametrize("variant", ["plain", "generalized", "distance", "complete"])
def test_boxes_as_large_as_can_be(variant):
    """Their differences would be infinite."""
    a, b = np.array([-0.9, -0.5, 0.9, 0.7]), np.array([-0.3, -0.9, 0.8, 0.9])
    largest = np.finfo(np.float32).max
    want = jaxloss.iou_loss(a.astype(np.float32), b.astype(np.float32), variant=variant)
    got = jaxloss.iou_loss((largest * a).astype(np.float32), (largest * b).astype(np.float32), variant=variant)
    np.testing.assert_allclose(got, want, rtol=1e-6)


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
    (lambda: jaxloss.dice_loss(X[..., :1], HOT[..., :1], ignore_index=0), ValueError, "use where"),
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
