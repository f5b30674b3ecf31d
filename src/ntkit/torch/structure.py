"""How the parameters of a network reach its outputs, found on three examples and checked against autograd.

The layout of each use comes from the shapes at two and at three examples. Then the cotangents of example i are
multiplied by
2^i: that must multiply exactly the part of each recorded gradient that the layout calls example i. And summed over
examples, what
the uses say must be autograd's gradient. A parameter that fails anything falls back to its gradients example by
example.
"""

import dataclasses

import torch

from ntkit.errors import InputError
from ntkit.torch.checks import close, passed, tolerance
from ntkit.torch.cuts import Cut, cuts_of
from ntkit.torch.fallback import example_rows
from ntkit.torch.record import Trail, leaves_behind
from ntkit.torch.side import Recording, Side, differentiate, record
from ntkit.torch.target import Target
from ntkit.torch.uses import Dense, Layout, Lookup, Matrix, Site

Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True)
class Structure:
    """`uses`: by parameter the numbers of its uses; `derived`: parameters of which some weight is computed.

    `missed`: parameters that fall back, and why; `loop`: whether they do so one example at a time. `cuts`: where the
    network narrows to one tensor. Of each use and one example `sizes` are the numbers (g, T, k, f), (1, T, rows, w) or
    (1, 1, 1, entries), and `reads` is how many it reads: of a convolution the pixels, which its T patches of k repeat.
    """

    outputs: int
    layouts: list[Layout | None]
    shapes: list[tuple[int, ...]]
    signature: list[tuple]
    uses: dict[str, list[int]]
    derived: set[str]
    missed: dict[str, str]
    loop: bool
    kinds: list[type]
    sizes: list[tuple[int, int, int, int]]
    reads: list[int]
    matrices: list[bool]
    cuts: list[Cut]

    @property
    def wanted(self) -> frozenset[int]:
        """The uses of parameters that do not fall back."""
        return frozenset(u for us in self.uses.values() for u in us)

    def held(self, outputs: int) -> list[int]:
        """How many numbers one example leaves at each use: activations, and cotangents of so many outputs."""
        return [read + outputs * out for read, out in zip(self.reads, self.outs)]

    @property
    def outs(self) -> list[int]:
        """How many numbers the output of each use has for one example."""
        return [g * t * f if kind is Dense else t * f for kind, (g, t, _, f) in zip(self.kinds, self.sizes)]

    def fits(self, recording: Recording, n: int, whole: bool) -> bool:
        """Whether another forward pass has the same uses; not `whole`: as far as it came."""
        shapes = [_scaled(s, layout, n) for s, layout in zip(self.shapes, self.layouts)]
        sites = recording.sites
        return (
            _signature(sites) == (self.signature if whole else self.signature[: len(sites)])
            and all(s is None or s == site.shape for s, site in zip(shapes, sites))
            and recording.missed <= set(self.missed)
        )


def _scaled(shape: tuple[int, ...], layout: Layout | None, n: int) -> tuple[int, ...] | None:
    return None if layout is None else tuple(n * layout.share if i == layout.axis else s for i, s in enumerate(shape))


def _signature(sites: list[Site]) -> list[tuple]:
    return [tuple((type(use).__name__, use.name, use.transposed) for use in site.uses) for site in sites]


def probe(x: Tensor) -> Tensor:
    """Three examples."""
    return x[torch.arange(3, device=x.device) % len(x)].clone()


def study(target: Target, x: Tensor) -> Structure:
    """The structure of `target` on examples like those of `x`.

    **Raises:** `InputError` where outputs are not a function of one example each.
    """
    x3 = probe(x)
    with torch.enable_grad():
        plain = passed(target, x3)
    if not torch.equal(x3, probe(x)):
        raise InputError("`module` changes its input in place. Let it work on a copy: `x.clone()` in its forward.")
    two = record(target, x3[:2].clone())
    with torch.enable_grad():
        x3 = x3.requires_grad_() if x3.is_floating_point() else x3
    three = record(target, x3, Trail(made=[]))
    _check_function(plain, two.y.detach(), three.y.detach())
    plain_grads, grads, layouts = _cotangents(target, x3, plain, two, three)
    side = Side(3, 1, {})
    wanted = [True] * sum(len(site.uses) for site in three.sites)
    side.begin(slice(0, 3), three.sites, layouts, wanted)
    side.fill(0, [g for g, s in zip(grads, three.sites) for _ in s.uses], wanted)
    return _structure(target, x3.detach(), three, side, layouts, plain_grads)


