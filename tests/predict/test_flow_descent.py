"""Descent in function space against plain loops, optax on linearised networks, and sums over all draws of batches."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from prediction_examples import RBF, dense_rbf, regression, tanh_network, tanh_parameters

import ntkit
from ntkit.errors import ComputationError, InputError
from ntkit.linalg import spectrum
from ntkit.predict import SGD, GradientDescent, HeavyBall, LineSearch, Nesterov, SingularKernelWarning, descend

OPTIMIZERS = {
    "descent": (GradientDescent(3.0), {}),
    "heavy ball": (HeavyBall(1.5, 0.8), {"momentum": 0.8}),
    "nesterov": (Nesterov(1.5, 0.8), {"momentum": 0.8, "nesterov": True}),
}


def start(x):
    return np.stack([np.cos(x.sum(1)), x[:, 0]], axis=1)


def loop(kernel, optimizer, f, gradient, steps):
    """The update as it stands in torch's documentation, on the outputs of training and test examples (n + m, o)."""
    n, velocity = kernel.shape[1], 0.0
    for _ in range(steps):
        g = kernel @ gradient(f[:n]) / n
        velocity = optimizer.momentum * velocity + g
        f = f - optimizer.step * (g + optimizer.momentum * velocity if optimizer.nesterov else velocity)
    return f


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_number_of_steps_is_that_of_a_plain_loop(name):
    x, y, x_test = regression(n=15, outputs=2)
    both = np.concatenate([x, x_test])
    k, optimizer = dense_rbf(both, x, 1.0), OPTIMIZERS[name][0]
    counts = [0, 1, 2, 7, 300]
    descent = descend(RBF(1.0), x, y, optimizer, f0=start, scale=2.0)
    seen, found = descent(None, counts), descent(x_test, counts)
    for count, f_seen, f in zip(counts, seen, found, strict=True):
        want = loop(k, optimizer, 2.0 * start(both), lambda f: f - y, count)
        np.testing.assert_allclose(f_seen, want[:15], rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(f, want[15:], rtol=1e-10, atol=1e-11)
    limit = 2.0 * start(x_test) + k[15:] @ np.linalg.solve(k[:15], y - 2.0 * start(x))
    np.testing.assert_allclose(descent(x_test), limit, rtol=1e-9)
    np.testing.assert_allclose(descent(x_test, 10**7), limit, rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optax_on_a_linearised_network_does_the_same(x64, name):
    x, y, x_test = regression(n=10)
    params = tanh_parameters()
    linear, (optimizer, options) = ntkit.linearize(tanh_network, params), OPTIMIZERS[name]
    step = optimizer.step / 3
    sgd = optax.sgd(step, **options)

    def cost(p):
        return jnp.sum((linear(p, jnp.asarray(x))[:, 0] - y) ** 2) / (2 * len(y))

    def move(_, at):
        updates, state = sgd.update(jax.grad(cost)(at[0]), at[1])
        return optax.apply_updates(at[0], updates), state

    trained = jax.jit(lambda p: jax.lax.fori_loop(0, 50, move, (p, sgd.init(p)))[0])(params)
    moved = type(optimizer)(step, **{k: v for k, v in options.items() if k == "momentum"})
    kernel = ntkit.EmpiricalNTK(tanh_network, params)
    descent = descend(kernel, x, y, moved, f0=lambda x: tanh_network(params, jnp.asarray(x)))
    np.testing.assert_allclose(descent(x_test, 50), linear(trained, jnp.asarray(x_test))[:, 0], rtol=1e-10)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_largest_stable_step_is_where_a_loop_begins_to_diverge(name):
    x, y, _ = regression(n=8)
    k, kind = dense_rbf(x, x, 1.0), OPTIMIZERS[name][0]
    make = (lambda s: GradientDescent(s)) if name == "descent" else (lambda s: type(kind)(s, kind.momentum))
    largest = descend(RBF(1.0), x, y, make(1e-3)).largest_stable_step
    below, above = (loop(k, make(s * largest), np.zeros(8), lambda f: f - y, 4000) for s in (0.99, 1.01))
    assert np.abs(below - y).max() < 3 * np.abs(y).max()
    assert np.abs(above - y).max() > 1e6
    descend(RBF(1.0), x, y, make(0.999 * largest))
    with pytest.raises(InputError, match=f"`step` must be below the largest stable one.*{largest:.6g}"):
        descend(RBF(1.0), x, y, make(largest))


def test_many_small_steps_are_the_flow():
    x, y, x_test = regression(n=12)
    flow = ntkit.gradient_flow(RBF(1.0), x, y)(x_test, 5.0)
    errors = [np.abs(descend(RBF(1.0), x, y, GradientDescent(5.0 / k))(x_test, k) - flow).max() for k in (10**4, 10**5)]
    np.testing.assert_allclose(errors[0] / errors[1], 10.0, rtol=1e-2)
    assert errors[1] < 1e-5


def test_exact_line_search_minimises_along_the_gradient():
    x, y, x_test = regression(n=12, outputs=2)
    k = dense_rbf(np.concatenate([x, x_test]), x, 1.0)
    f, descent = np.zeros((19, 2)), descend(RBF(1.0), x, y, LineSearch())
    assert descent.largest_stable_step == np.inf
    for count in range(1, 6):
        move = k @ (f[:12] - y)
        # The least squares step: (f - s move - y) is orthogonal to the move.
        f = f - move * np.sum(move[:12] * (f[:12] - y)) / np.sum(move[:12] ** 2)
        np.testing.assert_allclose(descent(None, count), f[:12], rtol=1e-10)
        np.testing.assert_allclose(descent(x_test, [count, 0])[0], f[12:], rtol=1e-10)


def backtracked(k, f, cost, slope, search, steps):
    n = k.shape[1]
    for _ in range(steps):
        d = slope(f[:n]) / n
        move, s = k @ d, search.step
        while cost(f[:n] - s * move[:n]) > cost(f[:n]) - search.decrease * s * np.sum(d * move[:n]):
            s *= search.shrink
        f = f - s * move
    return f


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_backtracking_takes_the_first_step_that_is_short_enough(loss):
    x, y, x_test = regression(n=12, outputs=2)
    y = np.sign(y) if loss == "logistic" else y
    k, search = dense_rbf(np.concatenate([x, x_test]), x, 1.0), LineSearch("backtracking", 300.0, 0.7, 0.3)
    if loss == "squared":
        cost, slope = lambda f: np.mean(np.sum((f - y) ** 2, axis=1)) / 2, lambda f: f - y
    else:
        cost, slope = lambda f: np.mean(np.sum(np.logaddexp(0, -y * f), axis=1)), lambda f: -y / (1 + np.exp(y * f))
    want = backtracked(k, np.zeros((19, 2)), cost, slope, search, 20)
    descent = descend(RBF(1.0), x, y, search, loss=loss)
    np.testing.assert_allclose(descent(x_test, [20, 3])[0], want[12:], rtol=1e-10)
    np.testing.assert_allclose(descent(None, 20), want[:12], rtol=1e-10)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_other_losses_are_descended_step_by_step(name):
    x, y, x_test = regression(n=15, outputs=2)
    both, y = np.concatenate([x, x_test]), np.sign(y)
    k, optimizer = dense_rbf(both, x, 1.0), OPTIMIZERS[name][0]
    descent = descend(RBF(1.0), x, y, optimizer, loss="logistic", f0=start)
    for count in (30, 3):  # more steps first: fewer begin anew
        want = loop(k, optimizer, start(both), lambda f: -y / (1 + np.exp(y * f)), count)
        np.testing.assert_allclose(descent(x_test, count), want[15:], rtol=1e-10)
        np.testing.assert_allclose(descent(None, count), want[:15], rtol=1e-10)


def batches(n, sgd):
    """All equally likely draws of a batch, as the mean of their unit matrices."""
    draw = itertools.product if sgd.replacement else lambda rows, repeat: itertools.permutations(rows, repeat)
    draws = draw(range(n), repeat=sgd.batch)
    return [np.diag(np.bincount(d, minlength=n) / sgd.batch) for d in draws]


@pytest.mark.parametrize("sgd", [SGD(0.9, 1), SGD(0.9, 2), SGD(0.9, 2, replacement=False), SGD(0.9, 4, False)])
def test_mean_and_covariance_of_sgd_are_sums_over_all_draws(sgd):
    x, y, x_test = regression(n=4, m=2, outputs=2)
    both = np.concatenate([x, x_test])
    k, steps = dense_rbf(both, x, 1.0), 3 if len(batches(4, sgd)) <= 16 else 2
    paths = [start(both)]
    for _ in range(steps):
        paths = [f - sgd.step * k @ (s @ (f[:4] - y)) for f in paths for s in batches(4, sgd)]
    paths = np.stack(paths)
    descent = descend(RBF(1.0), x, y, sgd, f0=start)
    np.testing.assert_allclose(descent(x_test, steps), paths.mean(0)[4:], rtol=1e-11)
    for points, rows in ((None, slice(0, 4)), (x_test, slice(4, 6))):
        found = descent.covariance(points, [steps, 0])
        assert found.shape == (2, len(paths[0, rows]), len(paths[0, rows]), 2)
        np.testing.assert_array_equal(found[1], 0.0)
        for o in range(2):
            np.testing.assert_allclose(found[0, :, :, o], np.cov(paths[:, rows, o].T, ddof=0), atol=1e-12)


def test_streaming_sgd_has_the_moments_of_monte_carlo():
    """Labels with noise of their own at each visit; 40 000 runs of 25 steps."""
    x, y, x_test = regression(n=6, m=2)
    k, rng, runs = dense_rbf(np.concatenate([x, x_test]), x, 1.0), np.random.default_rng(3), 40_000
    f = np.zeros((runs, 8))
    for _ in range(25):
        rows = rng.integers(6, size=(runs, 2))
        seen = np.take_along_axis(f, rows, axis=1) - y[rows] - 0.5 * rng.normal(size=rows.shape)
        f -= 0.4 * np.einsum("rb,rbj->rj", seen, k.T[rows]) / 2
    descent = descend(RBF(1.0), x, y, SGD(0.4, 2, noise=0.25))
    mean, cov = descent(x_test, 25), descent.covariance(x_test, 25)
    assert np.all(np.abs(f[:, 6:].mean(0) - mean) < 5 * np.sqrt(np.diag(cov) / runs))
    centred = f[:, 6:] - mean
    products = np.einsum("ri,rj->rij", centred, centred)
    assert np.all(np.abs(products.mean(0) - cov) < 5 * products.std(0) / np.sqrt(runs))


@pytest.mark.parametrize("sgd", [SGD(1e-3, 1), SGD(1e-3, 2), SGD(1e-3, 2, replacement=False), SGD(1e-3, 4, False)])
def test_the_largest_stable_step_of_sgd_is_where_the_second_moment_begins_to_grow(x64, sgd):
    """The spectral radius of the map of second moments, n^2 x n^2, as a mean over all draws."""
    x, y, _ = regression(n=4)
    k = dense_rbf(x, x, 1.0)
    largest = descend(RBF(1.0), x, y, sgd).largest_stable_step
    moves = [np.eye(4) - largest * k @ s for s in batches(4, sgd)]
    radius = np.abs(np.linalg.eigvals(np.mean([np.kron(m, m) for m in moves], axis=0))).max()
    np.testing.assert_allclose(radius, 1.0, rtol=1e-7)
    # The cheap sufficient condition is on the right side, and steps between the two are not refused.
    spec = spectrum(jnp.asarray(k))
    sure = max(s for s in largest * np.linspace(0.01, 2, 200) if SGD(s, sgd.batch, sgd.replacement).surely_stable(spec))
    assert 0.3 * largest < sure < largest * (1 + 1e-9)
    descend(RBF(1.0), x, y, SGD(0.99 * largest, sgd.batch, sgd.replacement))
    with pytest.raises(InputError, match="`step` must be below the largest stable one of SGD"):
        descend(RBF(1.0), x, y, SGD(1.01 * largest, sgd.batch, sgd.replacement))


def test_duplicates_have_null_directions():
    x, y, _ = regression(n=6)
    twice, labels = np.concatenate([x, x[:2]]), np.concatenate([y, y[:2] + 1.0])
    descent = descend(RBF(1.0), twice, labels, HeavyBall(0.5))
    means = np.concatenate([y[:2] + 0.5, y[2:]])
    with pytest.warns(SingularKernelWarning, match="2 of the 8 eigenvalues"):
        np.testing.assert_allclose(descent(x), means, rtol=1e-9)
    np.testing.assert_allclose(descent.unlearned(), [0.5, 0.5, 0, 0, 0, 0, -0.5, -0.5], atol=1e-12)
    descend(RBF(1.0), twice, labels, SGD(0.1)).covariance(x, 2)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused_by_name():
    x, y, x_test = regression()
    for wrong in (0.1, "sgd", optax.sgd(0.1)):
        with pytest.raises(InputError, match="`optimizer` must be one of"):
            descend(RBF(1.0), x, y, wrong)
    for make, words in (
        (lambda: GradientDescent(0.0), "`step` must be finite and positive"),
        (lambda: HeavyBall(0.1, 1.0), r"`momentum` must lie in \[0, 1\)"),
        (lambda: Nesterov(0.1, -0.1), "`momentum`"),
        (lambda: LineSearch("wolfe"), "`kind` must be"),
        (lambda: LineSearch("backtracking", shrink=1.5), "`shrink` must lie between"),
        (lambda: SGD(0.1, 0), "`batch` must be a whole number"),
        (lambda: SGD(0.1, noise=-1.0), "`noise`"),
    ):
        with pytest.raises(InputError, match=words):
            make()
    with pytest.raises(InputError, match="`batch` must be at most n = 30 without replacement"):
        descend(RBF(1.0), x, y, SGD(0.1, 31, replacement=False))
    for optimizer in (SGD(0.1), LineSearch("exact", shrink=0.7)):
        with pytest.raises(InputError, match='needs `loss="squared"`'):
            descend(RBF(1.0), x, np.sign(y), optimizer, loss="logistic")
    descent = descend(RBF(1.0), x, y, GradientDescent(0.1))
    for steps in (-1, 0.5, np.nan, [], [[1]], "many"):
        with pytest.raises(InputError, match="`steps` must be"):
            descent(x_test, steps)
    with pytest.raises(InputError, match="Only `SGD` has a covariance"):
        descent.covariance(x_test, 3)
    with pytest.raises(InputError, match="`steps` must be finite for a covariance"):
        descend(RBF(1.0), x, y, SGD(0.01)).covariance(x_test, np.inf)
    fourth = descend(RBF(1.0), x, y, GradientDescent(50.0), loss=lambda f, y: jnp.sum((f - y) ** 4))
    with pytest.raises(InputError, match="`steps` must be finite for a loss other"):
        fourth(x_test, np.inf)
    with pytest.raises(ComputationError, match=r"not finite after 100 steps.*diverges. Pass a smaller `step`"):
        fourth(x_test, 100)
