"""How far inner products of projected rows are from the kernel, measured where it is computed exactly.

Count sketch (M. Charikar, K. Chen, M. Farach-Colton, ICALP 2002; K. Weinberger et al., "Feature hashing for large scale
multitask learning", ICML 2009): entry i goes to one of D buckets, with a sign, both at random. Then E <S x, S y> =
<x, y>, and

    Var <S x, S y> = (|x|^2 |y|^2 + <x, y>^2 - 2 sum_i x_i^2 y_i^2) / D.
"""

import dataclasses
from typing import Any

import numpy as np

from ntkit.linalg.products import check_count


@dataclasses.dataclass(frozen=True)
class Projection:
    """Features of examples whose inner products estimate their kernel.

    - `features`: (n, dimension) where the kernel's `outputs` are "mean", else (n, o, dimension).
    - `error`: the root mean square of (estimate - kernel_ij) / sqrt(kernel_ii kernel_jj), measured against the exact
        kernel of `examples`, which were drawn at random.
    - `expected`: the same, by the formula: at most sqrt(2 / dimension).
    """

    features: Any
    error: float
    expected: float
    examples: tuple[int, ...]

    def __str__(self) -> str:
        shape = tuple(self.features.shape)
        measured = f"{self.error:.2g} measured on {len(self.examples)} examples, {self.expected:.2g} expected"
        return f"features {shape}; error of a cosine: {measured}"


def drawn(rng: np.random.Generator, n: int, check: int) -> tuple[int, ...]:
    """Examples to measure on."""
    return tuple(sorted(int(i) for i in rng.choice(n, min(n, check_count("check", check, 1)), replace=False)))


def measured(features: Any, examples: tuple[int, ...], few: np.ndarray, exact: np.ndarray) -> Projection:
    """`few` (k, ...) are the features of the `examples`, `exact` their kernel, (k, k), (k, k, o) or (k, k, o, o)."""
    letters = {2: "id,jd->ij", 3: "iad,jad->ija", 4: "iad,jbd->ijab"}[exact.ndim]
    exact = exact.astype(np.float64)
    estimate = np.einsum(letters, few, few, dtype=np.float64)
    own = np.einsum({2: "ii->i", 3: "iia->ia", 4: "iiaa->ia"}[exact.ndim], exact)
    scale = np.einsum({2: "i,j->ij", 3: "ia,ja->ija", 4: "ia,jb->ijab"}[exact.ndim], own, own)
    there = scale > 0  # a gradient that is zero is projected exactly
    error = (estimate - exact)[there] ** 2 / scale[there]
    expected = (1 + exact[there] ** 2 / scale[there]) / features.shape[-1]
    if not there.any():
        return Projection(features, 0.0, 0.0, examples)
    return Projection(features, float(error.mean() ** 0.5), float(expected.mean() ** 0.5), examples)
