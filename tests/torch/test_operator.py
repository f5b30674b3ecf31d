"""The kernel as an operator, and the linearised network, against dense ones."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch_modules as M  # noqa: E402
from scipy.sparse.linalg import eigsh  # noqa: E402

from ntkit.errors import InputError  # noqa: E402
from ntkit.torch import EmpiricalNTK, linearize  # noqa: E402

CONV = M.convolutions, torch.randn(4, 4, 8, 8).double()
GPT = M.GPT, torch.randint(11, (4, 6))


@pytest.mark.parametrize(
    "make, x, memory",
    [(*CONV, "1GiB"), (*CONV, "20kB"), (*GPT, "1GiB"), (*GPT, "200kB")],
    ids=["1GiB-conv", "20kB-conv", "1GiB-gpt", "200kB-gpt"],
)
def test_products_are_those_of_the_dense_kernel(make, x, memory):
    module = make().double().eval()
    kernel = EmpiricalNTK(module, outputs="full", memory=memory)
    dense = kernel(x).transpose(1, 2).reshape(12, 12).numpy()
    operator = kernel.to_scipy(x)
    assert operator.shape == (12, 12)
    assert operator.dtype == np.float64
    np.testing.assert_allclose(operator @ np.eye(12)[:, ::4], dense[:, ::4], rtol=0, atol=1e-10 * np.abs(dense).max())
    top = eigsh(operator, k=3, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(top), np.linalg.eigvalsh(dense)[-3:], rtol=1e-8)


def test_the_linearised_network_is_the_tangent_at_its_start():
    module, x = M.mlp().double(), torch.randn(5, 6).double()
    tangent = linearize(module)
    torch.testing.assert_close(tangent(x), module(x))
    assert len(list(tangent.parameters())) == 6
    with torch.no_grad():
        for p in tangent.parameters():
            p += torch.randn_like(p)
    torch.testing.assert_close(EmpiricalNTK(tangent, outputs="full")(x), EmpiricalNTK(module, outputs="full")(x))
    step = 1e-6
    start = {name: p.detach() for name, p in module.named_parameters()}
    moved = {name: p + step * (q - p) for (name, p), q in zip(start.items(), tangent.theta)}
    slope = (torch.func.functional_call(module, moved, (x,)) - module(x)) / step
    torch.testing.assert_close(tangent(x) - module(x), slope, rtol=1e-4, atol=1e-5)


def test_the_linearised_network_can_be_trained():
    module, x = M.mlp(), torch.randn(5, 6)
    before, tangent = [p.detach().clone() for p in module.parameters()], linearize(module)
    tangent(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in tangent.parameters())
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before))


class Cube(torch.autograd.Function):
    """Without a forward derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return g * 3 * ctx.saved_tensors[0] ** 2


class Cubed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 5))  # as little as this one
        self.outer = torch.nn.Linear(5, 2)

    def forward(self, x):
        return self.outer(Cube.apply(self.inner(x)))


def test_operations_without_a_forward_derivative_go_twice_backward(unchecked):
    module, x = Cubed().double(), torch.randn(6, 4, dtype=torch.float64)
    dense = EmpiricalNTK(module, outputs="full")(x).transpose(1, 2).reshape(12, 12).detach().numpy()
    operator = EmpiricalNTK(module, outputs="full").to_scipy(x)
    np.testing.assert_allclose(operator @ np.eye(12), dense, rtol=1e-12, atol=1e-12)
    linear, target = linearize(module), torch.randn(6, 2, dtype=torch.float64)
    before = module(x).detach()
    ((linear(x) - target) ** 2).sum().backward()
    # The gradient step moves the outputs by the kernel.
    with torch.no_grad():
        for value in linear.theta:
            value -= 1e-3 * value.grad
    moved = (linear(x) - before).detach().numpy().ravel()
    np.testing.assert_allclose(moved, dense @ (-2e-3 * (before - target).numpy().ravel()), rtol=1e-9)


class Bag(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.outer = torch.nn.EmbeddingBag(9, 3), torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.outer(torch.tanh(self.bag(x)))


def test_what_has_neither_derivative_is_refused():
    x = torch.arange(12).reshape(3, 4) % 9
    assert EmpiricalNTK(Bag())(x).shape == (3, 3)
    with pytest.raises(InputError, match="The kernel itself does not"):
        EmpiricalNTK(Bag()).to_scipy(x) @ np.ones(6)
