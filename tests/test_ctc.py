"""CTC against all alignments one by one, against a recursion in float64, against optax, and where there is nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers
import pytest
import sequence_formulas as formulas
from registry_case import lift
from registry_formulas import EXACT, FLOAT64

from jaxloss import ctc_loss, ctc_loss_with_forward_probs

BOTH = jax.jit(jax.value_and_grad(lambda x, *rest, **given: jnp.sum(ctc_loss(x, *rest, **given))))


def speech(seed, examples, frames, classes, labels, scale=1.0, shortest=1):
    """Of unequal lengths, all of which have an alignment."""
    rng = np.random.default_rng(seed)
    x = (scale * rng.standard_normal((examples, frames, classes))).astype(np.float32)
    y = rng.integers(1, classes, (examples, labels)).astype(np.int32)
    of_labels = rng.integers(shortest, labels + 1, examples)
    needed = np.minimum(2 * of_labels, frames)
    of_frames = rng.integers(needed, frames + 1)
    return x, np.arange(frames) >= of_frames[:, None], y, np.arange(labels) >= of_labels[:, None]


def log_domain(x, frame_padding, labels, label_padding):
    """The recursion in alpha and beta in float64 logarithms, frame by frame: losses and gradients of their sum."""
    x = np.asarray(x, np.float64)
    log_p = x - np.logaddexp.reduce(x, -1, keepdims=True)
    losses, slopes = np.zeros(len(x)), np.zeros(x.shape)
    for i in range(len(x)):
        lp, y = log_p[i][~frame_padding[i]], labels[i][~label_padding[i]]
        states = np.zeros(2 * len(y) + 1, int)
        states[1::2] = y
        skip = np.zeros(len(states), bool)
        skip[2:] = (states[2:] != 0) & (states[2:] != states[:-2])
        emitted = lp[:, states]

        def sweep(emitted, skip):
            a = np.full(emitted.shape, -np.inf)
            a[0, :2] = emitted[0, :2]
            for t in range(1, len(a)):
                before = a[t - 1]
                one = np.concatenate([[-np.inf], before[:-1]])
                two = np.where(skip, np.concatenate([[-np.inf] * 2, before[:-2]])[: len(before)], -np.inf)
                a[t] = emitted[t] + np.logaddexp(np.logaddexp(before, one), two)
            return a

        back = np.zeros(len(states), bool)
        back[2:] = skip[::-1][:-2] if len(states) > 2 else False
        back = np.concatenate([[False, False], skip[2:][::-1]])[: len(states)]
        alpha, beta = sweep(emitted, skip), sweep(emitted[::-1, ::-1], back)[::-1, ::-1]
        total = np.logaddexp.reduce(alpha[-1, -2:])
        losses[i] = -total
        posterior = np.exp(alpha + beta - emitted - total)
        slope = np.exp(lp)
        for s, k in enumerate(states):
            slope[:, k] -= posterior[:, s]
        slopes[i][~frame_padding[i]] = slope
    return losses, slopes


def assert_relative(got, want, rtol):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * np.max(np.abs(want), initial=1e-30))


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("labels", [0, 1, 2, 3])
def test_all_alignments(labels, scale):
    """With 100 digits; each entry of the gradient by differences."""
    x, _, y, _ = speech(labels, 2, 5, 3, max(labels, 1), scale)
    y[:, :labels] = np.arange(labels) % 2 + 1
    given = np.zeros((2, 5), bool), y, np.broadcast_to(np.arange(y.shape[1]) >= labels, y.shape)
    exact = lift(EXACT, x)
    want = formulas.ctc_loss(EXACT, exact, *given)
    value, slope = BOTH(x, *given)
    assert_relative(ctc_loss(x, *given), want, 1e-6)
    step, wanted = EXACT.number(1e-30)[()], np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        sides = []
        for sign in (1, -1):
            moved = exact.copy()
            moved[place] = moved[place] + sign * step
            sides.append(np.sum(formulas.ctc_loss(EXACT, moved, *given)))
        wanted[place] = float((sides[0] - sides[1]) / (2 * step))
    assert_relative(slope, wanted, 2e-6)


@pytest.mark.parametrize(
    "examples, frames, classes, labels, scale",
    [(3, 1, 2, 1, 1.0), (4, 33, 7, 12, 3.0), (5, 100, 20, 30, 1.0), (3, 257, 5, 60, 10.0), (2, 1500, 30, 200, 2.0)],
)
def test_unequal_lengths(examples, frames, classes, labels, scale):
    """Up to 1500 frames, where probabilities are far below float32; and whatever is in the padding."""
    x, padded, y, unused = speech(frames, examples, frames, classes, labels, scale)
    losses, slopes = log_domain(x, padded, y, unused)
    dirty = np.where(padded[..., None], np.float32(np.nan), x)
    value, slope = BOTH(dirty, padded, np.where(unused, -100, y), unused)
    assert_relative(ctc_loss(dirty, padded, y, unused), losses, 1e-6)
    assert_relative(slope, slopes, 3e-6)
    assert np.all(np.asarray(slope)[padded] == 0)


@pytest.mark.parametrize("of_paddings", [bool, np.int32, np.float32])
def test_padding_anywhere_among_the_frames(of_paddings):
    x, padded, y, unused = speech(1, 3, 12, 5, 4)
    holes = np.insert(x, [0, 3, 3, 12], np.nan, axis=1)
    where = np.insert(padded, [0, 3, 3, 12], True, axis=1)
    got = BOTH(holes, where.astype(of_paddings), y, unused.astype(of_paddings))
    want = BOTH(x, padded, y, unused)
    assert_relative(got[0], want[0], 1e-6)
    assert_relative(np.asarray(got[1])[~where], np.asarray(want[1])[~padded], 1e-5)


def test_what_paddings_are_differentiated():
    x, padded, y, unused = speech(1, 3, 12, 5, 4)
    with pytest.raises(TypeError, match="ctc_loss: logit_paddings has no gradient.*stop_gradient"):
        jax.grad(lambda p: jnp.sum(ctc_loss(x, p, y, unused)))(jnp.asarray(padded, jnp.float32))


def test_any_blank():
    x, padded, y, unused = speech(2, 3, 12, 5, 4)
    last = np.roll(x, -1, axis=-1)
    assert_relative(ctc_loss(last, padded, y - 1, unused, blank_id=4), ctc_loss(x, padded, y, unused), 1e-6)


def test_any_batch_shape():
    x, padded, y, unused = speech(3, 6, 12, 5, 4)
    args = x, padded, y, unused
    want = ctc_loss(*args)
    assert_relative(ctc_loss(*(a.reshape(2, 3, *a.shape[1:]) for a in args)), want.reshape(2, 3), 1e-6)
    assert ctc_loss(*(a[0] for a in args)).shape == ()
    assert_relative(jax.vmap(ctc_loss)(*args), want, 1e-6)
    assert ctc_loss(*(a[:0] for a in args)).shape == (0,)
    assert ctc_loss(*(a[:0] for a in args), reduction="mean") == 0


def test_the_tape_is_not_kept():
    """What the backward pass keeps is one array like the logits, in their dtype."""
    x, *rest = speech(4, 4, 64, 32, 20)
    for dtype in (jnp.float32, jnp.bfloat16):
        x_ = jnp.asarray(x, dtype)
        kept = jax.tree.leaves(jax.vjp(lambda x: ctc_loss(x, *rest), x_)[1])
        assert sum(k.nbytes for k in kept) <= 1.1 * x_.nbytes


def test_second_derivatives():
    x, *rest = speech(5, 1, 4, 3, 2)
    loss = functools.partial(lambda x: jnp.sum(ctc_loss(x, *rest)))
    hessian = jax.jit(jax.hessian(loss))(jnp.asarray(x)).reshape(12, 12)
    step, wanted = 1e-5, np.zeros((12, 12))
    for k in range(12):
        sides = []
        for sign in (1, -1):
            moved = x.astype(np.float64)
            moved.reshape(-1)[k] += sign * step
            sides.append(log_domain(moved, *rest)[1].reshape(-1))
        wanted[k] = (sides[0] - sides[1]) / (2 * step)
    np.testing.assert_allclose(hessian, wanted, atol=2e-5)


def test_forward_probabilities_are_those_of_optax():
    x, padded, y, unused = speech(6, 4, 20, 6, 5)
    numbers = padded.astype(np.float32), y, unused.astype(np.float32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = optax.ctc_loss_with_forward_probs(x, *numbers)
    ours = ctc_loss_with_forward_probs(x, padded, y, unused)
    lengths = np.sum(~unused, 1)[:, None]
    for got, want, more in zip(ours, theirs, (None, 1, 0), strict=True):
        assert got.shape == want.shape
        possible = np.asarray(want) > -1e4
        if more is not None:  # not beyond the labels, where neither promises anything
            possible &= np.arange(got.shape[2]) < lengths + more
        np.testing.assert_allclose(np.asarray(got)[possible], np.asarray(want)[possible], rtol=2e-5, atol=1e-5)


def test_forward_probabilities_have_gradients():
    x, *rest = speech(7, 2, 6, 4, 2, shortest=2)
    losses, blanks, labels = ctc_loss_with_forward_probs(x, *rest)
    assert np.all(np.asarray(blanks) <= 0) and np.all(np.asarray(labels) <= 0)
    through = jax.grad(lambda x: -jnp.sum(ctc_loss_with_forward_probs(x, *rest)[1][-1, :, 2]))(jnp.asarray(x))
    assert_relative(through, BOTH(x, *rest)[1], 1e-5)
    assert np.array_equal(losses, ctc_loss(x, *rest))


@pytest.mark.peers
@pytest.mark.parametrize("frames, classes, labels", [(50, 20, 10), (400, 96, 60)])
def test_torch_agrees(frames, classes, labels):
    torch = peers.load("torch")
    x, padded, y, unused = speech(8, 8, frames, classes, labels)
    theirs = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    losses = torch.nn.functional.ctc_loss(
        theirs.log_softmax(-1).transpose(0, 1), torch.tensor(y, dtype=torch.long),
        torch.tensor((~padded).sum(1)), torch.tensor((~unused).sum(1)), reduction="none",
    )  # fmt: skip
    losses.sum().backward()
    assert_relative(ctc_loss(x, padded, y, unused), losses.detach().numpy(), 2e-6)
    assert_relative(BOTH(x, padded, y, unused)[1], theirs.grad.numpy(), 5e-6)


def test_the_recursion_of_this_file_is_the_definition():
    x, *rest = speech(9, 3, 5, 3, 2)
    want = formulas.ctc_loss(FLOAT64, x.astype(np.float64), *rest)
    np.testing.assert_allclose(log_domain(x, *rest)[0], want, rtol=1e-12)
