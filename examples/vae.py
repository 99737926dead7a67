"""A variational autoencoder of handwritten digits: `gaussian_kl` and `sigmoid_binary_cross_entropy`.

A pixel of these images counts the inked cells of a 4 x 4 block of the scan, so it is 16 yes-or-no outcomes, and its
share of ink is a soft label with weight 16. Even a perfect reconstruction then costs the entropy of the pixels; the
table and the figure show what is above it. Run: `python -m examples.vae`.
"""

import functools
import time

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

LATENTS = 8
HIDDEN = 256
EPOCHS = 80
BATCH = 128
CELLS = 16  # in the block of the scan that one pixel stands for


def perceptron(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Sequential:
    return nnx.Sequential(nnx.Linear(inputs, HIDDEN, rngs=rngs), nnx.relu, nnx.Linear(HIDDEN, outputs, rngs=rngs))


class VAE(nnx.Module):
    """Images `[batch, 64]` -> pixel logits, and the mean and log-variance of the latent Gaussian `[batch, LATENTS]`."""

    def __init__(self, rngs: nnx.Rngs):
        self.rngs = rngs
        self.encoder = perceptron(64, 2 * LATENTS, rngs)
        self.decoder = perceptron(LATENTS, 64, rngs)

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, log_variance = jnp.split(self.encoder(images), 2, axis=-1)
        return mean, log_variance

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        mean, log_variance = self.encode(images)
        noise = jax.random.normal(self.rngs.noise(), mean.shape)
        return self.decoder(mean + jnp.exp(0.5 * log_variance) * noise), mean, log_variance


def terms(model: VAE, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two halves of the negative evidence bound, in nats per image: reconstruction and divergence."""
    logits, mean, log_variance = model(images)
    reconstruction = jaxloss.sigmoid_binary_cross_entropy(logits, images, weights=CELLS)
    return jnp.mean(jnp.sum(reconstruction, axis=-1)), jaxloss.gaussian_kl(mean, log_variance, reduction="mean")


@nnx.jit
def step(model: VAE, optimizer: nnx.Optimizer, images: jax.Array) -> jax.Array:
    loss, grads = nnx.value_and_grad(lambda m: sum(terms(m, images)))(model)
    optimizer.update(model, grads)
    return loss


evaluate = nnx.jit(terms)


def train(images: np.ndarray, test_images: np.ndarray) -> tuple[VAE, list[dict[str, float]]]:
    model = VAE(nnx.Rngs(0, noise=1))
    schedule = optax.cosine_decay_schedule(3e-3, EPOCHS * (len(images) // BATCH))
    optimizer = nnx.Optimizer(model, optax.adam(schedule), wrt=nnx.Param)

    floor = pixel_entropy(test_images)

    def test() -> dict[str, float]:
        reconstruction, divergence = evaluate(model, test_images)
        return {"excess": float(reconstruction) - floor, "kl": float(divergence)}

    update = functools.partial(step, model, optimizer)
    return model, _common.fit("vae", update, [images], epochs=EPOCHS, batch_size=BATCH, after_epoch=test)


def pixel_entropy(images: np.ndarray) -> float:
    """The least that the reconstruction term can be, in nats per image: every pixel predicted exactly."""
    ink = images.astype(np.float64)
    entropy = -sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0) for p in (ink, 1 - ink))
    return CELLS * float(np.mean(np.sum(entropy, axis=-1)))


def show(axes: Axes, title: str, rows: np.ndarray) -> None:
    """Images `[rows, columns, 64]` in a grid with thin lines between them."""
    cells = [[np.pad(image.reshape(8, 8), 1, constant_values=0.25) for image in row] for row in rows]
    axes.imshow(np.block(cells), cmap="gray_r", vmin=0, vmax=1)
    axes.set(title=title)
    axes.axis("off")


def draw(model: VAE, history: list[dict[str, float]], images: np.ndarray, labels: np.ndarray) -> Figure:
    shown = images[[np.flatnonzero(labels == digit)[0] for digit in range(10)]]
    again = jax.nn.sigmoid(model.decoder(model.encode(shown)[0]))
    new = jax.nn.sigmoid(model.decoder(jax.random.normal(jax.random.key(2), (20, LATENTS))))

    figure, axes = plt.subplot_mosaic([["curves", "again"], ["curves", "new"]], figsize=(11, 4), width_ratios=[1, 1.6])
    epochs = np.arange(1, len(history) + 1)
    axes["curves"].plot(epochs, [h["excess"] for h in history], label="reconstruction, above the pixels' entropy")
    axes["curves"].plot(epochs, [h["kl"] for h in history], label="divergence from the prior")
    axes["curves"].set(title="Evidence bound on the test images", xlabel="epoch", ylabel="nats per image")
    axes["curves"].set_ylim(bottom=0)
    axes["curves"].legend()
    show(axes["again"], "Test images and their reconstructions", np.stack([shown, np.asarray(again)]))
    show(axes["new"], "Decoded samples of the prior", np.asarray(new).reshape(2, 10, 64))
    return figure


def main() -> None:
    folder = _common.arguments(__doc__).figures
    data = _common.load()
    images, test_images = data.train_images.reshape(-1, 64), data.test_images.reshape(-1, 64)
    started = time.perf_counter()
    model, history = train(images, test_images)

    rows = []
    for name, part in (("train", images), ("test", test_images)):
        reconstruction, divergence = map(float, evaluate(model, part))
        excess = reconstruction - pixel_entropy(part)
        values = (pixel_entropy(part), excess, divergence, excess + divergence)
        rows.append([name, *(f"{v:.1f}" for v in values)])
    print(f"\n{EPOCHS} epochs in {time.perf_counter() - started:.0f} s; nats per image:")
    _common.print_table(["images", "pixel entropy", "BCE above it", "KL", "BCE above it + KL"], rows)
    _common.save(draw(model, history, test_images, data.test_labels), folder, "vae")


if __name__ == "__main__":
    main()
