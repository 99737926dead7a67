"""A small student learns from the digits teacher, beside the same student without it.

The teacher is the convolutional network of `examples.digits`, trained on all the labels. A student is a perceptron with
one small hidden layer; it sees the labels of some images and, when it distils, the teacher's logits for all of them.
Label smoothing alone is shown too, since soft targets are part of what a teacher gives. The students of all seeds train
at once, by `vmap`, and have their seeds in common with those they are compared with. Run: `python -m examples.distill`.
"""

import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure
from tqdm import tqdm

import jaxloss
from examples import _common
from examples.digits import RECIPES
from examples.digits import train as train_teacher

HIDDEN = (8, 32)  # units of the student's hidden layer
LABELLED = (100, 300, 1437)  # images whose label the student sees; the last is all of them
SEEDS = 10
STEPS = 500
BATCH = 128
TEMPERATURE = 2.0


class Scheme(NamedTuple):
    name: str
    teacher_share: float  # of the objective; the rest is cross-entropy with the labels
    label_smoothing: float


SCHEMES = (Scheme("labels", 0.0, 0.0), Scheme("smoothed labels", 0.0, 0.1), Scheme("distilled", 0.7, 0.0))


class Student(nnx.Module):
    """Images `[batch, 64]` -> logits `[batch, 10]`."""

    def __init__(self, hidden: int, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, hidden, rngs=rngs)
        self.logits = nnx.Linear(hidden, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.logits(nnx.relu(self.hidden(images)))


class Lessons(NamedTuple):
    """What students learn from, and the images they are tested on."""

    images: jax.Array
    labels: jax.Array
    teacher_logits: jax.Array
    test_images: jax.Array
    test_labels: jax.Array


def objective(student: Student, lessons: Lessons, rows: jax.Array, labelled: jax.Array, scheme: Scheme) -> jax.Array:
    logits = student(lessons.images[rows])
    from_labels = jaxloss.softmax_cross_entropy_with_integer_labels(
        logits,
        lessons.labels[rows],
        where=rows < labelled,  # a batch without any label adds 0
        label_smoothing=scheme.label_smoothing,
        reduction="mean",
    )
    if not scheme.teacher_share:
        return from_labels
    from_teacher = jaxloss.softmax_kl_divergence(
        logits,
        lessons.teacher_logits[rows],
        temperature=TEMPERATURE,
        scale_by_temperature_squared=True,  # keeps the two gradients comparable at any temperature
        reduction="mean",
    )
    return jaxloss.weighted_sum((from_labels, from_teacher), (1 - scheme.teacher_share, scheme.teacher_share))


def train(
    scheme: Scheme, graph: nnx.GraphDef, lessons: Lessons, labelled: jax.Array, params: nnx.State, key: jax.Array
) -> jax.Array:
    """The test accuracy, in percent, of one student after training."""
    known = len(lessons.images) if scheme.teacher_share else labelled
    batches = jax.random.randint(key, (STEPS, BATCH), 0, known)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, STEPS))

    def loss(params: nnx.State, rows: jax.Array) -> jax.Array:
        return objective(nnx.merge(graph, params), lessons, rows, labelled, scheme)

    def step(carry: tuple, rows: jax.Array) -> tuple[tuple, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), batches)
    predicted = jnp.argmax(nnx.merge(graph, params)(lessons.test_images), axis=-1)
    return 100 * jnp.mean(predicted == lessons.test_labels)


def prepare() -> tuple[Lessons, float]:
    """Trains the teacher and asks it about all training images; also its own test accuracy."""
    data = _common.load()
    teacher = train_teacher(RECIPES[1], data)
    flat = [jnp.asarray(images.reshape(-1, 64)) for images in (data.train_images, data.test_images)]
    logits = teacher.model(data.train_images)
    lessons = Lessons(flat[0], jnp.asarray(data.train_labels), logits, flat[1], jnp.asarray(data.test_labels))
    return lessons, 100 * teacher.history[-1]["accuracy"]


def accuracies(lessons: Lessons) -> dict[tuple[int, int], np.ndarray]:
    """`[schemes, seeds]` for each size of the hidden layer and number of labels."""
    keys = jax.random.split(jax.random.key(0), SEEDS)
    found = {}
    bar = tqdm(total=len(HIDDEN) * len(LABELLED) * len(SCHEMES), desc="students", unit="run")
    for hidden in HIDDEN:
        graph = nnx.graphdef(Student(hidden, nnx.Rngs(0)))
        start = jax.jit(jax.vmap(lambda key, hidden=hidden: nnx.state(Student(hidden, nnx.Rngs(key)), nnx.Param)))(keys)
        trained = [jax.jit(jax.vmap(functools.partial(train, s, graph), (None, None, 0, 0))) for s in SCHEMES]
        for labelled in LABELLED:
            runs = []
            for run in trained:
                runs.append(np.asarray(run(lessons, jnp.array(labelled), start, keys)))
                bar.update()
            found[hidden, labelled] = np.stack(runs)
    bar.close()
    return found


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Mean and standard error over the seeds, seed by seed."""
    gap = ours - theirs
    return float(np.mean(gap)), float(np.std(gap, ddof=1) / np.sqrt(len(gap)))


def verdict(gap: float, error: float) -> str:
    if abs(gap) < 2 * error:
        return "no clear difference"
    return "better" if gap > 0 else "worse"


def draw(found: dict[tuple[int, int], np.ndarray], teacher: float) -> Figure:
    figure, axes = plt.subplots(1, len(HIDDEN), figsize=(10, 3.8), sharey=True)
    for panel, hidden in zip(axes, HIDDEN, strict=True):
        runs = np.stack([found[hidden, labelled] for labelled in LABELLED])
        for i, scheme in enumerate(SCHEMES):
            error = runs[:, i].std(axis=-1, ddof=1) / np.sqrt(SEEDS)
            place = np.arange(len(LABELLED)) + 0.05 * (i - 1)  # beside each other, so that every error bar shows
            panel.errorbar(place, runs[:, i].mean(axis=-1), error, marker="o", capsize=3, label=scheme.name)
        panel.axhline(teacher, color="black", ls="--", lw=1, label="teacher")
        panel.set(title=f"Student with {hidden} hidden units", xlabel="training images with a label (of 1437)")
        panel.set_xticks(range(len(LABELLED)), map(str, LABELLED))
    axes[0].set_ylabel("test accuracy (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def main() -> None:
    folder = _common.arguments(__doc__).figures
    started = time.perf_counter()
    lessons, teacher = prepare()
    found = accuracies(lessons)

    rows = []
    for (hidden, labelled), runs in found.items():
        gap, error = difference(runs[2], runs[:2][np.argmax(runs[:2].mean(axis=-1))])
        means = [f"{m:.1f}" for m in runs.mean(axis=-1)]
        rows.append([str(hidden), str(labelled), *means, f"{gap:+.1f} +- {error:.1f}", verdict(gap, error)])
    print(f"\nteacher {teacher:.1f} %; test accuracy in %, {SEEDS} seeds, {time.perf_counter() - started:.0f} s")
    gain = ["distilled - best other", "distilled is"]
    _common.print_table(["hidden", "labels", *(s.name for s in SCHEMES), *gain], rows)
    _common.save(draw(found, teacher), folder, "distill")


if __name__ == "__main__":
    main()
