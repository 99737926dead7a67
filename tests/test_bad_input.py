"""What users get wrong, and what they may hand in: for every loss the message, or the value."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from registry import CASES

import jaxloss

pytestmark = pytest.mark.filterwarnings("ignore:.*convex_kl_divergence.*:DeprecationWarning")
LOSSES = [c for c in CASES if c.kind != "total"]
EACH = pytest.mark.parametrize("case", LOSSES, ids=lambda c: c.name)
LABELLED = [c for c in LOSSES if c.kind == "axis" and [a.dtype.kind for a in c.arguments()] == ["f", "i"]]
EACH_LABELLED = pytest.mark.parametrize("case", LABELLED, ids=lambda c: c.name)
ALIKE = [c for c in LOSSES if c.kind not in ("batch", "frames") and len({a.shape for a in c.arguments()}) == 1]
PAIRS = [c for c in ALIKE if len(c.arguments()) > 1 and c not in LABELLED]
EACH_PAIR = pytest.mark.parametrize("case", PAIRS, ids=lambda c: c.name)
ROWS = [c for c in LOSSES if c.kind == "axis"]


def public(case):
    """The name that errors carry; the deprecated alias hands over to its successor."""
    return case.fn.__name__.replace("convex_kl", "generalized_kl")


def parameters(case):
    return list(inspect.signature(case.fn).parameters)


def first(case):
    return parameters(case)[0]


def second(case):
    return parameters(case)[1]


def raises(error, *parts):
    """The error, with a message that has all of these in this order."""
    return pytest.raises(error, match=".*".join(re.escape(str(p)) for p in parts))


def result_shape(case):
    return jax.eval_shape(case.fn, *case.arguments()).shape


# Wrong dtype


@pytest.mark.core
@EACH
def test_integer_predictions(case):
    x, *rest = case.arguments()
    with raises(TypeError, public(case), first(case), "floating-point", "int32"):
        case.fn(x.astype(np.int32), *rest)


@EACH
def test_complex_and_boolean_predictions(case):
    x, *rest = case.arguments()
    for dtype in (np.complex64, np.bool_):
        with raises(TypeError, public(case), first(case), "floating-point", np.dtype(dtype)):
            case.fn(x.astype(dtype), *rest)


@EACH_PAIR
def test_complex_targets(case):
    x, y, *rest = case.arguments()
    with raises(TypeError, public(case), second(case), "complex64"):
        case.fn(x, y.astype(np.complex64), *rest)


@pytest.mark.parametrize("case", LABELLED, ids=lambda c: c.name)
def test_labels_that_are_not_integers(case):
    x, y = case.arguments()
    for dtype in (np.float32, np.bool_):
        with raises(TypeError, public(case), "labels", "integer", np.dtype(dtype)):
            case.fn(x, y.astype(dtype))


@EACH
def test_what_is_no_array(case):
    x, *rest = case.arguments()
    for thing in (object(), "text", {"a": 1.0}, np.array(["text"]), np.array([None, 1])):
        with raises(TypeError, public(case), first(case), "must be an array"):
            case.fn(thing, *rest)


def test_arrays_of_objects_and_text_are_named_by_dtype():
    x = np.ones(2, np.float32)
    with raises(TypeError, "l2_loss: targets must be an array or a nested list of numbers, got", "dtype object"):
        jaxloss.l2_loss(x, np.array([None, 1]))
    with raises(TypeError, "huber_loss: delta must be an array or a nested list of numbers, got", "dtype <U1"):
        jaxloss.huber_loss(x, x, delta=np.array(["a", "b"]))


class TensorWithGradient:
    """As PyTorch's, which refuses to become an array."""

    requires_grad = True

    def __array__(self, *args, **kwargs):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


@EACH
def test_a_tensor_that_requires_grad(case):
    x, *rest = case.arguments()
    with raises(TypeError, public(case), first(case), "TensorWithGradient", f"pass {first(case)}.detach().numpy()"):
        case.fn(TensorWithGradient(), *rest)


# Wrong shape


