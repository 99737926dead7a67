"""The same mean cross-entropy of next tokens in three ways: without logits, with them, and over a mesh."""

from collections.abc import Callable

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxloss
from examples.language_model.text import Batch

DATA, VOCAB = "data", "vocab"  # axes of the mesh

Loss = Callable[[nnx.State, Batch, float], jax.Array]  # parameters, windows, weight of the z-loss


def without_logits(graph: nnx.GraphDef, cross_entropy: Callable = jaxloss.linear_cross_entropy) -> Loss:
    def loss(params: nnx.State, batch: Batch, z_loss: float) -> jax.Array:
        model = nnx.merge(graph, params)
        return cross_entropy(
            model(batch.inputs),
            model.kernel(),
            batch.labels,
            kernel_layout="vd",
            where=batch.where,
            z_loss=z_loss,
            reduction="mean",
        )

    return loss


def with_logits(graph: nnx.GraphDef) -> Loss:
    def loss(params: nnx.State, batch: Batch, z_loss: float) -> jax.Array:
        model = nnx.merge(graph, params)
        logits = model(batch.inputs) @ model.kernel().T
        return jaxloss.softmax_cross_entropy_with_integer_labels(
            logits, batch.labels, where=batch.where, z_loss=z_loss, reduction="mean"
        )

    return loss


def sharded(graph: nnx.GraphDef, mesh: Mesh) -> Loss:
    """Windows are divided over the data axis and the embedding's rows over the vocabulary axis.

    XLA divides the model by itself; a loop over chunks of the logits it would not, so the loss has `sharded` around it.
    """
    over_mesh = jaxloss.sharded(jaxloss.linear_cross_entropy, mesh, tokens=DATA, vocab=VOCAB)
    mean = without_logits(graph, over_mesh)

    def loss(params: nnx.State, batch: Batch, z_loss: float) -> jax.Array:
        windows = NamedSharding(mesh, PartitionSpec(DATA))
        return mean(params, jax.lax.with_sharding_constraint(batch, windows), z_loss)

    return loss


def partition(tree: object) -> object:
    """The embedding's rows over the vocabulary axis, in parameters and optimizer state; the rest replicated."""

    def spec(path: tuple, _: object) -> PartitionSpec:
        return PartitionSpec(VOCAB) if "embedding" in jax.tree_util.keystr(path) else PartitionSpec()

    return jax.tree_util.tree_map_with_path(spec, tree)
