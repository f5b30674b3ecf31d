"""Networks cut where they narrow to one tensor, and examples that pass a few at a time: the kernel stays the same."""

import pytest

torch = pytest.importorskip("torch")

import torch_modules as M  # noqa: E402
from test_empirical_ntk import CASES, assert_close, build, reduced  # noqa: E402
from torch import nn  # noqa: E402

from ntkit.torch import EmpiricalNTK, descent  # noqa: E402
from ntkit.torch.cuts import Segment, segments_within  # noqa: E402


def in_segments(s, part):
    """Of which each holds about a part of the whole, or as little as the network allows."""
    held = s.held(s.outputs)
    limits = [sum(held) * part * 1.1**k for k in range(40)]
    return next(found for limit in limits if (found := segments_within(s.cuts, s.uses, held, limit)))


def cut_in(monkeypatch, part):
    """Kernels go by segments; two or three examples pass together."""

    def segments(self, s, examples):
        return in_segments(s, part) if s.wanted else [Segment(None, None, s.wanted)]

    monkeypatch.setattr(EmpiricalNTK, "_segments", segments)
    monkeypatch.setattr(EmpiricalNTK, "_is_small", lambda *_: False)
    monkeypatch.setattr(descent, "PASSING", 1)


def never_lost(monkeypatch):
    """Only what has no rule may go example by example."""
    inner = descent.Descent._by_examples

    def watched(self, names, loop):
        assert set(names) <= set(self._s.missed), "the network is not as it was studied"
        return inner(self, names, loop)

    monkeypatch.setattr(descent.Descent, "_by_examples", watched)


def structure(module, x):
    return EmpiricalNTK(module)._structure(x)


@pytest.mark.parametrize("case", CASES)
def test_segments_add_up_to_the_contraction_of_the_jacobian(case, monkeypatch):
    make, x = CASES[case]
    module = build(make, x)
    full = M.contraction(module, x)
    cut_in(monkeypatch, 0.05)
    never_lost(monkeypatch)
    for outputs in ("full", "diagonal", "mean"):
        wanted, kernel = reduced(full, outputs), EmpiricalNTK(module, outputs=outputs)
        assert_close(kernel(x), wanted)
        assert_close(kernel(x[:3], x[1:]), wanted[:3, 1:])
    assert_close(kernel.diagonal(x), torch.stack([wanted[i, i] for i in range(len(x))]))
    assert_close(sum(EmpiricalNTK(module, outputs="full").by_layer(x).values()), full)


def test_a_chain_can_be_cut_at_every_layer_and_a_shortcut_cannot():
    chain = nn.Sequential(*[nn.Linear(4, 4) for _ in range(5)]).double()
    x = torch.ones(3, 4, dtype=torch.float64)
    assert [len(cut.below) for cut in structure(chain, x).cuts] == [8, 6, 4, 2]

    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.rest, self.last = nn.Linear(4, 4), chain, nn.Linear(4, 2)

        def forward(self, x):
            h = self.first(x)
            return self.last(self.rest(h) + h)

    # Nowhere inside: `h` goes around all of it.
    assert [len(cut.below) for cut in structure(Shortcut().double(), x).cuts] == [12, 2]


def test_blocks_of_a_decoder_are_cut_apart():
    make, x = CASES["gpt"]
    s = structure(build(make, x), x)
    segments = in_segments(s, 0.3)
    assert len(segments) > 3
    assert sorted(u for segment in segments for u in segment.uses) == sorted(s.wanted)
    calls = [segment.above.call for segment in segments[1:]]
    assert calls == sorted(calls, reverse=True)


def test_a_budget_below_what_is_held_cuts_the_network_before_the_examples():
    module = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.Tanh())], nn.Linear(64, 2))
    x = torch.randn(40, 9, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = nn.Sequential(module, nn.Flatten()).double()
    s = structure(net, x)
    held = 40 * 8 * sum(s.held(s.outputs))
    kernel, plan = EmpiricalNTK(net, memory=held), EmpiricalNTK(net, memory=held).plan(x)
    assert plan.blocks == 1
    assert plan.segments > 3  # each of which holds a quarter
    assert f"{plan.segments} segment(s)" in str(plan)
    torch.testing.assert_close(kernel(x), EmpiricalNTK(net, memory=None)(x), rtol=1e-10, atol=0)
    assert EmpiricalNTK(net, memory=held // 40).plan(x).blocks > 1


@pytest.mark.parametrize("turning", [0.5, -0.5])
def test_a_network_that_goes_another_way_for_some_examples_falls_back(turning, monkeypatch):
    """The way of the first three examples is studied; the others' calls before a cut differ, but not their uses."""

    class Turning(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            negative = bool(x[0, 0].detach() < 0)
            h = torch.tanh(self.first(x))
            g = self.second(h)
            return self.last(h + (torch.sin(g) if negative else g))

    torch.manual_seed(0)
    module = Turning().double()
    x = torch.randn(7, 3, dtype=torch.float64)
    x[:, 0] = 0.5
    x[4:, 0] = turning
    if turning > 0:
        never_lost(monkeypatch)
    rows = [torch.func.jacrev(lambda p, e=e: torch.func.functional_call(module, p, (e[None],))[0])(
        {name: p.detach() for name, p in module.named_parameters()}) for e in x]  # fmt: skip
    jacobian = torch.stack([torch.cat([j.flatten(1) for j in row.values()], 1) for row in rows])
    cut_in(monkeypatch, 0.05)
    assert structure(module, x).cuts[0].below == {0, 1, 2, 3}  # at the sum
    monkeypatch.setattr(descent, "passes", lambda n, *_: [slice(0, min(4, n)), slice(4, n)][: 1 + (n > 4)])
    found = EmpiricalNTK(module, outputs="full")(x)
    assert_close(found, torch.einsum("iap,jbp->ijab", jacobian, jacobian))


def test_what_several_uses_read_is_held_once(monkeypatch):
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.out = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x):
            return self.out(self.q(x) * self.k(x))

    module, x = Heads().double(), torch.ones(6, 3, dtype=torch.float64)
    monkeypatch.setattr(descent, "PASSING", 1)
    kernel = EmpiricalNTK(module)
    side = descent.side_of(kernel._target, x, kernel._structure(x), slice(0, 1), None)
    read = {use.examples.data_ptr() for use in side.uses if use.examples is not None}
    assert len(side.uses) == 6
    assert len(read) == 2
