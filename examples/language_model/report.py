"""Table, figure and a sample of generated text."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples import _common
from examples.language_model.config import Config
from examples.language_model.model import Transformer
from examples.language_model.text import Text

MEBIBYTE = 2**20
PROMPT = "Return the"
RECENT = 6  # tokens that are not drawn again at once: a model this small repeats the rules under headings


class Summary(NamedTuple):
    """What a run came to, by the name of each way to compute the loss."""

    log: dict[str, list[float]]
    held_out: dict[str, float]  # nats per token
    temporaries: dict[str, int]  # bytes
    unigram: float  # held-out loss when only the frequencies of tokens are known
    sizes: str

    def losses(self, name: str) -> np.ndarray:
        return np.array(self.log[f"loss {name}"])

    def milliseconds(self, name: str) -> np.ndarray:
        """First quartile, median and third quartile; the first step may still have something to prepare."""
        return 1000 * np.quantile(self.log[f"seconds {name}"][1:], (0.25, 0.5, 0.75))

    def largest_difference(self) -> float:
        first, second = map(self.losses, self.held_out)
        return float(np.max(np.abs(first - second)))


def print_results(summary: Summary) -> None:
    rows = []
    for name, held_out in summary.held_out.items():
        values = (f"{np.mean(summary.losses(name)[-10:]):.3f}", f"{held_out:.3f}", f"{math.exp(held_out):.0f}")
        size, time = summary.temporaries[name] / MEBIBYTE, summary.milliseconds(name)[1]
        rows.append([name, *values, f"{size:.1f}", f"{time:.0f}"])
    header = ["loss computed", "last 10 steps", "held out", "perplexity", "temporaries (MiB)", "step (ms)"]
    _common.print_table(header, rows)
    print(f"largest difference of the two losses at a step: {summary.largest_difference():.1e}")
    print(f"{summary.sizes}; held-out loss from token frequencies alone: {summary.unigram:.3f}")


def plot_curves(axes: Axes, summary: Summary) -> None:
    for index, name in enumerate(summary.held_out):
        losses = summary.losses(name)
        # The curves lie on each other: the first is drawn broad and pale, the second thin.
        style = {"lw": 5.0, "alpha": 0.35} if index == 0 else {"lw": 1.0}
        axes.plot(np.arange(1, len(losses) + 1), losses, label=name, color=_common.COLORS[index], **style)
    axes.axhline(summary.unigram, color="black", ls="--", lw=1, label="token frequencies alone, held-out text")
    last = min(summary.held_out.values())
    axes.plot([len(losses)], [last], "o", color="black", ms=5, label=f"held-out text at the end: {last:.2f}")
    axes.set(title="Loss at each step", xlabel="step", ylabel="nats per token")
    axes.legend(fontsize=8)


def plot_bars(axes: Axes, values: dict[str, float], errors: np.ndarray | None = None) -> None:
    bars = axes.bar(list(values), list(values.values()), 0.6, yerr=errors, color=_common.COLORS, capsize=4)
    axes.bar_label(bars, fmt="{:.3g}", label_type="center", color="white", fontsize=11)  # away from the spread's mark
    axes.grid(axis="x", visible=False)


def draw(summary: Summary) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), width_ratios=(2, 1, 1))
    plot_curves(axes[0], summary)
    plot_bars(axes[1], {name: size / MEBIBYTE for name, size in summary.temporaries.items()})
    axes[1].set(title="Temporaries of a training step", ylabel="MiB on a device")
    quartiles = {name: summary.milliseconds(name) for name in summary.held_out}
    low, middle, high = np.array(list(quartiles.values())).T
    plot_bars(axes[2], dict(zip(quartiles, middle, strict=True)), np.stack([middle - low, high - middle]))
    axes[2].set(title="Time of a training step", ylabel="ms, median and quartiles")
    figure.suptitle(summary.sizes)
    return figure


def sample(config: Config, text: Text, params: nnx.State, length: int = 60, temperature: float = 0.8) -> str:
    """The prompt and what the model makes of it: drawn from the likely tokens that are not among the last ones."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0))))

    @jax.jit
    def draw_next(params: nnx.State, tokens: jax.Array, last: jax.Array, key: jax.Array) -> jax.Array:
        model = nnx.merge(graph, params)
        logits = (model(tokens)[0, last] @ model.kernel().T).astype(jnp.float32)
        recent = tokens[0, last - jnp.arange(RECENT)]
        likely, ids = jax.lax.top_k(logits.at[recent].set(-jnp.inf), 40)
        return ids[jax.random.categorical(key, likely / temperature)]

    given = text.tokenizer.encode(PROMPT).ids
    tokens = np.zeros((1, min(length, config.length)), np.int32)
    tokens[0, : len(given)] = given
    for place in range(len(given), tokens.shape[1]):
        tokens[0, place] = draw_next(params, tokens, place - 1, jax.random.key(place))
    return text.tokenizer.decode(tokens[0])
