"""Projected gradients of modules against explicit sketches and exact kernels; spectra through the same functions."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch_modules as M  # noqa: E402

import ntkit  # noqa: E402
from ntkit.errors import InputError  # noqa: E402
from ntkit.torch import EmpiricalNTK  # noqa: E402
from ntkit.torch.project import _hashed  # noqa: E402

D = 16


def rows(module, x):
    """The Jacobian of each parameter, (n, o, p)."""
    values = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    found = torch.func.jacrev(lambda v: torch.func.functional_call(module, v, (x,)))(values)
    return [j.flatten(2) for j in found.values()]


def sketched(jacobian, key, of_output):
    """S J^T by a dense S of each parameter (and output), (n, o, D)."""
    total = 0
    for number, j in enumerate(jacobian):
        parts = []
        for a in range(j.shape[1]):
            buckets, signs = _hashed((key, number, a) if of_output else (key, number), D, j)
            s = torch.zeros(D, j.shape[2], dtype=j.dtype)
            s[buckets, torch.arange(j.shape[2])] = signs
            parts.append(j[:, a] @ s.T)
        total = total + torch.stack(parts, 1)
    return total


@pytest.mark.parametrize(
    "make, x, memory",
    [
        (M.convolutions, torch.randn(3, 4, 8, 8), "1GiB"),
        (M.GPT, torch.randint(11, (3, 6)), "1GiB"),
        (M.LoRA, torch.randn(4, 6), "1GiB"),
        (M.Twice, torch.randn(4, 5), "1GiB"),
        (M.Twice, torch.randn(4, 5), "3kB"),  # blocks of examples and of outputs
        (M.Twice, torch.randn(4, 5), "10kB"),
    ],
    ids=["conv", "gpt", "lora", "twice", "3kB", "10kB"],
)
def test_features_are_explicit_sketches_of_the_jacobian(make, x, memory):
    module = make().double().eval()
    x = x.double() if x.is_floating_point() else x
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        jacobian = rows(module, x)
    for outputs in ("mean", "diagonal", "full"):
        found = EmpiricalNTK(module, outputs=outputs, memory=memory).project(x, D, key=5, check=2)
        expected = sketched(jacobian, 5, outputs == "mean")
        expected = expected.sum(1) / expected.shape[1] ** 0.5 if outputs == "mean" else expected
        torch.testing.assert_close(found.features, expected)
        assert not found.features.requires_grad
        assert len(found.examples) == 2


@pytest.mark.parametrize("outputs", ["mean", "full"])
def test_inner_products_are_unbiased_with_the_variance_of_count_sketch(outputs):
    module, x, keys = M.LoRA().double(), torch.randn(4, 6).double(), 50
    kernel = EmpiricalNTK(module, outputs=outputs)
    exact = kernel(x).numpy()
    found = [kernel.project(x, D, key=key, check=4) for key in range(keys)]
    features = np.stack([f.features.numpy() for f in found])
    letters = {"mean": "kid,kjd->kij", "full": "kiad,kjbd->kijab"}[outputs]
    estimates = np.einsum(letters, features, features)
    assert (abs(estimates.mean(0) - exact) <= 5 * estimates.std(0) / keys**0.5 + 1e-12).all()

    j = torch.cat(rows(module, x), 2).numpy()
    j = j.reshape(4, -1) / 2**0.5 if outputs == "mean" else j.reshape(8, -1)
    inner, squares = j @ j.T, np.sum(j**2, axis=1)
    variance = (np.outer(squares, squares) + inner**2 - 2 * j**2 @ (j**2).T) / D
    if outputs == "full":
        variance = variance.reshape(4, 2, 4, 2).transpose(0, 2, 1, 3)
    deviations = (estimates - exact) ** 2
    assert (abs(deviations.mean(0) - variance) <= 5 * deviations.std(0) / keys**0.5 + 1e-12).all()
    measured, expected = np.mean([f.error**2 for f in found]) ** 0.5, found[0].expected
    assert 0.5 * expected < measured < 1.1 * expected


def test_the_key_alone_decides():
    kernel, x, shown = EmpiricalNTK(M.mlp()), torch.randn(6, 6), []
    whole = kernel.project(x, D, key=1).features
    assert torch.equal(kernel.project(x, D, key=1, progress=lambda *seen: shown.append(seen)).features, whole)
    assert shown[-1] == (3, 3)
    torch.testing.assert_close(kernel.project(x[2:4], D, key=1).features, whole[2:4])
    assert (kernel.project(x, D, key=2).features - whole).abs().max() > 0.1


def test_spectra_of_a_module():
    module, x = M.mlp().double(), torch.randn(8, 6).double()
    kernel = EmpiricalNTK(module, outputs="full")
    dense = kernel(x).transpose(1, 2).reshape(24, 24).numpy()
    values, operator = np.linalg.eigvalsh(dense), kernel.to_scipy(x)
    np.testing.assert_allclose(ntkit.top_eigenpairs(operator, 4).values, values[::-1][:4], rtol=1e-6)
    some = ntkit.trace(operator, key=0, rank=3, samples=8)
    assert abs(some.value - values.sum()) <= 5 * some.standard_error
    whole = ntkit.logdet(operator, noise=10.0, key=0, rank=24)
    assert abs(whole.value - np.log(values + 10.0).sum()) <= whole.bracket + 1e-9
    participation = ntkit.effective_rank(operator, key=0, rank=24).value
    assert participation == pytest.approx(values.sum() ** 2 / (values**2).sum())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "change, words",
    [
        ({"dimension": 0}, "`dimension` must be a whole number, 1 or more"),
        ({"dimension": 1.5}, "`dimension` must be a whole number"),
        ({"key": None}, "`key` must be"),
        ({"key": -1}, "`key` must be"),
        ({"check": 0}, "`check` must be"),
    ],
)
def test_bad_input(change, words):
    kernel, x = EmpiricalNTK(M.mlp()), torch.randn(3, 6)
    with pytest.raises(InputError, match=words):
        kernel.project(x, **{"dimension": D, "key": 0, **change})
