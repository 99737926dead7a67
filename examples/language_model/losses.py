"""The same mean cross-entropy of next tokens in three ways: without logits, with them, and over a mesh."""

from collections.abc import Callable

import jax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

import jaxloss
from examples.language_model.text import Batch

DATA, VOCAB = "data", "vocab"  # axes of the mesh

Loss = Callable[[nnx.State, Batch, float], jax.Array]  # parameters, windows, weight of the z-loss


def without_logits(graph: nnx.GraphDef) -> Loss:
    def loss(params: nnx.State, batch: Batch, z_loss: float) -> jax.Array:
        model = nnx.merge(graph, params)
        return jaxloss.linear_cross_entropy(
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
    """Windows are divided over the data axis and the embedding's rows over the vocabulary axis."""

    def local(params: nnx.State, batch: Batch, z_loss: jax.Array) -> jax.Array:
        # Each row of devices has its copy of the parameters from here on, so that the copies' gradients are added up
        # once, in float32, and not where each of them is used, in bfloat16.
        params = jax.lax.pcast(params, DATA, to="varying")
        model = nnx.merge(graph, params)
        total = jaxloss.linear_cross_entropy(
            model(batch.inputs, VOCAB),
            model.kernel(),
            batch.labels,
            kernel_layout="vd",
            where=batch.where,
            z_loss=z_loss,
            reduction="sum",
            axis_name=VOCAB,
        )
        # The mean over all tokens of the batch: the means of the devices count different numbers of them.
        return jax.lax.psum(total, DATA) / jax.lax.psum(batch.where.sum(), DATA)

    def loss(params: nnx.State, batch: Batch, z_loss: float) -> jax.Array:
        windows = PartitionSpec(DATA)
        specs = (partition(params), Batch(windows, windows, windows), PartitionSpec())
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())(params, batch, z_loss)

    return loss


def partition(tree: object) -> object:
    """The embedding's rows over the vocabulary axis, in parameters and optimizer state; the rest replicated."""

    def spec(path: tuple, _: object) -> PartitionSpec:
        return PartitionSpec(VOCAB) if "embedding" in jax.tree_util.keystr(path) else PartitionSpec()

    return jax.tree_util.tree_map_with_path(spec, tree)
