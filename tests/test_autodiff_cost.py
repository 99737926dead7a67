"""`custom_vjp` saves and computes what `jax.custom_vjp` does, and remat policies act on its residuals."""

import jax
import jax.numpy as jnp
import pytest
from engine_rules import assert_same, random, with_rule
from jax.ad_checkpoint import checkpoint_name

from benchmarks.claims import engine_is_free
from benchmarks.claims.engine_is_free import RULES, SURROUNDINGS, compare
from jaxloss import custom_vjp

pytestmark = pytest.mark.core


@pytest.mark.parametrize("surrounding", SURROUNDINGS)
@pytest.mark.parametrize("rule", RULES)
def test_costs_what_the_bare_rule_costs(rule, surrounding):
    """Residuals, bytes accessed, flops, temporaries and instructions of the optimized program: all the same."""
    bare, ours = compare(RULES[rule], surrounding, rows=8, columns=96)
    assert bare == ours and bare["residual bytes"] > 0 and bare["bytes accessed"] > 0 and bare["instructions"] > 10


def test_residuals_are_those_of_fwd():
    """Two arrays of 8 x 96 in bfloat16, and for the cross-entropy the normaliser in place of a second one."""
    want = {"l2": (2, 2 * 8 * 96 * 2), "cross-entropy": (3, 8 * 96 * 2 + 8 * 4 + 8 * 4)}
    for name, rule in RULES.items():
        _, ours = compare(rule, "mean", rows=8, columns=96)
        assert (ours["residuals"], ours["residual bytes"]) == want[name]


def test_claim_is_asserted(monkeypatch, capsys):
    monkeypatch.setattr(engine_is_free, "SURROUNDINGS", {"mean": SURROUNDINGS["mean"]})
    monkeypatch.setattr(engine_is_free, "RULES", {"l2": RULES["l2"]})
    assert engine_is_free.main(8, 96) == 0

    def wasteful(fun):  # saves a copy more
        f = custom_vjp(fun)
        setter = f.defvjp
        f.defvjp = lambda fwd, bwd: setter(
            lambda *args: (lambda out, res: (out, (res, args[0] * 2)))(*fwd(*args)), lambda res, g: bwd(res[0], g)
        )
        return f

    monkeypatch.setattr(engine_is_free, "custom_vjp", wasteful)
    assert engine_is_free.main(8, 96) == 1
    assert "DIFFERS" in capsys.readouterr().out


def saved_shapes(f, *args):
    """Shapes of what waits for the backward pass."""
    return sorted(x.shape for x in jax.tree.leaves(jax.vjp(f, *args)[1]))


def _named(x):
    """Two residuals of unlike shapes beside the argument, one of them named."""
    return jnp.exp(x)


def _named_fwd(x):
    y = checkpoint_name(jnp.exp(x), "output")
    return y, (y[:3], jnp.sum(jnp.sin(x)))


def _named_bwd(residuals, g):
    head, total = residuals
    return (g * jnp.exp(jnp.concatenate([jnp.log(head), jnp.log(head)])) + 0 * total * g,)


def test_remat_policies():
    """What fwd computes is saved, recomputed or picked by name, as if it stood in the function itself."""
    f, x = with_rule(_named, _named_fwd, _named_bwd), jnp.tile(random(0, 3), 2)
    policies = jax.checkpoint_policies
    assert saved_shapes(f, x) == [(), (3,)]
    for policy, want in [
        (None, [(6,)]),
        (policies.nothing_saveable, [(6,)]),
        (policies.save_only_these_names("output"), [(6,), (6,)]),  # the argument, for sin(x), and y
        (policies.save_only_these_names("nothing of ours"), [(6,)]),
    ]:
        g = jax.checkpoint(f, policy=policy)
        assert saved_shapes(g, x) == want
        assert_same(jax.grad(lambda x, g=g: jnp.sum(g(x)))(x), jnp.exp(x))
        assert_same(jax.jvp(g, (x,), (x,)), (jnp.exp(x), x * jnp.exp(x)))


def test_remat_saves_what_the_bare_engine_saves():
    policies = jax.checkpoint_policies
    x = jnp.tile(random(0, 3), 2)
    for policy in (
        None,
        policies.everything_saveable,
        policies.dots_saveable,
        policies.save_only_these_names("output"),
    ):
        saved = []
        for engine in (jax.custom_vjp, custom_vjp):
            f = engine(_named)
            f.defvjp(_named_fwd, _named_bwd)
            model = jax.checkpoint(lambda x, f=f: jnp.sum(jnp.tanh(f(jnp.outer(x, x) @ x))), policy=policy)
            saved.append(saved_shapes(jax.jit(model), x))
        assert saved[0] == saved[1]


def test_scan_stacks_only_the_residuals():
    f = with_rule(_named, _named_fwd, _named_bwd)
    xs = jnp.tile(random(0, 5, 3), 2)
    assert saved_shapes(lambda xs: jax.lax.map(f, xs), xs) == [(5,), (5, 3)]


def test_arguments_that_are_not_differentiated_are_not_computed():
    """The gradient of y alone runs no product for x."""

    def bwd(residuals, g):
        x, y = residuals
        return g @ y.T, x.T @ g

    f = with_rule(lambda x, y: x @ y, lambda x, y: (x @ y, (x, y)), bwd)
    x, y = random(0, 4, 3), random(1, 3, 5)
    text = jax.jit(jax.grad(lambda y: jnp.sum(jnp.sin(f(x, y))))).lower(y).compile().as_text()
    both = jax.jit(jax.grad(lambda x, y: jnp.sum(jnp.sin(f(x, y))), (0, 1))).lower(x, y).compile().as_text()
    assert (text.count(" dot("), both.count(" dot(")) == (2, 3)


@pytest.mark.parametrize("mode", ["value", "jvp", "vjp"])
def test_forward_value_runs_no_rule(mode):
    """The plain value needs no fwd: an expensive residual is not in its program."""
    expensive = with_rule(
        jnp.sin,
        lambda x: (jnp.sin(x), jnp.linalg.matrix_power(jnp.outer(x, x), 5) @ x),
        lambda r, g: (g * r,),
    )
    run = {
        "value": expensive,
        "jvp": lambda x: jax.jvp(expensive, (x,), (x,)),
        "vjp": lambda x: jax.vjp(expensive, x)[1](x),
    }[mode]
    text = jax.jit(run).lower(random(0, 3)).as_text()
    assert ("dot_general" in text) == (mode != "value")


def test_forward_mode_costs_no_more_than_autodiff():
    """The transpose of bwd is one pass over the logits: no Jacobian, no larger temporary than plain autodiff's."""
    rule = RULES["cross-entropy"]
    x, labels = rule.arguments(64, 512)
    plain, ours = (
        jax.jit(lambda x, f=f: jax.jvp(lambda x: jnp.mean(f(x, labels)), (x,), (x,))).lower(x).compile()
        for f in (rule.fun, rule.under(custom_vjp))
    )
    assert ours.cost_analysis()["bytes accessed"] <= 1.1 * plain.cost_analysis()["bytes accessed"]
    assert ours.memory_analysis().temp_size_in_bytes <= 1.1 * plain.memory_analysis().temp_size_in_bytes
