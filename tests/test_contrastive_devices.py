"""Contrastive losses of a batch that is split between devices: everything is as if it were on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contrastive_batches import FEATURES, GROUPS, PAIRS, SCALARS, N, arguments, close, numbers, pair
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)


def split(mesh, loss, reduction, axes=("a", "b")):
    """The loss of arguments that are split along the first axis of each."""
    out = P(axes) if reduction == "none" else P()
    given = {"axis_name": axes, **({} if reduction is None else {"reduction": reduction})}
    return jax.shard_map(lambda args, kw: loss(*args, **kw, **given), mesh=mesh, in_specs=P(axes), out_specs=out)


@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.long), True], ids=["all", "some"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.core] * (n == "out")) for n in [*PAIRS, *GROUPS]])
def test_split_between_devices(mesh, name, masked):
    """Value and gradient, for every reduction, with masks and weights that differ between devices."""
    loss, (x, second) = {**PAIRS, **GROUPS}[name], arguments(name)
    keywords = {}
    if masked:
        keywords["where"] = jnp.asarray(np.random.default_rng(2).random(N) < 0.6).at[:2].set(False)  # none of device 0
        x = x.at[:2].set(jnp.nan)
        if name not in SCALARS:
            keywords["weights"] = numbers(3, N) ** 2
    cts = 1.0 + jnp.arange(N) / N

    def both(f, reduction):
        def total(x, second):
            value = f((x, second), keywords)
            return jnp.sum(value * cts) if reduction == "none" else value

        moving = (0, 1) if name in PAIRS else 0
        return f((x, second), keywords), jax.grad(total, moving)(x, second)

    for reduction in (None,) if name in SCALARS else ("none", "mean", "sum"):
        given = {} if reduction is None else {"reduction": reduction}
        want = both(lambda args, kw: loss(*args, **kw, **given), reduction)  # noqa: B023
        close(jax.jit(functools.partial(both, split(mesh, loss, reduction), reduction))(), want)


@pytest.mark.parametrize("name", ["clip", "siglip", "ntxent", "in"])
def test_learned_options_and_parameters_inside_shard_map(mesh, name):
    """A gradient taken on each device, of the mean over all, by parameters that all devices share."""
    loss = {
        "clip": jaxloss.clip_loss,
        "siglip": functools.partial(jaxloss.siglip_loss, bias=-1.0),
        "ntxent": jaxloss.ntxent,
        "in": functools.partial(jaxloss.supervised_contrastive_loss, variant="in"),
    }[name]
    reduced = {} if name in SCALARS else {"reduction": "mean"}
    x, second = arguments(name)
    parameters = {"w": numbers(4, FEATURES, 3), "log_t": jnp.float32(-0.5)}

    def objective(p, x, second, **given):
        second = second @ p["w"] if name in PAIRS else second
        return loss(x @ p["w"], second, temperature=jnp.exp(p["log_t"]), **reduced, **given)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P(("a", "b")), P(("a", "b"))), out_specs=P())
    def step(p, x, second):
        return jax.value_and_grad(functools.partial(objective, axis_name=("a", "b")))(p, x, second)

    close(jax.jit(step)(parameters, x, second), jax.value_and_grad(objective)(parameters, x, second))


@pytest.mark.parametrize("name", ["info_nce", "clip", "out", "barlow"])
def test_half_precision_is_added_up_before_it_is_rounded(mesh, name):
    loss, args = {**PAIRS, **GROUPS}[name], arguments(name, jnp.bfloat16)
    reduction = None if name in SCALARS else "mean"
    given = {} if reduction is None else {"reduction": reduction}
    got = jax.jit(jax.grad(lambda x: split(mesh, loss, reduction)((x, *args[1:]), {})))(args[0])
    assert got.dtype == jnp.bfloat16
    want = jax.grad(lambda x: loss(x, *args[1:], **given))(args[0].astype(jnp.float32))
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=2.0**-8, atol=1e-8)


@pytest.mark.parametrize(
    "name", [*(pytest.param(n, marks=pytest.mark.long) for n in ("clip", "circle with moving weights")), "vicreg"]
)
def test_hessian_over_devices(mesh, name):
    loss, (x, *rest) = {**PAIRS, **GROUPS}[name], arguments(name)
    reduction = None if name in SCALARS else "mean"
    given = {} if reduction is None else {"reduction": reduction}
    u, v = numbers(5, N, FEATURES), numbers(6, N, FEATURES)

    def along(f):
        return jax.jacfwd(jax.jacrev(lambda e: f((x + e[0] * u + e[1] * v, *rest), {})))(jnp.zeros(2))

    close(jax.jit(lambda: along(split(mesh, loss, reduction)))(), along(lambda a, kw: loss(*a, **given)), 2e-5)


def test_one_of_two_axes(mesh):
    """The other axis may split something else."""
    x, y = pair()
    batches = jnp.stack([x, y])
    f = jax.shard_map(
        lambda x: jaxloss.info_nce_loss(x[0], x[0] ** 2, axis_name="b")[None],
        mesh=mesh,
        in_specs=P("a", "b"),
        out_specs=P("a", "b"),
    )
    close(jax.jit(f)(batches), jnp.stack([jaxloss.info_nce_loss(b, b**2) for b in batches]))


def test_negatives_are_used_as_they_are_given(mesh):
    x, y = pair()
    queue = numbers(7, 11, FEATURES)
    f = jax.shard_map(
        lambda x, y, n: jaxloss.info_nce_loss(x, y, n, axis_name=("a", "b"), reduction="mean"),
        mesh=mesh,
        in_specs=(P(("a", "b")), P(("a", "b")), P()),
        out_specs=P(),
    )
    want = jax.value_and_grad(functools.partial(jaxloss.info_nce_loss, reduction="mean"), (0, 1, 2))(x, y, queue)
    close(jax.jit(jax.value_and_grad(f, (0, 1, 2)))(x, y, queue), want)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] * (n not in ("clip", "out"))) for n in [*PAIRS, *GROUPS]]
)
def test_divided_by_xla(name, kind):
    """Under `jit`, without `axis_name`; with explicit axes the types of all products must say how they are divided."""
    loss, args = {**PAIRS, **GROUPS}[name], arguments(name)
    keep = jnp.arange(N) % 3 > 0
    moving = (0, 1) if name in PAIRS else 0
    run = jax.value_and_grad(lambda *a: jnp.sum(loss(*a[:2], where=a[2])), moving)
    want = run(*args, keep)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        placed = [jax.device_put(a, NamedSharding(mesh, P("data"))) for a in (*args, keep)]
        got = jax.jit(run)(*placed)
    close(got, want)


def test_axes_that_are_refused(mesh):
    x, y = pair()
    for loss in (jaxloss.clip_loss, jaxloss.barlow_twins_loss):
        with pytest.raises(ValueError, match="axis_name='a' is no axis here"):
            loss(x, y, axis_name="a")
    unchecked = jax.shard_map(
        lambda x, y: jaxloss.clip_loss(x, y, axis_name="a", reduction="mean"),
        mesh=mesh,
        in_specs=P("a"),
        out_specs=P(),
        check_vma=False,
    )
    with pytest.raises(ValueError, match="would multiply gradients"):
        unchecked(x, y)
