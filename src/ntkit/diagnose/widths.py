"""How fast the kernels of finite networks come to that of the infinite one."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ntkit._check import check_inputs, parse_memory
from ntkit._progress import Meter, Progress
from ntkit.diagnose._draws import kernels_of_draws, trainable
from ntkit.diagnose.rates import Rate, checked_seeds, fit
from ntkit.errors import ComputationError, InputError
from ntkit.kernels import NTK
from ntkit.nn import BatchNorm, Dropout, Layer
from ntkit.nn._masks import Masked
from ntkit.nn.normalization import LayerNorm
from ntkit.nn.widths import changed, map_weighted, weighted_layers, width_groups


@runtime_checkable
class Distribution(Protocol):
    """A law of numbers of neurons: any frozen distribution of `scipy.stats` whose draws are whole numbers."""

    def rvs(self, *, size: Any, random_state: Any) -> Any:
        """Draws, as those of `scipy.stats` make them."""
        ...


@dataclasses.dataclass(frozen=True)
class WidthStudy:
    """What `width_study` found: w widths, s draws of each, g groups of hidden layers, l trainable layers, n examples.

    - `widths` (w,): of random widths the harmonic mean of the drawn ones.
    - `drawn` (w, s, g): the hidden widths of each network.
    - `layers`: their paths in the network and their kinds, such as "2 Dense".
    - `infinite` (n, n), `infinite_by_layer` (l, n, n): the infinite kernel, and what each layer adds to it.
    - `mean`, `standard_error` (w, n, n), `mean_by_layer` (w, l, n, n): of the finite kernels over the draws.
    - `deviations` (w, s): |K - K_inf|_F / |K_inf|_F of each draw.
    - `deviations_by_layer` (w, l, s): the same of what a layer adds, in units of the whole |K_inf|_F.
    - `rate`, `rate_by_layer`: the fits to them.
    - `depth`: hidden layers, L; `features`: numbers in an example, d.
    """

    widths: Float[np.ndarray, " w"]
    drawn: Int[np.ndarray, "w s g"]
    layers: tuple[str, ...]
    infinite: Float[np.ndarray, "n n"]
    infinite_by_layer: Float[np.ndarray, "l n n"]
    mean: Float[np.ndarray, "w n n"]
    standard_error: Float[np.ndarray, "w n n"]
    mean_by_layer: Float[np.ndarray, "w l n n"]
    deviations: Float[np.ndarray, "w s"]
    deviations_by_layer: Float[np.ndarray, "w l s"]
    rate: Rate
    rate_by_layer: tuple[Rate, ...]
    depth: int
    features: int

    def bounds(self, delta: float = 0.05) -> dict[str, Float[np.ndarray, " w"]]:
        """What theory promises at these widths m, with every constant set to 1: compare slopes, not heights.

        - "Arora et al. 2019": (L^6 log(L / delta) / m)^(1/4), as a width of order L^6 / eps^4 log(L / delta) is enough
          for an error of order eps at one pair with probability 1 - `delta` (theorem 3.1, for ReLU).
        - "uniform, m^(-1/6)" and "uniform, sqrt(d L log m / m)": orders of the error over all inputs at once.
        """
        if not 0 < delta < 1:
            raise InputError(f"`delta` is the probability that the bound fails and must lie in (0, 1); got {delta!r}.")
        m, depth = self.widths, self.depth
        return {
            "Arora et al. 2019": (depth**6 * math.log(depth / delta) / m) ** 0.25,
            "uniform, m^(-1/6)": m ** (-1 / 6),
            "uniform, sqrt(d L log m / m)": np.sqrt(self.features * depth * np.log(m) / m),
        }

    def __str__(self) -> str:
        lines = [f"{'width':>8}  {'deviation':>10}  {'standard error':>14}"]
        for width, own in zip(self.widths, self.deviations, strict=True):
            lines.append(f"{width:8.6g}  {own.mean():10.4g}  {own.std(ddof=1) / math.sqrt(len(own)):14.2g}")
        return "\n".join([*lines, f"rate: width^({self.rate.slope:.3f} ± {self.rate.standard_error:.3f})"])


def width_study(
    net: Layer,
    x: Float[Array | np.ndarray, "n ..."],
    widths: Iterable[int | Distribution],
    seeds: int | Iterable[int] = 20,
    *,
    memory: str | int | None = "1GiB",
    progress: Progress = False,
) -> WidthStudy:
    """The empirical NTK of freshly drawn networks of growing width against the infinite one.

    For each of the `widths` and seeds a network is drawn with all its hidden widths so set (`nn.with_widths`), by the
    law of its weights (`init` of its layers), and its NTK, the mean over its outputs, taken on `x`: whole and layer by
    layer, the infinite kernel being restricted to the same layer. The deviation of a draw falls as width^(-1/2), by
    the central limit theorem over its units; `rate` fits the exponent. At small widths terms of higher order bend it.

    **Random widths.** In place of a number, a distribution such as `scipy.stats.randint(96, 161)`: every group of
    hidden layers of every draw then has a width of its own. With one hidden layer the mean of the kernels is exact at
    any width, so also at random ones, and the mean square of the deviation is v E[1 / m]: they count as their harmonic
    mean.

    **Arguments:**

    - `x`: rows or images, in the dtype of the computation.
    - `seeds`: how many networks of each width, at least 2, or the seeds themselves. A network depends on its seed and
      on the place of its width in `widths`.
    - `memory`: about how much networks drawn together may take.
    - `progress`: a bar, or a function of the networks done and all, as for `ntkit.gram`.

    **Raises:** `ntkit.InputError` for a network without infinite reading or without a hidden layer; with `Dropout`,
    `BatchNorm`, or the standard parameterization, whose finite kernels tend to no limit of this kind; with `LayerNorm`
    where widths are random; for fewer than two different widths, as these have no rate, and fewer than two seeds.
    """
    entries, numbers, budget = _checked_widths(widths), checked_seeds(seeds), parse_memory(memory)
    x = _checked_examples(x)
    check_network(net, random=any(not isinstance(entry, int) for entry in entries))
    infinite, by_layer = _infinite(net, x)
    drawn = np.stack([_drawn(entry, at, numbers, width_groups(net).count) for at, entry in enumerate(entries)])
    sums = []
    with Meter(progress, 0, drawn.shape[0] * drawn.shape[1], "width", "networks") as meter:
        meter(0)
        for at, own in enumerate(drawn):
            keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), at) for seed in numbers])
            total = _Sums(infinite, by_layer)
            for values in kernels_of_draws(net, jnp.asarray(x), keys, own, budget):
                total.add(values)
                meter(at * len(numbers) + total.count)
            sums.append(total)
    return _study(net, x, drawn, sums)


def _study(net: Layer, x: Any, drawn: np.ndarray, sums: "list[_Sums]") -> WidthStudy:
    harmonic = 1 / np.mean(1 / drawn, axis=(1, 2))
    deviations = np.array([total.deviations for total in sums])
    by_layer = np.array([total.by_layer for total in sums]).transpose(0, 2, 1)
    names = {name: f"{name} {layer.name}" for name, layer in weighted_layers(net)}
    return WidthStudy(
        widths=harmonic,
        drawn=drawn,
        layers=tuple(names[name] for name in trainable(net)),
        infinite=sums[0].infinite,
        infinite_by_layer=sums[0].layers,
        mean=np.stack([total.mean for total in sums]),
        standard_error=np.stack([total.standard_error for total in sums]),
        mean_by_layer=np.stack([total.mean_by_layer for total in sums]),
        deviations=deviations,
        deviations_by_layer=by_layer,
        rate=fit(harmonic, deviations),
        rate_by_layer=tuple(fit(harmonic, by_layer[:, i]) for i in range(by_layer.shape[1])),
        depth=sum(group is not None for group in width_groups(net).own),
        features=math.prod(x.shape[1:]),
    )


class _Sums:
    """Running sums over the draws of one width, of differences to the infinite kernel."""

    def __init__(self, infinite: np.ndarray, layers: np.ndarray):
        self.infinite, self.layers, self.count = infinite, layers, 0
        self._first, self._second, self._first_by_layer = 0.0, 0.0, 0.0
        self.deviations: list[float] = []
        self.by_layer: list[list[float]] = []

    def add(self, kernels: Float[np.ndarray, "c l n n"]) -> None:
        """The kernels of some networks, by layer."""
        if not np.isfinite(kernels).all():
            raise ComputationError(
                "The kernel of a finite network is not finite: the numbers leave the range of the dtype. Take float64."
            )
        norm = np.linalg.norm(self.infinite)
        for each in kernels:
            apart, whole = each - self.layers, each.sum(0) - self.infinite
            self._first, self._second = self._first + whole, self._second + whole**2
            self._first_by_layer = self._first_by_layer + apart
            self.deviations.append(float(np.linalg.norm(whole) / norm))
            self.by_layer.append((np.linalg.norm(apart, axis=(1, 2)) / norm).tolist())
        self.count += len(kernels)

    @property
    def mean(self) -> Any:
        return self.infinite + self._first / self.count

    @property
    def mean_by_layer(self) -> Any:
        return self.layers + self._first_by_layer / self.count

    @property
    def standard_error(self) -> Any:
        variance = np.maximum(self._second / self.count - (self._first / self.count) ** 2, 0)
        return np.sqrt(variance / (self.count - 1))


def _infinite(net: Layer, x: Any) -> tuple[np.ndarray, np.ndarray]:
    """The infinite kernel, and what each trainable layer adds to it: all others are frozen."""
    layers = []
    for chosen, (_, layer) in enumerate(weighted_layers(net)):
        if layer.trainable:
            one = map_weighted(lambda i, own, chosen=chosen: changed(own, trainable=i == chosen), net)
            layers.append(np.asarray(NTK(one)(x), np.float64))
    if not layers or not np.any(layers):
        raise InputError(
            "The infinite NTK of `net` is 0 on these inputs, so that nothing can be measured in units of it. Set "
            "`trainable=True`, or give inputs that are not 0."
        )
    return np.asarray(NTK(net)(x), np.float64), np.stack(layers)


def _drawn(entry: "int | Distribution", at: int, seeds: list[int], groups: int) -> Int[np.ndarray, "s g"]:
    if isinstance(entry, int):
        return np.full((len(seeds), groups), entry)
    draws = [entry.rvs(size=groups, random_state=np.random.default_rng([seed, at])) for seed in seeds]
    values = np.asarray(draws, np.float64).reshape(len(seeds), groups)
    if not ((values >= 1) & (values == np.floor(values)) & np.isfinite(values)).all():
        bad = values[~((values >= 1) & (values == np.floor(values)))][0]
        raise InputError(
            f"`widths[{at}]` drew {bad:g}, but widths are whole numbers of at least 1. Take a distribution of such, as "
            "`scipy.stats.randint(96, 161)`."
        )
    return values.astype(int)


def _checked_widths(widths: Any) -> "list[int | Distribution]":
    try:
        entries = list(widths)
    except TypeError:
        raise InputError(f"`widths` must be a list such as [64, 128, 256]; got {widths!r}.") from None
    known: list[int | Distribution] = []
    for entry in entries:
        if isinstance(entry, (int, np.integer)) and not isinstance(entry, bool) and entry >= 1:
            known.append(int(entry))
        elif isinstance(entry, Distribution):
            known.append(entry)
        else:
            raise InputError(
                "`widths` must be positive whole numbers, or distributions such as `scipy.stats.randint(96, 161)`; "
                f"got {entry!r}."
            )
    if len(set(known)) < 2:
        raise InputError(
            f"`widths` must hold at least two different widths, or there is no rate; got {entries!r}. For one network "
            "`ntkit.EmpiricalNTK` has the kernel."
        )
    return known


def _checked_examples(x: Any) -> Any:
    if isinstance(x, Masked):
        raise InputError("`x` has a mask, which `width_study` does not take. Use images of one size, without a mask.")
    return check_inputs("x", x)


def check_network(net: Any, random: bool) -> None:
    width_groups(net)
    NTK(net)  # refuses what has no infinite reading
    for kind, why in (
        (Dropout, "is the identity in the networks that are drawn, but not in the infinite reading. Leave it out."),
        (BatchNorm, "normalises over the batch, so that no example has a finite kernel of its own. Leave it out."),
        *([(LayerNorm, "averages over the channels, of which random widths take some away. Fix the widths.")] * random),
    ):
        if _has(net, kind):
            raise InputError(f"`{kind.__name__}` {why}")
    if any(layer.parameterization == "standard" for _, layer in weighted_layers(net)):
        raise InputError(
            'The NTK of the standard parameterization grows with the width. Use `parameterization="ntk"`, whose '
            "networks are the same."
        )


def _has(net: Layer, kind: type) -> bool:
    leaves = jax.tree.leaves(net, is_leaf=lambda node: isinstance(node, kind))
    return any(isinstance(leaf, kind) for leaf in leaves)
