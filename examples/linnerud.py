"""Regression whose targets have unlike units: what the losses' weights change.

Twenty men: weight (pounds), waist (inches) and pulse (beats a minute) from chin-ups, sit-ups and jumps. All three
targets are predicted from one shared score, so they compete for it. Plain L2 adds pounds^2 to inches^2, and the
heaviest unit wins; weights of 1/variance take the units out; learned uncertainties find such weights by themselves.
Errors are leave-one-out. Run: `python -m examples.linnerud`.
"""

import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.datasets import load_linnerud
from tqdm import tqdm

import jaxloss
from examples import _common

SCHEMES = ("plain L2", "weights 1/variance", "learned uncertainty")
PENALTIES = (0.0, 0.03, 0.1, 0.3, 1.0)  # on the squared parameters, and the same for every scheme
SHOWN = 0.1  # the penalty of the table; the figure has them all
STARTS = 3  # the shared score makes the problem non-convex: the start with the lowest training objective is kept
STEPS = 2000
UNITS = ("lb", "in", "beats/min")

Params = dict[str, Any]


class Scale(NamedTuple):
    """Mean and variance of each column over the men that are kept."""

    mean: jax.Array
    variance: jax.Array


def scale_of(columns: jax.Array, kept: jax.Array) -> Scale:
    rows = kept[:, None]
    mean = jnp.mean(columns, axis=0, where=rows)
    return Scale(mean, jnp.mean((columns - mean) ** 2, axis=0, where=rows))


def init(key: jax.Array, target: Scale) -> Params:
    score, effect = jax.random.normal(key, (2, 3)) / 2
    return {"score": score, "effect": effect, "offset": jnp.zeros(3), "log_variance": jnp.log(target.variance)}


def predict(params: Params, exercises: jax.Array, target: Scale) -> jax.Array:
    score = exercises @ params["score"]
    standard = params["offset"] + score[:, None] * params["effect"]
    return target.mean + standard * jnp.sqrt(target.variance)


def objective(
    scheme: str, params: Params, exercises: jax.Array, measured: jax.Array, kept: jax.Array, target: Scale, penalty: Any
) -> jax.Array:
    predicted = predict(params, exercises, target)
    half_squares = functools.partial(jaxloss.l2_loss, predicted, measured, where=kept[:, None])
    men = jnp.sum(kept)
    if scheme == "plain L2":
        fit = half_squares(reduction="sum") / men
    elif scheme == "weights 1/variance":
        fit = half_squares(weights=1 / target.variance, reduction="sum") / men
    else:
        per_target = jnp.sum(half_squares(), axis=0) / men
        fit = jaxloss.uncertainty_weighted_sum(per_target, params["log_variance"])
    size = sum(jaxloss.l2_loss(params[name], reduction="sum") for name in ("score", "effect"))
    return fit + penalty * size


def train(scheme: str, exercises: jax.Array, measured: jax.Array, kept: jax.Array, penalty: jax.Array, key: jax.Array):
    """Predictions for all men by a model that saw only those `kept`, and its final training objective."""
    source, target = scale_of(exercises, kept), scale_of(measured, kept)
    standard = (exercises - source.mean) / jnp.sqrt(source.variance)
    loss = functools.partial(
        objective, scheme, exercises=standard, measured=measured, kept=kept, target=target, penalty=penalty
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, STEPS))

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    params = init(key, target)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)
    return predict(params, standard, target), loss(params)


def left_out_errors(scheme: str, exercises: jax.Array, measured: jax.Array) -> np.ndarray:
    """`[penalties, men, targets]`: the error for each man of the model that has not seen him."""
    men = len(measured)
    fold = functools.partial(train, scheme, exercises, measured)
    starts = jax.vmap(fold, (None, None, 0))
    folds = jax.vmap(starts, (0, None, None))
    every = jax.jit(jax.vmap(folds, (None, 0, None)))
    keys = jax.random.split(jax.random.key(0), STARTS)
    predicted, final = every(~jnp.eye(men, dtype=bool), jnp.array(PENALTIES), keys)
    best = np.argmin(final, axis=-1)
    chosen = np.take_along_axis(np.asarray(predicted), best[..., None, None, None], axis=2)[:, :, 0]
    own = np.arange(men)
    return chosen[:, own, own] - np.asarray(measured)


def root_mean_square(errors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(errors**2, axis=-2))


def gains(errors: dict[str, np.ndarray], at: int, names: list[str]) -> Iterator[tuple[str, tuple[float, float]]]:
    """For each target, what 1/variance takes off the squared error of plain L2, as a share, and its standard error."""
    plain, weighted = (errors[name][at] ** 2 for name in SCHEMES[:2])
    shares = (plain - weighted) / np.mean(plain, axis=0)
    spread = np.std(shares, axis=0, ddof=1) / np.sqrt(len(shares))
    yield from zip(names, zip(shares.mean(0), spread, strict=True), strict=True)


def draw(errors: dict[str, np.ndarray], baseline: np.ndarray, names: list[str]) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8))
    places = range(len(PENALTIES))
    for i, (name, unit) in enumerate(zip(names, UNITS, strict=True)):
        for scheme, values in errors.items():
            axes[i].plot(places, root_mean_square(values)[:, i], marker="o", label=scheme)
        axes[i].axhline(baseline[i], color="black", ls="--", lw=1, label="the others' mean")
        axes[i].set(title=f"{name} of the man left out", xlabel="penalty on the parameters")
        axes[i].set_ylabel(f"RMS error ({unit})")
        axes[i].set_xticks(places, [f"{p:g}" for p in PENALTIES])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def main() -> None:
    folder = _common.arguments(__doc__).figures
    data = load_linnerud()
    exercises, measured = jnp.asarray(data.data, jnp.float32), jnp.asarray(data.target, jnp.float32)
    men = len(measured)
    baseline = root_mean_square(np.asarray((measured - measured.mean(0)) * men / (men - 1)))

    errors = {}
    started = time.perf_counter()
    for scheme in (bar := tqdm(SCHEMES, unit="scheme")):
        bar.set_description(scheme)
        errors[scheme] = left_out_errors(scheme, exercises, measured)
    print(f"\n{len(SCHEMES) * len(PENALTIES) * men * STARTS} models in {time.perf_counter() - started:.0f} s")

    at = PENALTIES.index(SHOWN)
    rows = [[name, *(f"{e:.2f}" for e in root_mean_square(values[at]))] for name, values in errors.items()]
    rows.append(["the others' mean", *(f"{e:.2f}" for e in baseline)])
    header = [f"{name} ({unit})" for name, unit in zip(data.target_names, UNITS, strict=True)]
    print(f"leave-one-out RMS error, penalty {SHOWN}:")
    _common.print_table(["loss", *header], rows)
    shares = [f"{name} {share:.0%} +- {error:.0%}" for name, (share, error) in gains(errors, at, data.target_names)]
    print("squared error that 1/variance takes off plain L2 (standard error):", ", ".join(shares))
    _common.save(draw(errors, baseline, data.target_names), folder, "linnerud")


if __name__ == "__main__":
    main()