@EACH_PAIR
def test_column_against_vector(case):
    """(N,) predictions with (N, 1) targets are an error, not an (N, N) matrix."""
    x, y, *rest = (a[:, 0] for a in case.arguments())
    with raises(ValueError, public(case), second(case), "(8, 1)", "(8,)"):
        case.fn(x, y[:, None], *rest)


@EACH_PAIR
def test_targets_that_do_not_broadcast(case):
    x, y, *rest = case.arguments()
    with raises(ValueError, public(case), second(case), "(8, 4)", "(8, 5)"):
        case.fn(x, y[:, :-1], *rest)
    with raises(ValueError, public(case), second(case), "(8, 5)", "(1, 5)"):
        case.fn(x[:1], y, *rest)  # predictions never grow


@EACH_LABELLED
def test_labels_of_another_shape(case):
    x, y = case.arguments()
    with raises(ValueError, public(case), "labels", "(8, 1)", "(8,)"):
        case.fn(x, y[:, None])
    with raises(ValueError, public(case), "labels", "(7,)", "(8,)"):
        case.fn(x, y[:-1])


@EACH
def test_weights_that_do_not_broadcast(case):
    shape = result_shape(case)
    with raises(ValueError, public(case), "weights", (3,), shape):
        case.fn(*case.arguments(), weights=jnp.ones(3))
    with raises(ValueError, public(case), "weights", (2, *shape), shape):
        case.fn(*case.arguments(), weights=jnp.ones((2, *shape)))  # losses never grow


@EACH
def test_masks_that_do_not_broadcast(case):
    with raises(ValueError, public(case), "where", "(3,)"):
        case.fn(*case.arguments(), where=jnp.ones(3, bool))


@EACH
def test_masks_that_are_not_boolean(case):
    for dtype in (jnp.int32, jnp.float32):
        with raises(TypeError, public(case), "where", "boolean", jnp.dtype(dtype)):
            case.fn(*case.arguments(), where=jnp.ones(result_shape(case), dtype))


# Wrong option


@EACH
def test_unknown_reduction(case):
    for value in ("average", None, "MEAN"):
        with raises(ValueError, public(case), "reduction", "'none', 'mean', 'sum'", repr(value)):
            case.fn(*case.arguments(), reduction=value)


@EACH
def test_unknown_keyword(case):
    with pytest.raises(TypeError, match=rf"{case.fn.__name__}.*smoothness"):
        case.fn(*case.arguments(), smoothness=1)


OUT_OF_RANGE = {
    "label_smoothing": (-0.1, 1.5),
    "z_loss": (-1.0,),
    "logit_softcap": (0.0, -1.0),
    "temperature": (0.0, -1.0),
    "beta": (-0.1,),
}


@pytest.mark.parametrize(
    "case, name",
    [(c, n) for c in LOSSES for n in OUT_OF_RANGE if n in parameters(c)],
    ids=lambda x: getattr(x, "name", x),
)
def test_option_out_of_range(case, name):
    for value in OUT_OF_RANGE[name]:
        with raises(ValueError, public(case), name, value):
            case.fn(*case.arguments(), **{name: value})


@pytest.mark.parametrize("case", ROWS, ids=lambda c: c.name)
def test_axis(case):
    args = case.arguments()
    with raises(ValueError, public(case), "axis", 2):
        case.fn(*args, axis=2)
    with raises(ValueError, public(case), "axis", "twice"):
        case.fn(*args, axis=(1, -1))
    with raises(TypeError, public(case), "axis", "1.0"):
        case.fn(*args, axis=1.0)
    for value in ([0], jnp.array(0)):
        with raises(TypeError, public(case), f"axis must be an int or a tuple of ints, got {value!r}"):
            case.fn(*args, axis=value)


# Labels out of range


@pytest.mark.core
@EACH_LABELLED
def test_label_out_of_range_is_nan_for_its_example(case):
    x, y = case.arguments()
    y[2], y[5] = -1, x.shape[-1]
    losses, pullback = jax.vjp(lambda x: case.fn(x, jnp.asarray(y)), jnp.asarray(x))
    (gradient,) = pullback(jnp.ones_like(losses))
    bad = np.isin(np.arange(8), (2, 5))
    np.testing.assert_array_equal(np.isnan(losses), bad)
    np.testing.assert_array_equal(np.isnan(gradient).all(-1), bad)
    np.testing.assert_array_equal(np.isnan(gradient).any(-1), bad)


