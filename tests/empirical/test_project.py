"""Projected gradients against explicit sketches and exact kernels; operators in blocks, and their spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkit
from ntkit.empirical.plan import activations
from ntkit.errors import InputError

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
N, O, D = 5, 2, 16  # examples, outputs, dimension
PARAMS = {"a": RNG.normal(size=(3, 6)), "b": RNG.normal(size=(6, O)), "c": RNG.normal(size=(O,))}
X = RNG.normal(size=(N, 3))


def fn(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"] * params["c"][None]


def kernel(outputs):
    return ntkit.EmpiricalNTK(fn, PARAMS, outputs=outputs)


def jacobian():
    return [np.asarray(j).reshape(N, O, -1) for j in jax.jacrev(fn)(PARAMS, X).values()]


def matrix(key, size):
    """S (D, size), from the bits that the module promises."""
    bits = np.asarray(jax.random.bits(key, (size,), jnp.uint32))
    s = np.zeros((D, size))
    s[(bits >> 1) % D, np.arange(size)] = 1.0 - 2.0 * (bits & 1)
    return s


def sketched(key, of_output):
    """S J^T by a dense S of each parameter, (N, O, D); `of_output`: a further one for each output."""
    total = 0
    for leaf, j in enumerate(jacobian()):
        for_leaf = jax.random.fold_in(key, leaf)
        keys = [jax.random.fold_in(for_leaf, a) if of_output else for_leaf for a in range(O)]
        total += np.stack([j[:, a] @ matrix(keys[a], j.shape[2]).T for a in range(O)], axis=1)
    return total


def test_features_are_explicit_sketches_of_the_jacobian():
    key = jax.random.key(1)
    for outputs in ("full", "diagonal"):
        np.testing.assert_allclose(ntkit.project(kernel(outputs), X, D, key).features, sketched(key, False))
    np.testing.assert_allclose(
        ntkit.project(kernel("mean"), X, D, key).features, sketched(key, True).sum(1) / O**0.5, atol=1e-12
    )


@pytest.mark.parametrize("outputs", ["mean", "full"])
def test_inner_products_are_unbiased_with_the_variance_of_count_sketch(outputs):
    of_kernel = kernel(outputs)
    exact = np.asarray(of_kernel(X))
    found = [ntkit.project(of_kernel, X, D, key, check=N) for key in range(150)]
    features = np.stack([np.asarray(f.features) for f in found])
    letters = {"mean": "kid,kjd->kij", "full": "kiad,kjbd->kijab"}[outputs]
    estimates = np.einsum(letters, features, features)
    # Off the diagonal alone: there y is not x, and the formula's variance can be anything but 0.
    assert (abs(estimates.mean(0) - exact) <= 5 * estimates.std(0) / 150**0.5 + 1e-12).all()

    j = np.concatenate(jacobian(), axis=2)
    rows = j.reshape(N, -1) / O**0.5 if outputs == "mean" else j.reshape(N * O, -1)
    inner, squares = rows @ rows.T, np.sum(rows**2, axis=1)
    variance = (np.outer(squares, squares) + inner**2 - 2 * rows**2 @ (rows**2).T) / D
    if outputs == "full":
        variance = variance.reshape(N, O, N, O).transpose(0, 2, 1, 3)
    deviations = (estimates - exact) ** 2
    assert (abs(deviations.mean(0) - variance) <= 5 * deviations.std(0) / 150**0.5 + 1e-12).all()

    # The error measured on all examples is that of all entries; what is expected bounds it.
    own = np.diag(exact) if outputs == "mean" else np.einsum("iiaa->ia", exact)
    scale = np.einsum({"mean": "i,j->ij", "full": "ia,jb->ijab"}[outputs], own, own)
    np.testing.assert_allclose(
        [f.error for f in found], ((deviations / scale).mean((*range(1, deviations.ndim),))) ** 0.5
    )
    assert np.mean([f.error**2 for f in found]) ** 0.5 < found[0].expected < (2 / D) ** 0.5


@pytest.mark.parametrize("outputs", ["mean", "full"])
def test_the_key_alone_decides(outputs):
    """Neither the budget nor what else is in the batch."""
    of_kernel, shown = kernel(outputs), []
    whole = ntkit.project(of_kernel, X, D, 3)
    small = ntkit.project(of_kernel, X, D, jax.random.key(3), memory="5kB", progress=lambda *seen: shown.append(seen))
    assert shown == [(2, 5), (4, 5), (5, 5)]
    np.testing.assert_allclose(small.features, whole.features, atol=1e-12)
    np.testing.assert_allclose(ntkit.project(of_kernel, X[:2], D, 3).features, whole.features[:2], atol=1e-12)
    assert abs(ntkit.project(of_kernel, X, D, 4).features - whole.features).max() > 0.1
    assert "error of a cosine" in str(whole)


def test_float32_stays_float32():
    params, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (PARAMS, X))
    found = ntkit.project(ntkit.EmpiricalNTK(fn, params), x, D, 0, check=2)
    assert found.features.dtype == jnp.float32
    assert found.error < 1.0
    assert len(found.examples) == 2


@pytest.mark.parametrize("memory", ["1GiB", 400, 1])
def test_an_operator_in_blocks_is_the_same_one(memory):
    operator = kernel("full").operator(X, memory=memory)
    assert operator.rows == {"1GiB": 5, 400: 1, 1: 1}[memory]
    dense = np.asarray(operator.as_matrix())
    np.testing.assert_allclose(dense, kernel("full")(X).transpose(0, 2, 1, 3).reshape(N * O, -1), atol=1e-12)
    v = jnp.asarray(RNG.normal(size=(N, O)))
    for product in (operator.mv(v), jax.jit(lambda u: operator.mv(u))(v)):
        np.testing.assert_allclose(product.ravel(), dense @ np.asarray(v).ravel(), atol=1e-10)


def test_spectra_of_an_operator():
    x = RNG.normal(size=(30, 3))
    operator = kernel("full").operator(x, memory=8000)
    assert 1 < operator.rows < 30
    values, vectors = np.linalg.eigh(np.asarray(operator.as_matrix()))
    found = ntkit.top_eigenpairs(operator, 4)
    np.testing.assert_allclose(found.values, values[::-1][:4], rtol=1e-6)
    np.testing.assert_allclose(abs(np.sum(found.vectors * vectors[:, ::-1][:, :4], axis=0)), 1, atol=1e-6)
    exact = {"trace": values.sum(), "logdet": np.log(np.maximum(values, 0) + 0.1).sum()}
    whole = {
        "trace": ntkit.trace(operator, key=0, rank=60),
        "logdet": ntkit.logdet(operator, noise=0.1, key=0, rank=60),
    }
    for name, estimate in whole.items():
        assert abs(estimate.value - exact[name]) <= estimate.bracket + 1e-8 * abs(exact[name])
    some = ntkit.trace(operator, key=0, rank=5, samples=10)
    assert abs(some.value - exact["trace"]) <= 5 * some.standard_error
    participation = ntkit.effective_rank(operator, key=0, rank=60).value
    assert participation == pytest.approx(values.sum() ** 2 / (values**2).sum())


def test_activations_are_counted():
    """Of what depends on the examples, loops as often as they run."""

    def looped(w, x):
        return jax.lax.scan(lambda h, _: (jnp.sin(h), None), x + 2 * jnp.exp(w), None, length=7)[0]

    jaxpr = jax.make_jaxpr(looped)(jnp.ones(50), jnp.ones(50)).jaxpr
    assert activations(jaxpr, [False, True]) == 8 * 50 * (1 + 7)
    assert activations(jaxpr, [False, False]) == 0
    called = jax.make_jaxpr(lambda w, x: jax.jit(looped)(w, x) * 2)(jnp.ones(50), jnp.ones(50)).jaxpr
    assert activations(called, [False, True]) == 8 * 50 * (1 + 7 + 1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "change, words",
    [
        ({"dimension": 0}, "`dimension` must be a whole number, 1 or more"),
        ({"dimension": 2.5}, "`dimension` must be a whole number"),
        ({"dimension": True}, "`dimension` must be a whole number"),
        ({"key": None}, "`key` must be a whole number >= 0 or a key of JAX"),
        ({"check": 0}, "`check` must be"),
        ({"memory": "much"}, "`memory` must be"),
        ({"kernel": ntkit.NTK(ntkit.nn.mlp(1, 4, ntkit.nn.Relu()))}, "must be an `ntkit.EmpiricalNTK`"),
        ({"x": X[:0]}, "holds no example"),
    ],
)
def test_bad_input(change, words):
    with pytest.raises(InputError, match=words):
        ntkit.project(**{"kernel": kernel("mean"), "x": X, "dimension": D, "key": 0, **change})
