"""What the examples share: the digits, an epoch loop with a progress bar, tables and figures."""

import argparse
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # figures go to files, so no display is needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#999999")  # Okabe and Ito: safe for the colour-blind

plt.rcParams.update(
    {
        "axes.grid": True,
        "axes.prop_cycle": plt.cycler(color=COLORS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "font.size": 9,
        "grid.alpha": 0.3,
        "legend.frameon": False,
    }
)


class Digits(NamedTuple):
    """Handwritten digits, 8 x 8 pixels in [0, 1]: `[N, 8, 8, 1]`; a fifth of them is kept for testing."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load() -> Digits:
    data = load_digits()
    images = (data.images[..., None] / 16).astype(np.float32)
    parts = train_test_split(images, data.target, test_size=360, random_state=0, stratify=data.target)
    train_images, test_images, train_labels, test_labels = parts
    return Digits(train_images, train_labels, test_images, test_labels)


def fit(
    name: str,
    step: Callable[..., Any],
    arrays: Sequence[np.ndarray],
    *,
    epochs: int,
    batch_size: int = 128,
    seed: int = 0,
    after_epoch: Callable[[], dict[str, float]] = dict,
) -> list[dict[str, float]]:
    """Calls `step(*minibatch)`, which returns the loss. One record for each epoch; a smaller last batch is dropped."""
    order = np.random.default_rng(seed)
    size = len(arrays[0])
    history = []
    pause = 0.5 if sys.stderr.isatty() else 10.0  # between updates of the bar: a log keeps every one of them
    for _ in (bar := tqdm(range(epochs), desc=name, unit="epoch", mininterval=pause)):
        batches = order.permutation(size)[: size // batch_size * batch_size].reshape(-1, batch_size)
        losses = [step(*(a[rows] for a in arrays)) for rows in batches]
        history.append({"loss": float(np.mean(losses)), **after_epoch()})
        bar.set_postfix({k: f"{v:.3f}" for k, v in history[-1].items()}, refresh=False)
    return history


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    default = pathlib.Path(__file__).parent / "figures"
    parser.add_argument("--figures", type=pathlib.Path, default=default, help="folder for the figure")
    return parser.parse_args()


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """First column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * w for w in widths], *rows]:
        numbers = [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *numbers]))


def save(figure: Figure, folder: pathlib.Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    # Without the writer's version in the file, the same results give the same bytes.
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
    print(f"figure: {path}")