@EACH_LABELLED
def test_checkify_names_the_label(case):
    x, y = case.arguments()
    checked = jax.jit(checkify.checkify(jax.grad(lambda x, y: jnp.sum(case.fn(x, y))), errors=checkify.user_checks))
    error, _ = checked(x, y)
    error.throw()  # nothing to say
    y[2] = x.shape[-1]
    error, _ = checked(x, y)
    with raises(checkify.JaxRuntimeError, public(case), "labels", "[0, 5)"):
        error.throw()


@EACH_LABELLED
def test_ignored_labels_are_not_reported(case):
    x, y = case.arguments()
    y[2] = -100
    checked = checkify.checkify(functools.partial(case.fn, ignore_index=-100), errors=checkify.user_checks)
    error, losses = jax.jit(checked)(x, y)
    error.throw()
    assert losses[2] == 0
    np.testing.assert_allclose(case.fn(x, y, ignore_index=-100, reduction="mean"), np.mean(np.delete(losses, 2)), 1e-6)


# Empty and small


@EACH
def test_empty_batch(case):
    """No examples, no losses; their sum and mean are 0."""
    args = case.arguments(shape=(0, 5))
    assert case.fn(*args).size == 0
    assert case.fn(*args, reduction="sum") == 0
    assert case.fn(*args, reduction="mean") == 0
    gradient = jax.grad(functools.partial(case.fn, reduction="mean"))(*map(jnp.asarray, args))
    assert gradient.shape == args[0].shape


@pytest.mark.parametrize("case", ROWS, ids=lambda c: c.name)
def test_no_classes(case):
    """A sum over nothing is 0; a softmax over nothing does not exist."""
    args = [np.zeros((8, 0), np.float32) if a.ndim == 2 else a for a in case.arguments()]
    if public(case).startswith(("kl", "generalized_kl", "convex_kl", "gaussian", "triplet", "contrastive", "cosine")):
        np.testing.assert_allclose(case.fn(*args), case.reference(*args), rtol=1e-6)
    else:
        with raises(ValueError, public(case), "classes"):
            case.fn(*args)


@pytest.mark.parametrize("case", [c for c in LOSSES if c.kind == "elementwise"], ids=lambda c: c.name)
def test_scalars(case):
    args = case.arguments()
    want = case.fn(*args)[3, 2]
    scalars = [a[3, 2] for a in args]
    for given in (scalars, [a.item() for a in scalars], [jnp.asarray(a) for a in scalars]):
        got = case.fn(*given)
        assert got.shape == ()
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("case", ROWS, ids=lambda c: c.name)
def test_scalars_have_no_axis(case):
    scalars = [a.flat[0] for a in case.arguments()]
    with raises(ValueError, public(case), "axis"):
        case.fn(*scalars)


@pytest.mark.parametrize("case", [c for c in LOSSES if c.kind != "batch"], ids=lambda c: c.name)
def test_a_single_example(case):
    args = case.arguments()
    np.testing.assert_allclose(case.fn(*(a[3] for a in args)), case.fn(*args)[3], rtol=1e-6)


# Python lists, NumPy arrays, float64


@EACH
def test_numpy_arrays_and_lists(case):
    args = case.arguments()
    want = case.fn(*(jnp.asarray(a) for a in args))
    np.testing.assert_array_equal(case.fn(*args), want)
    # Numbers one by one are put together in the program itself, where the last bit may round otherwise.
    eps = float(jnp.finfo(jnp.float32).eps)
    np.testing.assert_allclose(case.fn(*(a.tolist() for a in args)), want, rtol=2 * eps, atol=eps / 100)


