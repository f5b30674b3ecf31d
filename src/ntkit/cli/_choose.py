"""Which network and which ridge: every candidate scored by leave-one-out, from one eigendecomposition each."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from ntkit.cli._architecture import Architecture
from ntkit.errors import InputError
from ntkit.predict import Candidate, tune

ERROR = "leave-one-out-error"
# Relative to the mean diagonal of each kernel.
RIDGES = tuple(10.0 ** np.arange(-6.0, 1.0))
DEPTHS = (1, 2, 3, 5)
ACTIVATIONS = ("relu", "erf", "gelu")
# More examples than this choose no better network, but the time goes with the cube.
MOST = 2000


@dataclasses.dataclass(frozen=True)
class Choice:
    """The best network and ridge, and all that were tried: (network, its best ridge's scores), best first."""

    architecture: Architecture
    alpha: float
    tried: tuple[tuple[Architecture, Candidate], ...]
    examples: int

    @property
    def loo_error(self) -> float:
        return self.tried[0][1].loo_error


def candidates(
    base: Architecture, depths: Sequence[int] = DEPTHS, activations: Sequence[str] = ACTIVATIONS
) -> list[Architecture]:
    """The networks to try: like `base`, with every depth and activation."""
    return [
        dataclasses.replace(base, depth=depth, activation=activation)
        for depth in depths
        for activation in activations
        if depth >= base.fixed_layers
    ]


def choose(
    options: Sequence[Architecture],
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "n *o"],
    *,
    alpha: float | None = None,
    seed: int = 0,
    memory: str | None = None,
    most: int = MOST,
    step: Callable[[str], None] = lambda name: None,
) -> Choice:
    """The network and the ridge with the smallest mean squared leave-one-out error.

    `alpha` None: the ridge is open. On a random subset where there are more than `most` examples; the ridge is a
    variance, in the kernel's unit, and needs no rescaling.
    """
    if not options:
        raise InputError("There is no network to try: `--fixed-layers` is larger than every depth.")
    if len(x) > most:
        rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:most])
        x, y = x[rows], y[rows]
    noise, relative = (np.asarray(RIDGES), True) if alpha is None else (np.asarray([alpha]), False)
    tried = []
    for net in options:
        step(str(net))
        kernel = {str(net): net.as_kernel()}
        tuned = tune(kernel, x, y, noise=noise, relative=relative, criterion=ERROR, memory=memory, progress=False)
        tried.append((net, tuned.best))
    tried.sort(key=lambda pair: pair[1].loo_error)
    return Choice(tried[0][0], tried[0][1].noise, tuple(tried), len(x))
