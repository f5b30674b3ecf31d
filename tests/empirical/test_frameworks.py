"""Networks of Equinox, Flax and Haiku's style: the few lines of docs/how-to/empirical.md."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkit

RNG = np.random.default_rng(5)
X = RNG.standard_normal((4, 3))


@pytest.fixture(autouse=True)
def _as_users_have_it():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), jax.enable_x64(True):
        yield


def by_jacobians(fn, params, x):
    """The whole kernel; what is no array of floats stands still."""
    free, rest = eqx.partition(params, eqx.is_inexact_array)
    jacobian = jax.jacrev(lambda free: fn(eqx.combine(free, rest), x))(free)
    rows = [np.asarray(j).reshape(*j.shape[:2], -1) for j in jax.tree.leaves(jacobian)]
    return np.einsum("iap,jbp->ijab", *[np.concatenate(rows, 2)] * 2)


def is_exact(fn, params, x):
    kernel, want = ntkit.EmpiricalNTK(fn, params, outputs="full"), by_jacobians(fn, params, x)
    np.testing.assert_allclose(kernel(x), want, rtol=0, atol=1e-10 * np.abs(want).max())
    return kernel


def test_equinox():
    net = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(net, eqx.is_inexact_array)
    x = jnp.asarray(X)
    split = is_exact(lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, x)
    # The module itself is a pytree, too: its activation is handed on.
    whole = is_exact(lambda net, x: jax.vmap(net)(x), net, x)
    assert split.names == whole.names == [f"layers.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")]
    assert {line.rule for line in whole.plan(x).lines} == {"pairs of rows"}
    np.testing.assert_allclose(
        ntkit.gram(ntkit.EmpiricalNTK(lambda net, x: jax.vmap(net)(x), net), X, progress=False),
        np.einsum("ijaa->ij", split(x)) / 2,
        rtol=1e-10,
    )
    tangent = ntkit.linearize(lambda net, x: jax.vmap(net)(x), net)
    np.testing.assert_allclose(tangent(net, x), jax.vmap(net)(x))


def test_what_is_no_parameter_is_handed_on():
    params = {
        "w": jnp.asarray(RNG.standard_normal((3, 2))), "key": jax.random.key(0), "old": jax.random.PRNGKey(1),
        "times": 3, "scale": 1.5, "count": jnp.asarray(2), "on": True, "none": None, "phi": jnp.tanh, "name": "tanh",
    }  # fmt: skip

    def fn(p, x):
        noise = jax.random.normal(p["key"], (2,)) + jax.random.normal(p["old"], (2,))
        return p["phi"](x @ p["w"]) * p["times"] * p["scale"] * p["count"] + noise

    x = jnp.asarray(X)
    kernel = is_exact(fn, params, x)
    assert kernel.names == ["w"]
    want = np.einsum("iajb,jb->ia", by_jacobians(fn, params, x).transpose(0, 2, 1, 3), np.ones((4, 2)))
    np.testing.assert_allclose(kernel.operator(x).mv(jnp.ones((4, 2))), want, rtol=1e-9)
    assert ntkit.taylor_expand(fn, params, 2)(params, x).shape == (4, 2)


def test_haikus_style():
    params = {"layer/~/linear": {"w": jnp.asarray(RNG.standard_normal((3, 2))), "b": jnp.zeros(2)}}

    def apply(params, rng, x):
        return jnp.tanh(x @ params["layer/~/linear"]["w"] + params["layer/~/linear"]["b"])

    is_exact(lambda p, x: apply(p, None, x), params, jnp.asarray(X))


def test_flax_linen():
    linen = pytest.importorskip("flax.linen")

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.BatchNorm(use_running_average=True, param_dtype=x.dtype)(linen.Dense(4, param_dtype=x.dtype)(x))
            return linen.Dense(2, param_dtype=x.dtype)(jnp.tanh(x))

    net, x = Net(), jnp.asarray(X)
    # Flax makes the averages in float32.
    variables = jax.tree.map(lambda a: a.astype(x.dtype), net.init(jax.random.key(0), x))
    state = {"batch_stats": variables["batch_stats"]}
    kernel = is_exact(lambda p, x: net.apply({"params": p, **state}, x), variables["params"], x)
    whole = ntkit.EmpiricalNTK(net.apply, variables, outputs="full")
    np.testing.assert_allclose(whole.restricted("params")(x), kernel(x), rtol=1e-10)


def test_flax_nnx():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 4, rngs=rngs, param_dtype=jnp.float64)
            self.norm = nnx.BatchNorm(4, rngs=rngs, param_dtype=jnp.float64)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.last = nnx.Linear(4, 2, rngs=rngs, param_dtype=jnp.float64)

        def __call__(self, x):
            return self.last(self.dropout(jnp.tanh(self.norm(self.first(x)))))

    net = Net(nnx.Rngs(0))
    net.eval()
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    is_exact(lambda p, x: nnx.merge(graph, p, rest)(x), params, jnp.asarray(X))
