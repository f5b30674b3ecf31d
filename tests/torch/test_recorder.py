"""The recorder in a training loop: the numbers of `ntkit.alignment` and of the Jacobian, at each of its times."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import ntkit  # noqa: E402
from ntkit.torch import Drift, EmpiricalNTK  # noqa: E402


@pytest.fixture
def module():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).double()


X = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(4, 3)
Y = torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64)


def by_jacobian(module):
    params = {name: p.detach() for name, p in module.named_parameters()}
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(module, p, (X,))[:, 0])(params)
    flat = torch.cat([j.reshape(4, -1) for j in jacobian.values()], dim=1)
    return (flat @ flat.T).numpy()


def test_a_training_is_followed(module):
    recorder = Drift(EmpiricalNTK(module), X, Y)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    matrices = []
    for _ in range(4):
        found = recorder()
        matrices.append(by_jacobian(module))
        optimizer.zero_grad()
        ((module(X)[:, 0] - Y) ** 2).mean().backward()
        optimizer.step()
    expected = [np.linalg.norm(k - matrices[0]) / np.linalg.norm(matrices[0]) for k in matrices]
    np.testing.assert_allclose(found.drift, expected, rtol=1e-10)
    assert found.drift[0] == 0
    assert found.drift[3] > 0.05
    y = Y.numpy()
    np.testing.assert_allclose(recorder.found.alignment, [ntkit.alignment(k, y) for k in matrices])
    centered = [ntkit.alignment(k, y, centered=True) for k in matrices]
    np.testing.assert_allclose(found.centered_alignment, centered)


@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_refused(module):
    kernel = EmpiricalNTK(module)
    with pytest.raises(ntkit.InputError, match="not called yet"):
        _ = Drift(kernel, X, Y).found
    with pytest.raises(ntkit.InputError, match="labels of the 4 examples"):
        Drift(kernel, X, Y[:3])
    with pytest.raises(ntkit.InputError, match="floating point"):
        Drift(kernel, X, Y.long())
    with pytest.raises(ntkit.InputError, match="`kernel` must be"):
        Drift(module, X)
    with pytest.raises(ntkit.InputError, match='"mean"'):
        Drift(EmpiricalNTK(module, outputs="full"), X)
