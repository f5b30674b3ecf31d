"""Gradient flow on the squared loss against matrix exponentials, descent, ensembles and networks really trained."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
from prediction_examples import RBF, Indefinite, SmoothPair, dense_rbf, regression, tanh_network, tanh_parameters

import ntkit
from ntkit.errors import ComputationError, InputError
from ntkit.predict import SingularKernelWarning, gradient_flow

TIMES = [0.0, 0.3, 4.0, 60.0, 1e5, np.inf]


def dense(x_test, x, y, scaled_time, start=0.0, start_test=0.0):
    """f_t(x_test) by `scipy.linalg.expm` and a dense solve; `scaled_time` = learning_rate t / n."""
    k, cross = dense_rbf(x, x, 1.0), dense_rbf(x_test, x, 1.0)
    left = np.zeros_like(k) if np.isinf(scaled_time) else scipy.linalg.expm(-scaled_time * k)
    return start_test + cross @ np.linalg.solve(k, (np.eye(len(x)) - left) @ (y - start))


def start(x):
    return np.stack([np.cos(x.sum(1)), x[:, 0]], axis=1)


@pytest.mark.parametrize("outputs", [None, 2])
def test_it_is_the_matrix_exponential(outputs):
    x, y, x_test = regression(n=15, outputs=outputs)
    flow = gradient_flow(RBF(1.0), x, y, 0.7)
    found, seen = flow(x_test, TIMES), flow(None, TIMES)
    assert found.shape == (6, 7) + y.shape[1:]
    assert seen.shape == (6, 15) + y.shape[1:]
    for time, f, f_seen in zip(TIMES, found, seen, strict=True):
        np.testing.assert_allclose(f, dense(x_test, x, y, 0.7 * time / 15), rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(f_seen, dense(x, x, y, 0.7 * time / 15), rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(flow(x_test, time), f, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(flow(x_test), found[-1], rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("given", ["function", "arrays"])
def test_it_starts_where_it_is_told(given, scale):
    x, y, x_test = regression(n=15, outputs=2)
    f0, f0_test = (start, None) if given == "function" else (start(x), start(x_test))
    flow = gradient_flow(RBF(1.0), x, y, f0=f0, scale=scale)
    for time, f in zip(TIMES, flow(x_test, TIMES, f0_test=f0_test), strict=True):
        want = dense(x_test, x, y, time / 15, scale * start(x), scale * start(x_test))
        np.testing.assert_allclose(f, want, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(flow(None, 0.0), scale * start(x))


def test_the_starting_function_sees_what_the_kernel_sees():
    x, y, x_test = regression(n=6)
    seen = []
    flow = gradient_flow(RBF(1.0), x.astype(np.float32), y, f0=lambda x: seen.append(x.dtype) or jnp.cos(x[:, 0]))
    assert flow(jnp.asarray(x_test, jnp.float32), 1.0).dtype == np.float64
    assert seen == [np.float64, np.float64]


class OfSums(RBF):
    """Of `Masked` signals, by the sums of what exists."""

    def __call__(self, x1, x2=None):
        sums = [jnp.sum(jnp.where(m.mask[..., None], m.x, 0.0), axis=1) for m in (x1, x1 if x2 is None else x2)]
        return RBF.__call__(self, *sums)


def test_masked_examples_are_learned_and_start_somewhere():
    rng = np.random.default_rng(0)
    signals = [[rng.standard_normal((k, 2)) for k in sizes] for sizes in ((5, 8, 6), (7, 4))]
    x, new = (ntkit.pad(parts, size=(8,)) for parts in signals)
    y, start = np.arange(3.0), np.array([5, 8, 6]) / 8
    flow = gradient_flow(OfSums(2.0), x, y, f0=lambda x: x.mask.sum(1) / 8.0)
    sums, new_sums = (np.stack([part.sum(0) for part in parts]) for parts in signals)
    k, cross = dense_rbf(sums, sums, 2.0), dense_rbf(new_sums, sums, 2.0)
    learned = np.linalg.solve(k, (np.eye(3) - scipy.linalg.expm(-k)) @ (y - start))
    np.testing.assert_allclose(flow(new, 3.0), np.array([7, 4]) / 8 + cross @ learned, rtol=1e-9)


def test_it_is_the_mean_of_the_ensemble():
    x, y, x_test = regression(n=12)

    def ntk(x1, x2=None):
        return SmoothPair()(x1, x2)[1]

    flow, mean = gradient_flow(ntk, x, y, 0.5), ntkit.ensemble(SmoothPair(), x, y, learning_rate=0.5)
    np.testing.assert_allclose(flow(x_test, TIMES), mean(x_test, TIMES, covariance=None).mean, rtol=1e-9, atol=1e-12)


def test_matrices_at_hand_are_used_and_float32_is_near():
    x, y, x_test = regression(n=10)
    k = dense_rbf(x, x, 1.0)
    flow = gradient_flow(RBF(1.0), x, y)
    np.testing.assert_allclose(gradient_flow(RBF(1.0), x, y, matrix=k)(x_test, 3.0), flow(x_test, 3.0), rtol=1e-12)
    assert not np.allclose(gradient_flow(RBF(1.0), x, y, matrix=2 * k)(x_test, 3.0), flow(x_test, 3.0))
    single = gradient_flow(RBF(1.0), x, y, dtype=np.float32)(x_test, 3.0)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, flow(x_test, 3.0), rtol=1e-4, atol=1e-5)


def test_tiles_of_test_examples_are_put_together(monkeypatch):
    x, y, x_test = regression(n=10, outputs=2)
    whole = gradient_flow(RBF(1.0), x, y)(x_test, [1.0, 5.0])
    monkeypatch.setattr("ntkit.predict.flow.trajectory.CROSS", 3 * 10 * 8)
    done = []
    flow = gradient_flow(RBF(1.0), x, y, progress=lambda *at: done.append(at))
    np.testing.assert_allclose(flow(x_test, [1.0, 5.0]), whole, rtol=1e-13)
    assert done[-4:] == [(0, 7), (3, 7), (6, 7), (7, 7)]


def test_components_add_up_to_the_flow():
    x, y, x_test = regression(n=12, outputs=2)
    flow = gradient_flow(RBF(1.0), x, y, 2.0, f0=start)
    parts = flow.components
    assert np.all(np.diff(parts.eigenvalue) < 0)
    k = dense_rbf(x, x, 1.0)
    np.testing.assert_allclose(k @ parts.direction, parts.direction * parts.eigenvalue, atol=1e-12)
    np.testing.assert_allclose(parts.coefficient, parts.direction.T @ (start(x) - y), atol=1e-12)
    np.testing.assert_allclose(parts.time, 12 / (2.0 * parts.eigenvalue))
    np.testing.assert_allclose(parts.null, 0.0, atol=1e-12)
    time = parts.time[3]
    for points in (None, x_test):
        deltas = flow.component(np.arange(12), points)
        total = flow(points) + np.tensordot(np.exp(-time / parts.time), deltas, 1)
        np.testing.assert_allclose(total, flow(points, time), rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(flow.component(3, points), deltas[3], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(flow.component(3), np.outer(parts.direction[:, 3], parts.coefficient[3]))
    assert "null" in str(parts)
    for index in (12, -1, 0.5, [[0]]):
        with pytest.raises(InputError, match="`index` must be numbers of components, 0 to 11"):
            flow.component(index)


def test_what_the_kernel_cannot_reach_stays_as_it_was():
    """Two examples come twice, with labels one apart: half of that is Delta_0."""
    x, y, x_test = regression(n=10)
    twice, labels = np.concatenate([x, x[:2]]), np.concatenate([y, y[:2] + 1.0])
    flow = gradient_flow(RBF(1.0), twice, labels)
    assert flow.statistics.null == 2
    assert flow.components.eigenvalue.shape == (10,)
    want = np.concatenate([[0.5, 0.5], np.zeros(8), [-0.5, -0.5]])
    np.testing.assert_allclose(flow.components.null, want, atol=1e-12)
    np.testing.assert_allclose(flow.unlearned(), want, atol=1e-12)
    # Whatever the time: also one that would multiply the rounding of a null eigenvalue by 1e15.
    np.testing.assert_allclose(flow(None, 1e18), labels + want, atol=1e-10)
    means = np.concatenate([y[:2] + 0.5, y[2:]])
    with pytest.warns(SingularKernelWarning, match="2 of the 12 eigenvalues"):
        end = flow(x_test)
    np.testing.assert_allclose(end, dense(x_test, x, means, np.inf), rtol=1e-9)
    np.testing.assert_allclose(flow(x_test, 1e18), end, rtol=1e-9)
    np.testing.assert_allclose(flow.unlearned(x_test, np.ones(7)), end - 1.0)
    with pytest.raises(InputError, match="needs `y_test`"):
        flow.unlearned(x_test)
    # Labels that agree lose nothing, and nobody is warned.
    gradient_flow(RBF(1.0), twice, np.concatenate([y, y[:2]]))(x_test)


def test_a_step_of_descent_differs_from_it_by_the_square_of_the_step():
    x, y, _ = regression(n=12)
    k = dense_rbf(x, x, 1.0)
    errors = []
    for step in (0.2, 0.1, 0.05):
        f = np.zeros(12)
        for _ in range(round(2.0 / step)):
            f = f - step / 12 * k @ (f - y)
        errors.append(np.abs(f - gradient_flow(RBF(1.0), x, y)(None, 2.0)).max())
    # To first order in the step: halved with it, up to the second order.
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 2.0, rtol=0.02)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_linearised_network_really_trained_follows_it(x64, scale):
    """Its parameters are integrated by scipy along the gradient of C(alpha f) / alpha^2."""
    x, y, x_test = regression(n=10)
    params = tanh_parameters()
    linear = ntkit.linearize(tanh_network, params)
    flat, unflatten = jax.flatten_util.ravel_pytree(params)

    def cost(p):
        return jnp.sum((scale * linear(unflatten(p), jnp.asarray(x))[:, 0] - y) ** 2) / (2 * len(y) * scale**2)

    down = jax.jit(jax.grad(cost))
    path = scipy.integrate.solve_ivp(
        lambda _, p: -np.asarray(down(jnp.asarray(p))),
        (0, 4.0),
        np.asarray(flat),
        method="DOP853",
        rtol=1e-11,
        atol=1e-12,
    )
    trained = scale * linear(unflatten(jnp.asarray(path.y[:, -1])), jnp.asarray(x_test))[:, 0]
    kernel = ntkit.EmpiricalNTK(tanh_network, params)
    flow = gradient_flow(kernel, x, y, f0=lambda x: tanh_network(params, jnp.asarray(x)), scale=scale)
    np.testing.assert_allclose(flow(x_test, 4.0), trained, rtol=1e-8)
    assert np.abs(flow(x_test, 4.0) - flow(x_test, 0.0)).max() > 0.1


def test_bad_input_is_refused_by_name():
    x, y, x_test = regression()
    flow = gradient_flow(RBF(1.0), x, y)
    for t in (-1.0, np.nan, [1.0, -2.0], [], [[1.0]], "late"):
        with pytest.raises(InputError, match="`t` must be"):
            flow(x_test, t)
    with pytest.raises(InputError, match="one row for each of the 30 examples"):
        gradient_flow(RBF(1.0), x, y[:-1])
    with pytest.raises(InputError, match=r"`learning_rate` must be finite and positive, but got 0\.0"):
        gradient_flow(RBF(1.0), x, y, 0.0)
    with pytest.raises(InputError, match="`scale` must be finite and positive"):
        gradient_flow(RBF(1.0), x, y, scale=-1.0)
    with pytest.raises(InputError, match="`kernel` must be callable"):
        gradient_flow("ntk", x, y)
    with pytest.raises(ComputationError, match="kernel matrix of 30 examples is not positive semi-definite"):
        gradient_flow(Indefinite(), x, y)
    with pytest.raises(InputError, match=r"`f0` must give outputs of shape \(30, 1\).*\(29,\)"):
        gradient_flow(RBF(1.0), x, y, f0=y[:-1])
    with pytest.raises(InputError, match="`f0` must be finite"):
        gradient_flow(RBF(1.0), x, y, f0=y * np.nan)
    with pytest.raises(InputError, match="Pass `f0_test`"):
        gradient_flow(RBF(1.0), x, y, f0=y)(x_test, 1.0)
    with pytest.raises(InputError, match="`f0_test` is for an `f0`"):
        flow(x_test, 1.0, f0_test=np.zeros(7))
    with pytest.raises(InputError, match="`f0_test` belongs to `x_test`"):
        gradient_flow(RBF(1.0), x, y, f0=y)(None, 1.0, f0_test=y)