@EACH
def test_lists_of_masks_and_weights(case):
    shape = result_shape(case)
    options = {name: np.ones(shape, dtype).tolist() for name, dtype in (("where", bool), ("weights", np.float32))}
    options = {name: value for name, value in options.items() if name in parameters(case)}
    assert jax.eval_shape(lambda args: case.fn(*args, **options), case.arguments()).shape == shape


@EACH
def test_ragged_lists(case):
    _, *rest = case.arguments()
    with raises(TypeError, public(case), first(case), "list"):
        case.fn([[1.0, 2.0], [3.0]], *rest)


@EACH
def test_numpy_float64_without_x64(case):
    wide = case.arguments(np.float64)
    got = case.fn(*wide)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, case.fn(*case.arguments()), rtol=1e-5)


@EACH
def test_float64_with_x64(case):
    """Also where only one side is wide: the result is."""
    args = case.arguments(np.float64)
    with jax.enable_x64(True):
        losses = jax.jit(case.fn)(*args)
        assert losses.dtype == jnp.float64
        np.testing.assert_allclose(losses, case.reference(*args), rtol=1e-9, atol=1e-12)
        x, *rest = args
        narrow = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in rest]
        gradient = jax.eval_shape(jax.grad(lambda x: jnp.sum(case.fn(x, *narrow))), jnp.asarray(x))
        assert jax.eval_shape(case.fn, x, *narrow).dtype == gradient.dtype == jnp.float64


def test_a_bool_is_no_number_whatever_was_compiled_before():
    x = jnp.ones(2)
    jaxloss.huber_loss(x, delta=1.0)
    with raises(TypeError, "huber_loss", "delta must be a number", "True"):
        jaxloss.huber_loss(x, delta=True)


def test_a_scalar_is_a_vector_of_one_entry():
    assert jaxloss.cosine_similarity(2.0, -3.0, axis=None) == -1
    assert jaxloss.cosine_distance(2.0, -3.0, axis=None, where=True, epsilon=1e-6) == 2


@pytest.mark.parametrize(
    "fn", [jaxloss.softmax_cross_entropy, jaxloss.safe_softmax_cross_entropy, jaxloss.poly_loss_cross_entropy]
)
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_class_indices_are_no_weights(fn, shape):
    """Not even of as many examples as there are classes, where they would broadcast."""
    labels = np.arange(4).reshape(shape)
    hint = "use jax.nn.one_hot, or softmax_cross_entropy_with_integer_labels"
    for classes in (3, 4):
        with raises(ValueError, fn.__name__, shape, hint):
            fn(jnp.zeros((4, classes)), labels)
    fn(jnp.zeros((4, 4)), np.eye(4, dtype=np.int32))
    fn(jnp.zeros((4, 1)), np.ones((4, 1), np.int32))


@EACH
def test_switches(case):
    for name, parameter in inspect.signature(case.fn).parameters.items():
        if isinstance(parameter.default, bool):
            for value, got in ((jnp.array(True), "an array"), ("no", "'no'"), (1, "1")):
                with raises(TypeError, public(case), f"{name} must be True or False, known while tracing, got {got}"):
                    case.fn(*case.arguments(), **{name: value})


def test_arrays_among_options():
    x = jnp.ones((2, 3))
    with raises(TypeError, "multi_margin_loss", "p must be a Python number", "an array"):
        jaxloss.multi_margin_loss(x, jnp.array([0, 1]), p=jnp.array(2))
    with raises(ValueError, "entropy: temperature must be a single number", "(1,)"):
        jaxloss.entropy(x, temperature=(jnp.array(1.0),))
    with raises(TypeError, "entropy: axis must be an int or a tuple of ints"):
        jaxloss.entropy(x, axis=(jnp.array(1),))
    with raises(TypeError, "axis_name must be a mesh axis, or a tuple of them, got ['rows']"):
        jaxloss.softmax_cross_entropy(x, x, axis_name=["rows"])
    quantiles = jaxloss.quantile_loss(x, 0.0, quantile=(jnp.array(0.1), 0.5, 0.9))
    np.testing.assert_array_equal(quantiles, jaxloss.quantile_loss(x, 0.0, quantile=(0.1, 0.5, 0.9)))
