"""Networks that were really trained: against a loop written out, trainings in function space, and laws of batches."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.diagnose import Distances
from ntkit.diagnose.training import _problem, _Run, _train
from ntkit.predict.flow import SGD, GradientDescent

NET = nn.mlp(1, 8, nn.Erf(), w_std=1.5, b_std=0.3)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 3))
Y = np.sin(X[:, 0]) * X[:, 1]


def size(values):
    return math.sqrt(np.mean(np.square(values)))


@pytest.mark.parametrize("scale, centred", [(1.0, False), (3.0, True)])
def test_against_a_loop_and_trainings_in_function_space(x64, scale, centred):
    """The network by a loop of its own, g and the linearization by `descend`: with the infinite kernel and its own."""
    x, y, rows = X[:4], Y[:4], jnp.asarray(X[:7])
    found = ntkit.compare_training(
        NET, X[:5], Y[:5], [6, 9], [3, 5], x_test=X[4:7], examples=[4], steps=[1, 3], learning_rate=0.2,
        linearized=True, scale=scale, centred=centred,
    )  # fmt: skip
    assert set(found.distances) == {"train", "test", "linear_train", "linear_test"}
    np.testing.assert_allclose(found.times, [0.2, 0.6])
    for (at, width), (number, seed) in [(a, b) for a in enumerate((6, 9)) for b in enumerate((3, 5))]:
        net = nn.with_widths(NET, width)
        start = params = net.init(jax.random.fold_in(jax.random.key(seed), at), x.shape, dtype=jnp.float64)
        zero = net.apply(start, rows) if centred else jnp.zeros((7, 1))

        def model(p, net=net, zero=zero):
            return scale * (net.apply(p, rows) - zero)[:, 0]

        slope = jax.jit(jax.grad(lambda p, model=model: jnp.sum((model(p)[:4] - y) ** 2) / (2 * 4 * scale**2)))
        f0, own = np.asarray(model(start)), ntkit.EmpiricalNTK(net.apply, start)
        kernels = {"": ntkit.NTK(NET), "linear_": own}
        for k in range(1, 3):
            params = jax.tree.map(lambda p, g: p - 0.2 * g, params, slope(params))
            if k not in (1, 3):
                continue
            place, f = (0, at, number, (1, 3).index(k)), np.asarray(model(params))
            np.testing.assert_allclose(found.residual.values[place], size(f[:4] - y), rtol=1e-9)
            for prefix, kernel in kernels.items():
                g = ntkit.descend(kernel, x, y, GradientDescent(0.2), f0=f0[:4], progress=False)
                apart = f[:4] - g(None, k), f[4:] - g(X[4:7], k, f0_test=f0[4:])
                for which, each in zip(("train", "test"), apart, strict=True):
                    np.testing.assert_allclose(found.distances[prefix + which].values[place], size(each), rtol=1e-7)


def test_batches_have_the_mean_and_the_covariance_of_sgd(x64):
    """Of g over draws of the batches, which `descend` knows in closed form, within 5 standard errors."""
    x, y, draws, optimizer = X[:5], Y[:5], 600, SGD(0.4, 2, replacement=False)
    rows, labels, kernel = _problem(NET, x, y, X[5:7], None).part(0)
    run = _Run(nn.with_widths(NET, 2), rows, labels, kernel, 2, False, True)  # centred: all start at 0
    (outputs,) = _train(run, list(range(draws)), 0, 0.4, 1.0, [6], None)
    g = outputs[:, 1, 0, :, 0]
    whole = ntkit.descend(ntkit.NTK(NET), x, y, optimizer, progress=False)
    mean, cov = whole(X[:7], 6), whole.covariance(X[:7], 6)
    assert np.all(np.abs(g.mean(axis=0) - mean) < 5 * np.sqrt(np.diag(cov) / draws))
    products = (g - mean)[:, :, None] * (g - mean)[:, None, :]
    error = products.std(axis=0) / math.sqrt(draws)
    assert np.all(np.abs(products.mean(axis=0) - cov) < 5 * error)
    assert np.all(np.sqrt(np.diag(cov)) > 0.01)


def test_batches_of_all_are_full_batches(x64):
    full, batch = (
        ntkit.compare_training(NET, X, Y, [4, 8], 2, steps=[5], learning_rate=0.1, batch=b) for b in (None, 10)
    )
    np.testing.assert_allclose(batch.train.values, full.train.values, rtol=1e-9)
    np.testing.assert_allclose(batch.residual.values, full.residual.values, rtol=1e-9)
    assert full.test is None


FULL = {"linearized": True}
BATCHES = {"batch": 3, "examples": [4, 8]}


@pytest.fixture(scope="module", params=[FULL, BATCHES], ids=["full", "batches"])
def study(request):
    """Trained as users train: in float32, with most that can be chosen left as it is."""
    x, y = X.astype(np.float32), Y.astype(np.float32)
    return ntkit.compare_training(NET, x[:8], y[:8], [256, 2048], 100, x_test=x[8:], **request.param)


def test_rates_are_those_of_the_theory(study):
    """-1/2 of the kernel at the start, -1 of the distance to the own linearization, within five standard errors."""
    assert np.all(study.residual.mean[:, :, -1] < 0.2 * study.residual.mean[:, :, 0])  # trained, not just moved
    for name, each in study.distances.items():
        power = -1 if name.startswith("linear") else -0.5
        for step in (0, 3, 5):
            rate = each.rate(step=step)
            assert rate.standard_error < 0.1  # or the two could not be told apart
            assert abs(rate.slope - power) < 5 * rate.standard_error, (name, step, rate)


def test_what_is_printed_has_the_rates(study):
    lines = str(study).splitlines()
    counts = study.train.examples.tolist()
    assert lines[0].startswith("after 128 steps")
    rows = [line.split()[:2] for line in lines[2 : 2 + 2 * len(counts)]]
    assert rows == [[str(n), width] for n in counts for width in ("256", "2048")]
    assert sum(": width^(" in line for line in lines) == len(study.distances)
    assert sum(": n^(" in line for line in lines) == (2 if len(counts) > 1 else 0)


def test_the_rate_in_examples_is_the_slope_between_two(study):
    if len(study.train.examples) == 1:
        assert math.isnan(study.test.rate_in_examples().slope)
        return
    few, many = np.log(study.test.values[:, 0, :, 2]).mean(axis=1)
    assert study.test.rate_in_examples(width=0, step=2).slope == pytest.approx((many - few) / math.log(2), rel=1e-9)


def test_a_very_wide_network_of_few_examples_is_its_kernel():
    """Of float64 arrays, which JAX takes as float32 here."""
    found = ntkit.compare_training(NET, X[:3], Y[:3], [16, 1 << 18], 4, steps=[20], x_test=X[3:])
    small, wide = found.test.mean[0, :, 0]
    assert wide < 0.01 * size(Y)
    assert wide < 0.01 * small
    assert found.train.mean[0, 1, 0] < 0.01 * size(Y)


def test_the_number_of_networks_at_a_time_changes_nothing(x64):
    net, calls = nn.mlp(2, 8, nn.Relu(), outputs=2), []
    y = np.stack([Y, -Y], axis=1)
    one, all_ = (
        ntkit.compare_training(
            net, X, y, [4, 8], 3, steps=3, memory=memory, progress=lambda done, total: calls.append((done, total))
        )
        for memory in (40_000, None)
    )
    np.testing.assert_allclose(one.train.values, all_.train.values, rtol=1e-9)
    assert calls[-1] == (6, 6)
    assert len(calls) > 4  # the smaller budget took several turns


def test_one_number_of_examples_has_no_rate_in_it():
    values = np.ones((1, 2, 3, 2))
    values[..., 0] = 0
    found = Distances(np.array([4]), np.array([2, 4]), np.array([0, 1]), values)
    assert math.isnan(found.rate_in_examples().slope)
    assert math.isnan(found.rate(step=0).slope)
    assert found.rate().slope == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "change, word",
    [
        ({"widths": [8]}, "`widths` must be a list of 2 or more"),
        ({"widths": [16, 8]}, "each larger than the one before"),
        ({"widths": 8}, "`widths` must be a list"),
        ({"widths": [0, 8]}, "`widths` must be a whole number, 1 or more"),
        ({"seeds": 1}, "at least 2 networks"),
        ({"y": Y[:9]}, "`y` must have one row for each of the 10 examples"),
        ({"y": np.stack([Y, Y], axis=1)}, r"`y` must have the shape of the outputs of `net`, \(10, 1\) or \(n,\)"),
        ({"y": Y * np.nan}, "`y`"),
        ({"x_test": X[:, :2]}, "`x_test` and `x` must have examples of one shape"),
        ({"steps": [1, math.nan]}, "`steps` must be whole numbers"),
        ({"steps": [4, 2]}, "`steps` must be finite, each larger"),
        ({"steps": [1, math.inf]}, "`steps` must be finite"),
        ({"steps": 0}, "`steps` must be finite"),
        ({"steps": "many"}, "`steps` must be"),
        ({"learning_rate": 100.0}, "`learning_rate` must be below the largest stable one"),
        ({"learning_rate": 0.0}, "`learning_rate` must be"),
        ({"learning_rate": math.nan}, "`learning_rate` must be"),
        ({"batch": 11}, "`batch` must be at most n = 10"),
        ({"batch": 5, "examples": [4, 8]}, "`batch` must be at most n = 4"),
        ({"batch": 0}, "`batch` must be a whole number"),
        ({"examples": [4, 11]}, "`examples` must be at most the 10"),
        ({"examples": [8, 4]}, "`examples` must be a list"),
        ({"scale": -1.0}, "`scale` must be"),
        ({"net": nn.mlp(1, 8, nn.Relu(), parameterization="standard")}, "standard"),
        ({"net": nn.Dense(1)}, "no hidden layer"),
        ({"x": X.astype(int)}, "`x`"),
    ],
)
def test_wrong_arguments_are_refused(change, word):
    arguments = {"net": NET, "x": X, "y": Y, "widths": [4, 8], "seeds": 2} | change
    with pytest.raises(ntkit.InputError, match=word):
        ntkit.compare_training(**arguments)


def test_the_largest_stable_rate_is_named_and_is_the_kernels(x64):
    largest = np.linalg.eigvalsh(np.asarray(ntkit.NTK(NET)(jnp.asarray(X))))[-1]
    with pytest.raises(ntkit.InputError, match=f"{2 * 10 / largest:.6g}"):
        ntkit.compare_training(NET, X, Y, [4, 8], 2, learning_rate=2.001 * 10 / largest)
    found = ntkit.compare_training(NET, X, Y, [4, 8], 2, steps=[1])
    assert found.learning_rate == pytest.approx(0.5 * 10 / largest)
    # Batches scatter, which makes less stable.
    assert ntkit.compare_training(NET, X, Y, [4, 8], 2, steps=[1], batch=1).learning_rate < found.learning_rate


def test_what_diverges_at_a_finite_width_is_said(x64):
    net = nn.Sequential(nn.Dense(8), nn.Dense(1))  # linear: nothing saturates
    largest = np.linalg.eigvalsh(np.asarray(ntkit.NTK(net)(jnp.asarray(X))))[-1]
    with pytest.raises(ntkit.ComputationError, match="diverged"):
        ntkit.compare_training(net, X, 100 * Y, [2, 3], 4, steps=[100], learning_rate=1.9 * 10 / largest)
