"""A convolutional classifier of handwritten digits, in float32 and in bfloat16.

Cross-entropy with label smoothing and z-loss, beside plain cross-entropy. Run: `python -m examples.digits`.
"""

import functools
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxloss
from examples import _common

EPOCHS = 25
BATCH = 128
FLOOR = 0.97  # of the test images, which the smoothed runs must classify
WIDTHS = (1.4, 3.0, 1.1)  # of the lines: bfloat16 runs so close to float32 that it is drawn on top of a broader line

cross_entropy = functools.partial(jaxloss.softmax_cross_entropy_with_integer_labels, reduction="mean")


class ConvNet(nnx.Module):
    """Images `[batch, 8, 8, 1]` -> logits `[batch, 10]`; computes in `dtype`, keeps its parameters in float32."""

    def __init__(self, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), dtype=dtype, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), dtype=dtype, rngs=rngs)
        self.hidden = nnx.Linear(4 * 4 * 32, 128, dtype=dtype, rngs=rngs)
        self.logits = nnx.Linear(128, 10, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = nnx.relu(self.conv2(nnx.relu(self.conv1(images))))
        x = nnx.max_pool(x, (2, 2), (2, 2))
        return self.logits(nnx.relu(self.hidden(x.reshape(x.shape[0], -1))))


class Recipe(NamedTuple):
    name: str
    dtype: jnp.dtype
    label_smoothing: float
    z_loss: float


RECIPES = (
    Recipe("float32, plain", jnp.float32, 0.0, 0.0),
    Recipe("float32, smoothed + z-loss", jnp.float32, 0.1, 1e-4),
    Recipe("bfloat16, smoothed + z-loss", jnp.bfloat16, 0.1, 1e-4),
)


class Result(NamedTuple):
    model: ConvNet
    history: list[dict[str, float]]
    predicted: np.ndarray
    seconds: float


@nnx.jit
def evaluate(model: ConvNet, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Plain cross-entropy, accuracy and the predicted classes."""
    logits = model(images)
    predicted = jnp.argmax(logits, axis=-1)
    return cross_entropy(logits, labels), jnp.mean(predicted == labels), predicted


def train(recipe: Recipe, data: _common.Digits, epochs: int = EPOCHS, seed: int = 0) -> Result:
    model = ConvNet(recipe.dtype, nnx.Rngs(seed))
    schedule = optax.cosine_decay_schedule(2e-3, epochs * (len(data.train_labels) // BATCH))
    optimizer = nnx.Optimizer(model, optax.adamw(schedule, weight_decay=1e-3), wrt=nnx.Param)

    def objective(model: ConvNet, images: jax.Array, labels: jax.Array) -> jax.Array:
        # bfloat16 logits go in as they are: the loss computes in float32 and returns float32.
        options = {"label_smoothing": recipe.label_smoothing, "z_loss": recipe.z_loss}
        return cross_entropy(model(images), labels, **options)

    @nnx.jit
    def step(model: ConvNet, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> jax.Array:
        loss, grads = nnx.value_and_grad(objective)(model, images, labels)
        optimizer.update(model, grads)
        return loss

    def test() -> dict[str, float]:
        loss, accuracy, _ = evaluate(model, data.test_images, data.test_labels)
        return {"test": float(loss), "accuracy": float(accuracy)}

    started = time.perf_counter()
    update = functools.partial(step, model, optimizer)
    arrays = (data.train_images, data.train_labels)
    history = _common.fit(recipe.name, update, arrays, epochs=epochs, batch_size=BATCH, seed=seed, after_epoch=test)
    seconds = time.perf_counter() - started
    predicted = evaluate(model, data.test_images, data.test_labels)[2]
    return Result(model, history, np.asarray(predicted), seconds)


def plot_curves(loss_axes: Axes, error_axes: Axes, results: dict[str, Result]) -> None:
    for index, (name, result) in enumerate(results.items()):
        color = _common.COLORS[index]
        epochs = np.arange(1, len(result.history) + 1)
        style = {"color": color, "lw": WIDTHS[index]}
        loss_axes.plot(epochs, [h["loss"] for h in result.history], color=color, ls=":")
        loss_axes.plot(epochs, [h["test"] for h in result.history], label=name, **style)
        error_axes.plot(epochs, [100 * (1 - h["accuracy"]) for h in result.history], label=name, **style)
    loss_axes.plot([], [], color="black", ls=":", label="training objective")
    loss_axes.set(title="Plain cross-entropy on the test images", xlabel="epoch", ylabel="nats per image", yscale="log")
    error_axes.set(title="Wrong on the 360 test images", xlabel="epoch", ylabel="% wrong", ylim=(0, 10))
    loss_axes.legend(fontsize=7)
    error_axes.legend(fontsize=7)


def plot_confusion(axes: Axes, name: str, labels: np.ndarray, predicted: np.ndarray) -> None:
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, predicted), 1)
    axes.imshow(np.log1p(counts), cmap="Blues")
    for i, j in zip(*np.nonzero(counts), strict=True):
        axes.text(j, i, counts[i, j], ha="center", va="center", fontsize=7, color="white" if i == j else "black")
    axes.set(title=f"Confusion matrix ({name})", xlabel="predicted", ylabel="true", xticks=range(10), yticks=range(10))
    axes.grid(False)


def draw(results: dict[str, Result], labels: np.ndarray) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    plot_curves(axes[0], axes[1], results)
    name = RECIPES[-1].name
    plot_confusion(axes[2], name.split(",")[0], labels, results[name].predicted)
    return figure


def main() -> None:
    folder = _common.arguments(__doc__).figures
    data = _common.load()
    results = {recipe.name: train(recipe, data) for recipe in RECIPES}

    rows = []
    for name, result in results.items():
        last = result.history[-1]
        rows.append([name, f"{last['accuracy']:.2%}", f"{last['test']:.4f}", f"{result.seconds:.0f}"])
    print()
    _common.print_table(["cross-entropy", "test accuracy", "test loss", "seconds"], rows)
    _common.save(draw(results, data.test_labels), folder, "digits")
    worst = min(results[recipe.name].history[-1]["accuracy"] for recipe in RECIPES[1:])
    if worst < FLOOR:
        sys.exit(f"test accuracy {worst:.2%} is below {FLOOR:.0%}")


if __name__ == "__main__":
    main()
