"""What is asked of the experiment on CIFAR-10: networks, and how the images are prepared."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ntkit import nn
from ntkit.errors import InputError

Pooling = Literal["flatten", "local", "global"]
POOLINGS: tuple[Pooling, ...] = ("flatten", "local", "global")


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One network on one preparation of the images: `zca` is the regularisation of the whitening, None for none."""

    pooling: Pooling
    depth: int
    zca: float | None = None
    window: int = 11

    def network(self) -> nn.Sequential:
        """As the authors have it: with pooling the first and the last layer are not trained, with `Flatten` all are."""
        fixed = self.pooling != "flatten"
        return nn.presets.cntk(self.depth, pooling=self.pooling, window=self.window, fixed_ends=fixed)

    @property
    def name(self) -> str:
        local = f"-window{self.window}" if self.pooling == "local" else ""
        return f"{self.pooling}{local}-{self.depth}" + ("" if self.zca is None else f"-zca{self.zca:g}")

    def __str__(self) -> str:
        what = {"flatten": "Flatten", "global": "global pooling", "local": f"local pooling {self.window}"}[self.pooling]
        return f"{what}, depth {self.depth}" + ("" if self.zca is None else f", ZCA {self.zca:g}")


def configurations(
    poolings: Sequence[str], depths: Sequence[int], zca: float | None, window: int
) -> list[Configuration]:
    """The cheapest first: those that take hours come last."""
    wrong = [p for p in poolings if p not in POOLINGS]
    if wrong or not poolings:
        raise InputError(
            f"`poolings` must be some of {', '.join(POOLINGS)}; got {', '.join(map(repr, wrong)) or 'none'}."
        )
    if not depths or any(d < 2 for d in depths):
        raise InputError(f"`depths` must be whole numbers of at least 2, the layers with weights; got {list(depths)}.")
    if min(depths) < 3 and set(poolings) != {"flatten"}:
        raise InputError(
            "`depths` must be at least 3 with pooling: there the first and the last layer are frozen, and of two "
            f"nothing is trained; got {list(depths)}."
        )
    if window < 1 or window % 2 == 0:
        raise InputError(f"`window` must be odd, with a middle, and at least 1; got {window}.")
    if zca is not None and not (np.isfinite(zca) and zca > 0):
        raise InputError(f"`zca`, the regularisation of the whitening, must be positive; got {zca}.")
    return [Configuration(p, d, zca, window) for p in POOLINGS if p in poolings for d in sorted(set(depths))]
