"""Spherical harmonics in any dimension: how many, the zonal ones, and orthonormal ones.

Normalised by the uniform probability measure on S^(d-1): an orthonormal basis Y_1, ..., Y_N of the harmonics of degree
k obeys sum_j Y_j(x) Y_j(y) = N P_k(x . y), where P_k is Gegenbauer's polynomial of index (d - 2) / 2 with P_k(1) = 1,
that is cos(k theta) on the circle and Legendre's for d = 3. C. Müller, "Spherical Harmonics", 1966; K. Atkinson and W.
Han, "Spherical Harmonics and Approximations on the Unit Sphere", 2012, section 2.
"""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from ntkit.errors import InputError

# Harmonics of one degree whose basis is formed: it takes the square of it.
MOST = 4000


def multiplicity(dimension: int, degree: int) -> int:
    """N(d, k): linearly independent harmonics of degree k on the sphere in R^d (Atkinson and Han, eq. 2.10)."""
    lower = math.comb(degree + dimension - 3, dimension - 1) if degree >= 2 else 0
    return math.comb(degree + dimension - 1, dimension - 1) - lower


def gegenbauer(
    dimension: int, degree: int, gap: Float[np.ndarray, "..."], far: Bool[np.ndarray, "..."]
) -> Iterator[Float[np.ndarray, "..."]]:
    """P_0, ..., P_degree at t = 1 - gap, or at t = gap - 1 where `far`; 0 <= gap <= 1.

    The recursion is that of the differences D_k = P_k - P_(k-1) (Reinsch), which loses no digits near t = 1:

        (k + d - 2) D_(k+1) = k D_k - (2 k + d - 2) gap P_k
    """
    sign = np.where(far, -1.0, 1.0)
    value, difference = np.ones_like(gap), -gap
    yield value
    for k in range(1, degree + 1):
        value = value + difference
        yield value if k % 2 == 0 else sign * value
        difference = (k * difference - (2 * k + dimension - 2) * gap * value) / (k + dimension - 2)


def zonal(dimension: int, degree: int, cosine: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """P_k at cosines between -1 and 1."""
    cosine = np.clip(cosine, -1.0, 1.0)
    for value in gegenbauer(dimension, degree, 1 - np.abs(cosine), cosine < 0):
        last = value
    return last


def basis(dimension: int, degree: int, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
    """An orthonormal basis of the harmonics of a degree at unit vectors.

    On the circle sqrt(2) cos(k phi) and sqrt(2) sin(k phi). Elsewhere it is made of zonal functions P_k(x . z) around
    twice as many centres z as there are harmonics, drawn once and for all: their scalar products are P_k(z . z') / N.
    """
    count = multiplicity(dimension, degree)
    if degree == 0:
        return np.ones((len(x), 1))
    if dimension == 2:
        angle = degree * np.arctan2(x[:, 1], x[:, 0])
        return math.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if count > MOST:
        raise InputError(
            f"There are {count} harmonics of degree {degree} on the sphere in {dimension} dimensions; a basis is "
            f"formed of {MOST} at most. `zonal` has their sum, which needs none."
        )
    centres = np.random.default_rng(0).standard_normal((2 * count, dimension))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(zonal(dimension, degree, centres @ centres.T) / count)
    return zonal(dimension, degree, x @ centres.T) @ (vectors[:, -count:] / np.sqrt(values[-count:]))