def _check_function(plain: Tensor, two: Tensor, three: Tensor) -> None:
    if not close(plain.detach(), three):
        raise InputError(
            "`module` is not deterministic: two forward passes of the same examples differ. Call `module.eval()`, or fix what "  # noqa: E501
            "it draws at random."
        )
    if not close(two, three[:2]):
        _refuse_dependence()


def _refuse_dependence() -> None:
    raise InputError(
        "`module` makes the output of one example depend on the other examples of its batch (a statistic over axis 0, say), so "  # noqa: E501
        "that no example has a kernel of its own. Let it work along the other axes only."
    )


def _cotangents(target: Target, x: Tensor, plain: Tensor, two: Recording, three: Recording):
    """Of random outputs: autograd's gradients by the parameters, those by the sites, and the sites' layouts."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(plain.shape, generator=generator, dtype=torch.float64).to(plain)
    marks = 2.0 ** torch.arange(3, device=plain.device, dtype=plain.dtype)
    extra = (x,) if x.requires_grad else ()
    grads = differentiate(three.y, three.sites, u, True, extra)
    marked = differentiate(three.y, three.sites, u * marks[:, None], False, extra)
    values = list(target.parameters.values())
    by_parameters = differentiate(plain, [], u, False, tuple(values))
    for name, grad in zip(target.parameters, by_parameters):
        if grad is not None and not bool(torch.isfinite(grad).all()):
            raise InputError(
                f"`module` has a derivative by `{name}` that is not finite, though its outputs are: as of a square "
                "root at 0. Keep its argument away from there."
            )
    if extra and not _is_marked(grads.pop(), marked.pop(), Layout(0, 1), marks):
        _refuse_dependence()
    shapes = [site.shape for site in two.sites] if _signature(two.sites) == _signature(three.sites) else []
    pairs = zip(shapes, three.sites, grads, marked)
    layouts = [_layout(shape, site, g, m, marks) for shape, site, g, m in pairs] or [None] * len(three.sites)
    return dict(zip(target.parameters, by_parameters)), grads, layouts


def _layout(
    two: tuple[int, ...], site: Site, grad: Tensor | None, marked: Tensor | None, marks: Tensor
) -> Layout | None:
    """Where the examples are in a site's output; None where that is not plain."""
    axes = [i for i, (a, b) in enumerate(zip(two, site.shape)) if a != b]
    if len(two) != len(site.shape) or len(axes) != 1 or two[axes[0]] * 3 != site.shape[axes[0]] * 2:
        return None
    share = site.shape[axes[0]] // 3
    ways = [Layout(axes[0], share)] + ([Layout(axes[0], share, outer=False)] if share > 1 else [])
    fitting = [way for way in ways if _is_marked(grad, marked, way, marks)]
    return fitting[0] if len(fitting) == 1 or (fitting and grad is None) else None


def _is_marked(grad: Tensor | None, marked: Tensor | None, layout: Layout, marks: Tensor) -> bool:
    """Whether multiplying the cotangents of each example multiplied its own part of the gradient, and nothing else."""
    if grad is None or marked is None:
        return grad is None and marked is None
    grad, marked = layout.split(grad), layout.split(marked)
    return close(grad * marks.view(-1, *(1,) * (grad.ndim - 1)), marked)


