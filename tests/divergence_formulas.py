"""Divergences of softmax distributions and their slopes in mpmath, from the formulas."""

import mpmath
import numpy as np


def exact(x):
    return [mpmath.mpf(float(v)) for v in np.ravel(x)]


def softmax(x, temperature=1):
    e = [mpmath.exp(v / temperature) for v in x]
    return [v / sum(e) for v in e]


def kl(q, p):
    return sum((a * mpmath.log(a / b) for a, b in zip(q, p, strict=True) if a > 0), mpmath.mpf(0))


def exact_kl(x, y, temperature=1):
    return kl(softmax(y, temperature), softmax(x, temperature))


def exact_js(x, y, beta, temperature=1):
    p, q = softmax(x, temperature), softmax(y, temperature)
    if beta in (0, 1):
        return kl(q, p) if beta == 0 else kl(p, q)
    m = [beta * b + (1 - beta) * a for a, b in zip(p, q, strict=True)]
    return kl(q, m) / (1 - beta) + kl(p, m) / beta


def kl_slopes(x, y, temperature=1):
    p, q = softmax(x, temperature), softmax(y, temperature)
    divergence = kl(q, p)
    to_x = [(a - b) / temperature for a, b in zip(p, q, strict=True)]
    to_y = [b * (mpmath.log(b / a) - divergence) / temperature for a, b in zip(p, q, strict=True)]
    return to_x, to_y


def js_slopes(x, y, beta, temperature=1):
    if beta in (0, 1):
        return kl_slopes(x, y, temperature) if beta == 0 else kl_slopes(y, x, temperature)[::-1]
    p, q = softmax(x, temperature), softmax(y, temperature)
    m = [beta * b + (1 - beta) * a for a, b in zip(p, q, strict=True)]

    def side(p, weight):
        logs = [mpmath.log(a / c) / weight for a, c in zip(p, m, strict=True)]
        mean = sum(a * v for a, v in zip(p, logs, strict=True))
        return [a * (v - mean) / temperature for a, v in zip(p, logs, strict=True)]

    return side(p, beta), side(q, 1 - beta)


def exact_gradients(fn, *args):
    """Central differences in 60 digits, of lists of numbers and of numbers."""
    h = mpmath.mpf(10) ** -18
    gradients = []
    for i, arg in enumerate(args):
        is_list = isinstance(arg, list)
        entries = arg if is_list else [arg]

        def moved(k, step, i=i, entries=entries, is_list=is_list):
            new = [v + step if j == k else v for j, v in enumerate(entries)]
            return fn(*args[:i], new if is_list else new[0], *args[i + 1 :])

        gradients.append([(moved(k, h) - moved(k, -h)) / (2 * h) for k in range(len(entries))])
    return gradients


def error(got, want):
    """The largest error relative to the largest entry."""
    want = list(want)
    size = max(abs(v) for v in want)
    return float(max(abs(g - w) for g, w in zip(exact(got), want, strict=True)) / size)


def pair_of_logits(classes, scale, noise, offset, seed=0):
    rng = np.random.default_rng(seed)
    y = (scale * rng.standard_normal(classes)).astype(np.float32)
    return (y + offset + noise * rng.standard_normal(classes)).astype(np.float32), y
