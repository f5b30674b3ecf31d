"""v^T f(K) v between two bounds, by Lanczos' method: Gauss's rule on one side, Gauss-Radau's on the other.

G. Golub, G. Meurant, "Matrices, moments and quadrature with applications", 2010, chapters 6 and 7. The rule of j nodes
has the error f^(2j)(xi) / (2j)! times something positive, the one with a further node prescribed at a, at or below the
spectrum, f^(2j+1)(xi) / (2j+1)! times something positive. Where all even derivatives have one sign and all odd ones
from the third on the other, as those of log(1 + x / c), x log x and x / (x + c), the two enclose the truth.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg

from ntkit.linalg.products import Products

Function = Callable[[np.ndarray], np.ndarray]


class Enclosed(NamedTuple):
    """v^T f(K) v by Gauss's and by Gauss-Radau's rule, and v^T K v."""

    gauss: float
    radau: float
    first: float


def enclosed(products: Products, v: np.ndarray, f: Function, rtol: float, steps: int, weight: float = 0.0) -> Enclosed:
    """Of K >= 0, as soon as both agree to `rtol` max(|v^T f(K) v|, `weight` v^T K v), or after `steps` products."""
    square = float(v @ v)
    if square == 0:
        return Enclosed(0.0, 0.0, 0.0)
    basis, a, b = [v / square**0.5], [], []
    while True:
        w = products(basis[-1])
        a.append(float(basis[-1] @ w))
        w = _orthogonal(w, np.stack(basis))
        b.append(float(np.linalg.norm(w)))
        nodes, weights = _rule(a, b[:-1])
        products.check_semidefinite(nodes[0])
        gauss = float(weights @ f(nodes))
        rounding = 10 * products.eps * products.scale
        # The space is exhausted, and Gauss's rule exact, when nothing but rounding is left.
        exact = b[-1] <= rounding or len(a) == products.size
        node = min(-rounding, 2 * nodes[0])
        radau = gauss if exact else _radau(a, b, f, node)
        if abs(radau - gauss) <= rtol * max(abs(gauss), weight * a[0]) or len(a) >= steps:
            return Enclosed(square * gauss, square * radau, square * a[0])
        basis.append(w / b[-1])


def _orthogonal(w: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """w without its part in the rows of `basis`; twice is enough (Kahan), and no Ritz value appears twice."""
    for _ in range(2):
        w = w - basis.T @ (basis @ w)
    return w


def _rule(a: list[float], b: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Nodes, ascending, and weights: the eigenvalues of a tridiagonal matrix, and the squares of e_1 in its basis."""
    nodes, vectors = scipy.linalg.eigh_tridiagonal(np.array(a), np.array(b))
    return nodes, vectors[0] ** 2


def _radau(a: list[float], b: list[float], f: Function, node: float) -> float:
    """With the last diagonal entry so chosen that `node` is one (Golub and Meurant, section 6.2)."""
    bands = np.zeros((3, len(a)))
    bands[0, 1:], bands[1], bands[2, :-1] = b[:-1], np.array(a) - node, b[:-1]
    right = np.zeros(len(a))
    right[-1] = b[-1] ** 2
    last = node + scipy.linalg.solve_banded((1, 1), bands, right)[-1]
    nodes, weights = _rule([*a, float(last)], b)
    return float(weights @ f(nodes))