def _structure(target, x: Tensor, recording: Recording, side: Side, layouts, plain_grads) -> Structure:
    uses, derived, missed = _by_parameter(target, recording, side)
    for name, us in uses.items():
        reason = missed.get(name) or _disagreement(target, name, us, side, name in derived, plain_grads[name])
        if reason:
            missed[name] = reason
    uses = {name: us for name, us in uses.items() if name not in missed}
    loop = bool(missed) and not _vectorises(target, x, missed, plain_grads)
    return Structure(
        outputs=recording.y.shape[1],
        layouts=layouts,
        shapes=[site.shape for site in recording.sites],
        signature=_signature(recording.sites),
        uses=uses,
        derived=derived,
        missed=missed,
        loop=loop,
        kinds=[type(use) for use in side.uses],
        sizes=[_sizes(side, u) for u in range(len(side.uses))],
        reads=[0 if use.examples is None else use.examples.numel() // side.n for use in side.uses],
        matrices=[
            isinstance(use, Lookup) or (isinstance(use, Dense) and isinstance(use.form, Matrix)) for use in side.uses
        ],
        cuts=cuts_of(recording),
    )


def _by_parameter(target: Target, recording: Recording, side: Side):
    """The uses of each parameter, which have computed weights, and which cannot be told example by example."""
    uses: dict[str, list[int]] = {name: [] for name in target.parameters}
    names = {id(value): name for name, value in target.parameters.items()}
    derived: set[str] = set()
    missed = dict.fromkeys(recording.missed, "reaches the output in an operation without a rule")
    for u, use in enumerate(side.uses):
        behind = [use.name] if use.name else [names[id(v)] for v in leaves_behind(use.weight) if id(v) in names]
        for name in behind:
            uses[name].append(u)
            if use.name is None:
                derived.add(name)
            if side.layouts[u] is None:
                missed[name] = "is used where examples are not along one axis"
    return uses, derived, missed


def _disagreement(target, name: str, us: list[int], side: Side, derived: bool, truth: Tensor | None) -> str | None:
    """Compares the sum over examples of what the uses say with autograd's gradient."""
    parameter = target.parameters[name]
    truth = torch.zeros_like(parameter) if truth is None else truth
    if derived:
        ours = side.pulled_back(name, us, parameter, 1 << 24).sum((0, 1)).view_as(truth)
    else:
        ours = sum((side.of_use(u).sum((0, 1)) for u in us), torch.zeros_like(truth))
    # What rounding can do grows with the sizes of the factors, not of their sum, which may cancel.
    scale = float(truth.norm()) + sum(_scale(side, u) for u in us)
    apart = float((ours - truth).norm())
    return None if apart <= tolerance(truth.dtype) * scale else "differs from autograd's gradient by its recorded uses"


def _scale(side: Side, u: int) -> float:
    use, g = side.uses[u], side.cotangents[u]
    if g is None:
        return 0.0
    return float(g.norm()) * (float(side.activations(u).norm()) if isinstance(use, Dense) else 1.0)


def _vectorises(target: Target, x: Tensor, missed: dict[str, str], plain_grads: dict[str, Tensor | None]) -> bool:
    """Whether torch.func agrees with autograd on the parameters that fall back."""
    try:
        rows = example_rows(target, list(missed), x, slice(None), loop=False)
    except Exception:  # whatever torch.func cannot do, autograd can, one example at a time
        return False
    generator = torch.Generator().manual_seed(0)
    for name, row in rows.items():
        u = torch.randn(row.shape[:2], generator=generator, dtype=torch.float64).to(row)
        generator.manual_seed(0)
        truth = plain_grads[name]
        truth = torch.zeros_like(target.parameters[name]) if truth is None else truth
        ours = torch.einsum("no,nop->p", u, row).view_as(truth)
        scale = float((u[:, :, None] * row).norm()) * len(x) ** 0.5 + float(truth.norm())
        if float((ours - truth).norm()) > tolerance(truth.dtype) * scale:
            return False
    return True


def _sizes(side: Side, u: int) -> tuple[int, int, int, int]:
    use, g = side.uses[u], side.cotangents[u]
    if g is None:
        return 1, 1, 1, 0
    if isinstance(use, Dense):
        return g.shape[1], g.shape[4], side.activations(u).shape[-1], g.shape[3]
    return (
        (1, g.shape[2], use.weight.shape[0], g.shape[3]) if isinstance(use, Lookup) else (1, 1, 1, use.weight.numel())
    )
