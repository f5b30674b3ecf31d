"""The kernel of real modules against torch.func's Jacobian contraction, in float64 to 1e-10."""

import pytest

torch = pytest.importorskip("torch")

import torch_modules as M  # noqa: E402
from torch import nn  # noqa: E402

from ntkit.torch import EmpiricalNTK  # noqa: E402

TOLERANCE = 1e-10


def _normal(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _tokens(*shape):
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(1))


CASES = {
    "mlp": (M.mlp, _normal(9, 6)),
    "convolutions": (M.convolutions, _normal(5, 4, 8, 8)),
    "signals": (M.signals, _normal(4, 2, 9)),
    "volumes": (M.volumes, _normal(4, 2, 4, 3, 3)),
    "resnet18": (M.resnet18, _normal(4, 3, 8, 8)),
    "vit": (M.ViT, _normal(4, 3, 8, 8)),
    "gpt": (M.GPT, _tokens(5, 6)),
    "twice": (M.Twice, _normal(5, 5)),
    "functional": (M.Functional, _normal(5, 5)),
    "lora": (M.LoRA, _normal(5, 6)),
    "custom": (M.Custom, _normal(5, 5)),
    "sequence first": (M.SequenceFirst, _normal(4, 3, 4)),
    "merged": (M.Merged, _normal(4, 3, 2, 5)),
}


def build(make, x):
    torch.manual_seed(0)
    module = make().double().eval()
    with torch.no_grad():
        module(x)  # lazy layers
    return module


def assert_close(got, wanted):
    assert got.shape == wanted.shape
    assert float((got - wanted).abs().max()) <= TOLERANCE * float(wanted.abs().max())


def reduced(full, outputs):
    each = torch.diagonal(full, dim1=2, dim2=3)
    return {"full": full, "diagonal": each, "mean": each.mean(-1)}[outputs]


@pytest.mark.parametrize("case", CASES)
def test_is_the_contraction_of_the_jacobian(case):
    make, x = CASES[case]
    module = build(make, x)
    full = M.contraction(module, x)
    for outputs in ("full", "diagonal", "mean"):
        wanted, kernel = reduced(full, outputs), EmpiricalNTK(module, outputs=outputs)
        assert_close(kernel(x), wanted)
        assert_close(kernel(x[:3], x[1:]), wanted[:3, 1:])
        assert_close(kernel.diagonal(x), torch.stack([wanted[i, i] for i in range(len(x))]))
    assert_close(sum(EmpiricalNTK(module, outputs="full").by_layer(x).values()), full)


@pytest.mark.parametrize("case", ["mlp", "convolutions", "gpt", "custom"])
@pytest.mark.parametrize("outputs", ["full", "diagonal", "mean"])
def test_a_small_budget_cuts_examples_outputs_and_channels(case, outputs):
    make, x = CASES[case]
    module = build(make, x)
    kernel, wanted = EmpiricalNTK(module, outputs=outputs, memory="3kB"), reduced(M.contraction(module, x), outputs)
    assert kernel.plan(x).blocks > len(x)  # single examples, and parts of their outputs
    assert_close(kernel(x), wanted)
    assert_close(kernel(x[:3], x[1:]), wanted[:3, 1:])
    assert_close(kernel.diagonal(x), torch.stack([wanted[i, i] for i in range(len(x))]))
