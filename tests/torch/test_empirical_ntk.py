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
    "scalars": (M.Scalars, _normal(5, 4)),
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


@pytest.mark.parametrize(
    "case, outputs", [("mlp", "full"), ("convolutions", "diagonal"), ("gpt", "mean"), ("custom", "full")]
)
def test_a_small_budget_cuts_examples_outputs_and_channels(case, outputs):
    make, x = CASES[case]
    module, x = build(make, x), x[:3]
    memory = "20kB" if case == "gpt" else "3kB"
    kernel, wanted = EmpiricalNTK(module, outputs=outputs, memory=memory), reduced(M.contraction(module, x), outputs)
    assert kernel.plan(x).blocks > len(x)  # single examples, and parts of their outputs
    assert_close(kernel(x), wanted)
    assert_close(kernel(x[:3], x[1:]), wanted[:3, 1:])
    assert_close(kernel.diagonal(x), torch.stack([wanted[i, i] for i in range(len(x))]))


def test_a_budget_in_between_cuts_channels():
    module, x = build(*CASES["gpt"]), CASES["gpt"][1]
    kernel = EmpiricalNTK(module, outputs="full", memory="100kB")
    assert 1 < kernel.plan(x).blocks < len(x) * 3
    assert_close(kernel(x), M.contraction(module, x))


def test_every_rule_for_tokens_is_chosen_and_right():
    """Few tokens and wide layers go by pairs of tokens, many tokens by gradients."""
    module = nn.Sequential(nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 30), nn.Flatten(), nn.Linear(60, 2)).double()
    few = _normal(9, 2, 40)
    for outputs in ("full", "diagonal", "mean"):
        kernel, wanted = EmpiricalNTK(module, outputs=outputs), reduced(M.contraction(module, few), outputs)
        assert kernel.plan(few).method("0.weight") == "tokens"
        assert_close(kernel(few), wanted)
        assert_close(kernel(few[:8], few[3:]), wanted[:8, 3:])
        assert_close(kernel.diagonal(few), torch.stack([wanted[i, i] for i in range(9)]))


def test_only_what_has_no_rule_falls_back():
    module, x = build(*CASES["custom"]), CASES["custom"][1]
    plan = EmpiricalNTK(module).plan(x)
    fallen = {step.parameter for step in plan.steps if step.method == "fallback"}
    assert fallen == {name for name, _ in module.named_parameters()}
    assert "w falls back: it reaches the output in an operation without a rule." in str(plan)
    for case in ("mlp", "convolutions", "signals", "volumes", "resnet18", "vit", "gpt", "twice", "functional", "lora"):
        plan = EmpiricalNTK(build(*CASES[case])).plan(CASES[case][1])
        assert "fallback" not in {step.method for step in plan.steps}, str(plan)


def test_a_layer_used_twice_has_cross_terms():
    """The sum of each use's own kernel is another number: the defect of a peer."""
    module, x = build(*CASES["twice"]), CASES["twice"][1]
    assert EmpiricalNTK(module).plan(x).method("inner.weight") == "sum of uses"


def test_some_parameters_only():
    module, x = build(*CASES["mlp"]), CASES["mlp"][1]
    apart = EmpiricalNTK(module, outputs="full").by_layer(x)
    assert_close(EmpiricalNTK(module, ["2.weight", "4.bias"], outputs="full")(x), apart["2.weight"] + apart["4.bias"])
    module[0].requires_grad_(False)
    assert_close(EmpiricalNTK(module, outputs="full")(x), M.contraction(module, x))


def test_a_callable_with_a_dictionary_of_parameters():
    module, x = build(*CASES["gpt"]), CASES["gpt"][1]
    params = dict(module.named_parameters())
    kernel = EmpiricalNTK(lambda p, x: torch.func.functional_call(module, p, (x,)), params, outputs="full")
    assert_close(kernel(x), M.contraction(module, x))


def test_the_module_is_left_as_it_was():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.0), nn.Linear(5, 2))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.inner(x)

    module, x = Counting(), torch.randn(3, 6)
    module.inner[0].weight.grad = torch.ones(5, 6)
    result = EmpiricalNTK(module)(x)
    assert float(module.calls) == 0
    assert module.training
    assert bool((module.inner[0].weight.grad == 1).all())
    assert module.inner[2].weight.grad is None
    assert not result.requires_grad
    assert not hasattr(x, "_ntkit_examples")
    with torch.no_grad():
        torch.testing.assert_close(EmpiricalNTK(module)(x), result)
    assert result.dtype == torch.float32


def test_a_way_that_depends_on_the_data_is_followed():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            if float(x.detach().sum()) > 100:
                x = torch.tanh(self.one(x))
            return self.two(torch.tanh(self.one(x)))

    module = Gate().double()
    kernel, x = EmpiricalNTK(module, outputs="full"), _normal(4, 3)
    kernel(x)
    assert_close(kernel(x + 200), M_loop(module, x + 200))


def M_loop(module, x):
    """The contraction of gradients by autograd, of the whole batch: without vmap, which follows no branch."""
    y = module(x)
    grads = [
        torch.cat([g.flatten() for g in torch.autograd.grad(y[i, a], list(module.parameters()), retain_graph=True)])
        for i in range(len(x))
        for a in range(y.shape[1])
    ]
    rows = torch.stack(grads)
    return (rows @ rows.T).view(len(x), y.shape[1], len(x), y.shape[1]).transpose(1, 2)


def test_a_custom_function_between_recorded_uses_is_noticed():
    """What comes out of a custom autograd function carries no mark: nothing may be lost there."""

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.scale = nn.Linear(4, 4), nn.Linear(4, 3), nn.Parameter(torch.rand(4))

        def forward(self, x):
            hidden = Double.apply(torch.tanh(self.one(x)))
            return self.two(torch.sin(hidden)) + self.two(x * hidden + Double.apply(self.scale))

    module, x = Network().double(), _normal(4, 4)
    assert_close(EmpiricalNTK(module, outputs="full")(x), M_loop(module, x))


@pytest.mark.parametrize("outputs", ["full", "diagonal", "mean"])
def test_few_weights_that_see_many_pixels_keep_their_jacobian(outputs, monkeypatch):
    layers = [torch.nn.Conv2d(2, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3), torch.nn.ReLU()]
    ends = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)]
    module = torch.nn.Sequential(*layers, *ends).double()
    module.register_parameter("idle", torch.nn.Parameter(torch.ones(5).double()))
    x1, x2 = torch.randn(7, 2, 14, 14).double(), torch.randn(4, 2, 14, 14).double()
    kernel = EmpiricalNTK(module, outputs=outputs)
    known = kernel(x1), kernel(x1, x2), kernel.diagonal(x1), kernel.by_layer(x1, x2)
    assert kernel.plan(x1).blocks == 1
    monkeypatch.setattr("ntkit.torch.kernel.SLAB", 1 << 17)
    plan = kernel.plan(x1)
    assert plan.blocks > 1
    assert {step.method for step in plan.steps} == {"gradients"}
    found = kernel(x1), kernel(x1, x2), kernel.diagonal(x1), kernel.by_layer(x1, x2)
    torch.testing.assert_close(found, known, rtol=1e-10, atol=1e-12)
