"""A torch kernel where kernels of JAX are taken: tiles, files, predictors, estimators."""

import copy
import pickle

import numpy as np
import pytest
import scipy.linalg

torch = pytest.importorskip("torch")

from sklearn.base import clone  # noqa: E402

import ntkit  # noqa: E402
import ntkit.torch  # noqa: E402
import ntkit.torch.kernel  # noqa: E402
from ntkit.errors import InputError  # noqa: E402
from ntkit.sklearn import NTKClassifier, NTKRegressor  # noqa: E402

SMALL = 900_000  # bytes: blocks of four examples


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, padding=1)]
    return torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(512, 5)).double()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((18, 3, 8, 8))


@pytest.fixture(scope="module")
def dense(net, x):
    """Every entry from the gradients themselves."""
    rows = []
    for example in torch.from_numpy(x):
        y = net(example[None])[0]
        grads = [torch.autograd.grad(o, list(net.parameters()), retain_graph=True) for o in y]
        rows.append(torch.stack([torch.cat([g.ravel() for g in grad]) for grad in grads]).numpy())
    jacobian = np.stack(rows)
    return np.einsum("iap,jap->ij", jacobian, jacobian) / jacobian.shape[1]


@pytest.mark.parametrize("memory", ["1GiB", SMALL])
def test_gram_is_the_dense_kernel_in_one_tile_and_in_many(net, x, dense, memory):
    kernel = ntkit.torch.OnArrays(net, memory=memory)
    assert (kernel.side(x[:1], len(x)) < len(x)) == (memory == SMALL)
    np.testing.assert_allclose(ntkit.gram(kernel, x), dense, rtol=1e-11)
    np.testing.assert_allclose(ntkit.gram(kernel, x[:7], x), dense[:7], rtol=1e-11)
    np.testing.assert_allclose(kernel.diagonal(x), np.diag(dense), rtol=1e-11)


def test_a_row_of_tiles_passes_its_examples_through_the_network_once(net, x, monkeypatch):
    kernel, seen = ntkit.torch.OnArrays(net, memory=SMALL), []
    inner = ntkit.torch.kernel.side_of

    def counted(target, examples, *rest):
        seen.append(len(examples))
        return inner(target, examples, *rest)

    monkeypatch.setattr(ntkit.torch.kernel, "side_of", counted)
    ntkit.gram(kernel, x)
    across = -(-len(x) // kernel.side(x[:1], len(x)))
    # One example to know the shape by; each row of tiles, and each tile right of the diagonal.
    assert len(seen) == 1 + across + across * (across - 1) // 2
    assert not kernel._kept  # nothing is held when the job is over


def test_nothing_is_kept_between_calls(net, x):
    net, x = copy.deepcopy(net), x.copy()
    kernel = ntkit.torch.OnArrays(net)
    kernel(x)
    with torch.no_grad():  # as training does
        net[0].weight *= 2
    np.testing.assert_array_equal(kernel(x), ntkit.torch.OnArrays(net)(x))
    x *= 2
    np.testing.assert_array_equal(kernel(x), ntkit.torch.OnArrays(net)(x))


def test_a_stopped_file_goes_on_and_another_networks_file_is_refused(net, x, tmp_path):
    path, told = tmp_path / "kernel.npy", []

    class Stopped(Exception):
        pass

    def stop(done, total):
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        ntkit.gram(ntkit.torch.OnArrays(net, memory=SMALL), x, out=path, progress=stop)
    again = ntkit.torch.OnArrays(copy.deepcopy(net), memory=SMALL)
    found = ntkit.gram(again, x, out=path, progress=lambda done, total: told.append(done))
    assert told[0] == 3
    np.testing.assert_array_equal(found, ntkit.gram(again, x))
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[0].bias[0] += 1e-3
    with pytest.raises(InputError, match="kernel"):
        ntkit.gram(ntkit.torch.OnArrays(other, memory=SMALL), x, out=path)


def test_posterior_and_estimators_take_it_as_any_kernel(net, x, dense):
    y, kernel = np.sin(np.arange(18.0)), ntkit.torch.OnArrays(net)
    inverse = np.linalg.inv(dense + 0.1 * np.eye(18))
    found = ntkit.posterior(kernel, x, y, noise=0.1)(x[:4])
    np.testing.assert_allclose(found.mean, dense[:4] @ inverse @ y, rtol=1e-9)
    np.testing.assert_allclose(found.variance, np.diag(dense - dense @ inverse @ dense)[:4], rtol=1e-9)
    iterated = ntkit.posterior(kernel, x, y, noise=0.1, method=ntkit.linalg.CG(rtol=1e-12))
    np.testing.assert_allclose(iterated.weights, inverse @ y, rtol=1e-8)
    learned = scipy.linalg.expm(-dense * 5.0 / 18) @ y
    np.testing.assert_allclose(ntkit.gradient_flow(kernel, x, y)(x[:4], 5.0), (y - learned)[:4], rtol=1e-9)
    regressor = NTKRegressor(kernel=kernel, alpha=0.1).fit(x, y)
    np.testing.assert_allclose(regressor.predict(x[:4]), found.mean, rtol=1e-9)
    np.testing.assert_allclose(clone(regressor).fit(x, y).predict(x[:4]), found.mean, rtol=1e-9)
    classifier = NTKClassifier(kernel=kernel, alpha=0.1).fit(x, np.arange(18) % 3)
    again = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(again.predict_proba(x), classifier.predict_proba(x))


def test_layouts_dtypes_and_whole_numbers(net, x, dense):
    last = np.moveaxis(x, 1, -1)
    kernel = ntkit.torch.OnArrays(copy.deepcopy(net).float(), dtype="float64", layout=lambda x: np.moveaxis(x, -1, 1))
    # The weights went through float32.
    np.testing.assert_allclose(ntkit.gram(kernel, last), dense, rtol=1e-5)
    tokens = np.random.default_rng(1).integers(0, 10, (4, 6)).astype(np.float64)
    embedding = torch.nn.Sequential(torch.nn.Embedding(10, 3), torch.nn.Flatten(), torch.nn.Linear(18, 2)).double()
    found = ntkit.gram(ntkit.torch.OnArrays(embedding, whole=True), tokens)
    want = ntkit.torch.EmpiricalNTK(embedding)(torch.from_numpy(tokens).long()).numpy()
    np.testing.assert_allclose(found, want, rtol=1e-12)


def test_what_it_cannot_do_is_said(net, x):
    kernel = ntkit.torch.OnArrays(net)
    images = np.moveaxis(x, 1, -1)
    with pytest.raises(InputError, match="Masked"):
        ntkit.gram(kernel, ntkit.Masked(images, np.ones(images.shape[:3], bool)))
    with pytest.raises(InputError, match=r"shape \(18, 18\)"):
        ntkit.posterior(ntkit.torch.OnArrays(net, outputs="full"), x, np.zeros(18))
    with pytest.raises(InputError, match="OnArrays"):
        ntkit.gram(ntkit.torch.EmpiricalNTK(net), x)
    with pytest.raises(InputError, match="block"):
        ntkit.posterior(kernel, x, np.zeros(18), method=ntkit.linalg.CG(block=5))
