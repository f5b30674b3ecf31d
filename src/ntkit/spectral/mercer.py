"""Mercer's decomposition of a kernel that depends on the angle only, on the circle and on spheres."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from ntkit._check import check_inputs
from ntkit.errors import ComputationError, InputError
from ntkit.linalg.products import check_count
from ntkit.predict._data import parse_number, precision
from ntkit.predict._evaluate import evaluate
from ntkit.spectral.harmonics import basis, gegenbauer, multiplicity, zonal
from ntkit.spectral.quadrature import Nodes, level_for, nodes, step

# Angles whose kernel is computed at once: one program for all of them.
_BLOCK = 1024
# No kernel needs as many halvings; 2^15 nodes are 2 seconds of a network of three layers.
_LEVELS = 6
# Harmonics of one degree whose number is one of float64.
_MOST = 10**300
_EPS = float(np.finfo(np.float64).eps)


@dataclasses.dataclass(frozen=True)
class Mercer:
    """k(x, y) = sum_k eigenvalue_k sum_j Y_kj(x) Y_kj(y) on the sphere of a radius: what `ntkit.mercer` returns.

    - `dimension`: d, of the space around the sphere S^(d-1); `radius`.
    - `degrees` (k,): of the harmonics Y_kj, orthonormal in the uniform probability measure.
    - `eigenvalues` (k,): of f -> E_y k(., y) f(y); `multiplicities` (k,): how many harmonics have each.
    - `errors` (k,): of the eigenvalues, by quadrature and rounding, on the safe side; the kernel's own comes on top.
    - `trace`: k(x, x), the sum of all eigenvalues with their multiplicities, of all degrees.
    - `evaluations`: values of the kernel that were computed.
    """

    dimension: int
    radius: float
    degrees: Int[np.ndarray, " k"]
    eigenvalues: Float[np.ndarray, " k"]
    multiplicities: Int[np.ndarray, " k"] | np.ndarray
    errors: Float[np.ndarray, " k"]
    trace: float
    evaluations: int

    @property
    def explained(self) -> float:
        """The share of the trace that these degrees have; the rest bounds |k - its sum over them| everywhere, over the
        trace. Eigenvalues within their error count as 0, there being so many harmonics of each in high dimensions."""
        return float(np.sum(self._weights())) / self.trace

    def eigenvalue(self, degree: int) -> float:
        """That of one degree."""
        return float(self.eigenvalues[self._place(degree)])

    def eigenfunctions(self, x: Float[Array | np.ndarray, "n d"], degree: int) -> Float[np.ndarray, "n j"]:
        """Orthonormal harmonics Y_kj(x) of a degree: on the circle sqrt(2) cos(k phi) and sqrt(2) sin(k phi)."""
        return basis(self.dimension, self._known(degree), self._unit("x", x))

    def zonal(
        self, x1: Float[Array | np.ndarray, "n d"], x2: Float[Array | np.ndarray, "m d"], degree: int
    ) -> Float[np.ndarray, "n m"]:
        """sum_j Y_kj(x1) Y_kj(x2) = N P_k(cos angle): for each x2 the one that depends on the angle to it alone."""
        cosine = self._unit("x1", x1) @ self._unit("x2", x2).T
        return float(multiplicity(self.dimension, self._known(degree))) * zonal(self.dimension, degree, cosine)

    def __call__(
        self, x1: Float[Array | np.ndarray, "n d"], x2: Float[Array | np.ndarray, "m d"] | None = None
    ) -> Float[np.ndarray, "n m"]:
        """The sum over these degrees, which is the kernel but for `1 - explained` of its trace."""
        first = self._unit("x1", x1)
        cosine = np.clip(first @ (first if x2 is None else self._unit("x2", x2)).T, -1.0, 1.0)
        total, wanted = np.zeros_like(cosine), dict(zip(self.degrees.tolist(), self._weights().tolist(), strict=True))
        for k, value in enumerate(gegenbauer(self.dimension, max(wanted), 1 - np.abs(cosine), cosine < 0)):
            total += wanted.get(k, 0.0) * value
        return total

    def _weights(self) -> Float[np.ndarray, " k"]:
        """What each degree adds to k(x, x)."""
        return np.where(self.eigenvalues > self.errors, self.eigenvalues, 0) * self.multiplicities.astype(float)

    def _place(self, degree: int) -> int:
        found = np.flatnonzero(self.degrees == check_count("degree", degree, 0))
        if not len(found):
            raise InputError(f"Degree {degree} was not asked for: `degrees` are {self.degrees.tolist()}.")
        return int(found[0])

    def _known(self, degree: Any) -> int:
        return check_count("degree", degree, 0)

    def _unit(self, name: str, x: Any) -> Float[np.ndarray, "n d"]:
        x = np.asarray(check_inputs(name, x, max_ndim=2), np.float64)
        lengths = np.linalg.norm(x, axis=1, keepdims=True)
        if x.shape[1] != self.dimension or not np.allclose(lengths, self.radius, rtol=1e-5):
            raise InputError(
                f"`{name}` must hold points (n, {self.dimension}) on the sphere of radius {self.radius:g}, but has "
                f"shape {x.shape} and lengths from {lengths.min():g} to {lengths.max():g}."
            )
        return x / lengths

    def __str__(self) -> str:
        lines = [f"{'degree':>8}  {'eigenvalue':>12}  {'error':>8}  {'times':>8}  {'of trace':>8}"]
        rows = zip(self.degrees, self.eigenvalues, self.errors, self.multiplicities, self._weights(), strict=True)
        for degree, value, error, times, weight in rows:
            many = f"{times:8}" if times < 10**8 else f"{float(times):8.2g}"
            lines.append(f"{degree:8}  {value:12.5e}  {error:8.1e}  {many}  {weight / self.trace:8.2%}")
        where = "circle" if self.dimension == 2 else f"sphere in {self.dimension} dimensions"
        return "\n".join([*lines, f"{self.explained:.3%} of k(x, x) = {self.trace:.5g} on the {where}"])


def mercer(
    kernel: Any, dimension: int, degrees: int | Iterable[int], *, radius: float = 1.0, tol: float = 1e-10
) -> Mercer:
    """The eigenvalue of each degree of a kernel that depends on the angle only, on the sphere in R^dimension.

    By Funk and Hecke's theorem all harmonics of degree k are eigenfunctions of f -> E_y k(., y) f(y), y uniform on the
    sphere, with the eigenvalue

        lambda_k = c_d integral_0^pi kappa(theta) P_k(cos theta) sin(theta)^(d-2) d theta,
        c_d = Gamma(d / 2) / (sqrt(pi) Gamma((d - 1) / 2))

    where kappa(theta) is the kernel at that angle and P_k Gegenbauer's polynomial with P_k(1) = 1. Kernels of networks
    are singular at cos theta = 1 and -1 (sqrt(1 - cos theta), Bietti and Bach 2021), mostly not in theta, and never at
    harm: the rule is a double exponential one in theta. Its step is halved until no eigenvalue moves by more than
    `tol` times the integral of the absolute value, which is k(x, x) at most, and small in high dimensions; the last
    move and rounding are `errors`. Computed in float64.

    **Arguments:**

    - `kernel`: `NTK(net)` or `NNGP(net)` of a dense network with any activation, sums and products of such, or any
        callable kernel(x1, x2). At two points of the sphere it must depend on their angle alone, which is looked at.
    - `dimension`: d >= 2; 2 is the circle.
    - `degrees`: a list of degrees, or K for 0, ..., K.
    - `radius`: of the sphere. Kernels of ntkit divide by d: inputs with entries of variance 1 have radius sqrt(d).

    **Raises:** `ntkit.InputError` for a kernel that depends on more than the angle; `ntkit.ComputationError` where
    `tol` is not reached, as for kernels with a kink at other angles, and for one that is not positive semi-definite.

    Equivalent on the circle to `numpy.fft.rfft` of kernel(x[:1], x)[0] / n at n equally spaced points, n to infinity.

    **Source:** F. Bach, "Breaking the Curse of Dimensionality with Convex Neural Networks", JMLR 2017, appendix D; A.
    Bietti and J. Mairal, "On the Inductive Bias of Neural Tangent Kernels", NeurIPS 2019, section 3.
    """
    dimension, wanted = check_count("dimension", dimension, 2), _checked_degrees(degrees)
    counts = [multiplicity(dimension, k) for k in wanted]
    if max(counts) > _MOST:
        raise InputError(
            f"`degrees` holds {max(wanted)}, of which there are more than 1e300 harmonics in {dimension} dimensions: "
            "their eigenvalue is no number of float64. Ask for lower degrees."
        )
    radius, tol = parse_number(radius, "radius"), parse_number(tol, "tol")
    values, errors, trace, evaluations = _integrated(_Profile(kernel, dimension, radius), wanted, tol)
    allowed = np.maximum(errors, tol * trace)
    if (values < -allowed).any():
        worst = int(np.argmin(values))
        raise ComputationError(
            f"`kernel` is not positive semi-definite on the sphere: its eigenvalue of degree {wanted[worst]} is "
            f"{values[worst]:.3e}, with an error of {errors[worst]:.1e}."
        )
    times = np.array(counts, np.int64 if max(counts) < 2**62 else object)
    return Mercer(dimension, radius, np.array(wanted), values, times, errors, trace, evaluations)


def _integrated(profile: "_Profile", degrees: list[int], tol: float) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Eigenvalues, their errors, k(x, x), and the number of values it took."""
    level = level_for(max(degrees), profile.dimension)
    sums, sizes = profile.sums(nodes(level, first=True), degrees)
    trace, values = profile.trace, step(level) * sums
    for finer in range(level + 1, level + 1 + _LEVELS):
        more, larger = profile.sums(nodes(finer, first=False), degrees)
        sums, sizes, before = sums + more, sizes + larger, values
        values = step(finer) * sums
        moved = np.abs(values - before)
        if (moved <= tol * step(finer) * sizes).all():
            # At a node the phase of P_k is rounded by k eps, and sin^(d-2) by d eps, independently of other nodes,
            # whose number grows with k.
            rounding = 4 * _EPS * step(finer) * sizes * np.sqrt(profile.dimension + np.array(degrees))
            return values, moved + rounding, trace, profile.evaluations
    raise ComputationError(
        f"The eigenvalues still move by {moved.max():.1e} after {profile.evaluations} values of `kernel`, of a size of "
        f"{trace:.1e}, which is more than `tol` = {tol:.1e}. Is it smooth but at the angles 0 and pi? Else raise `tol`."
    )


class _Profile:
    """The kernel as a function of the angle."""

    def __init__(self, kernel: Any, dimension: int, radius: float):
        self._kernel, self.dimension, self._radius = kernel, dimension, radius
        self.evaluations = 0
        self.trace = float(self._values(np.zeros(1), np.zeros(1, bool), np.eye(2, dimension))[0])
        if not self.trace > 0:
            raise InputError(
                f"`kernel` must be positive at two equal points, but on this sphere it is {self.trace} there."
            )
        self._check_angle()

    def sums(self, at: Nodes, degrees: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """The sums over nodes for each degree, and those of the absolute terms: what rounding is proportional to."""
        d = self.dimension
        kappa = self._values(at.distance, at.far, np.eye(2, d))
        terms = _constant(d) * kappa * at.weight * np.sin(at.distance) ** (d - 2)
        gap = 2 * np.sin(at.distance / 2) ** 2
        found = {}
        for k, value in enumerate(gegenbauer(d, max(degrees), gap, at.far)):
            if k in degrees:
                found[k] = (float(terms @ value), float(np.abs(terms) @ np.abs(value)))
        sums, sizes = np.array([found[k] for k in degrees]).T
        return sums, sizes

    def _check_angle(self) -> None:
        """The same values in a frame that is turned."""
        d = self.dimension
        angles = np.linspace(0, np.pi / 2, 9)
        near, far = np.tile(angles, 2), np.repeat([False, True], 9)
        turned = np.linalg.qr(np.random.default_rng(0).standard_normal((d, 2)))[0].T
        values, others = (self._values(near, far, frame) for frame in (np.eye(2, d), turned))
        apart = float(np.abs(values - others).max())
        if apart > 1e-8 * self.trace:
            raise InputError(
                "`kernel` must depend on the angle between two points of the sphere alone, but it changes by "
                f"{apart:.1e} where both are turned. For other kernels `ntkit.nystrom` has the eigenfunctions on data."
            )

    def _values(self, distance: np.ndarray, far: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """kappa at angles, given by their distance from the nearer end, in the plane of the frame's two rows."""
        found = []
        with precision(np.dtype(np.float64)):
            for start in range(0, len(distance), _BLOCK):
                own, end = distance[start : start + _BLOCK], far[start : start + _BLOCK]
                points = np.zeros((_BLOCK, 2))
                points[: len(own), 0], points[: len(own), 1] = np.where(end, -1, 1) * np.cos(own), np.sin(own)
                points[len(own) :, 0] = 1.0
                values = evaluate(self._kernel, self._radius * frame[None, 0], self._radius * (points @ frame))
                if isinstance(values, tuple):
                    raise InputError("`kernel` has several matrices. Take one: `ntkit.NTK(net)` or `ntkit.NNGP(net)`.")
                found.append(np.asarray(values, np.float64)[0, : len(own)])
        self.evaluations += len(distance)
        return np.concatenate(found)


def _constant(dimension: int) -> float:
    """c_d by c_(d+2) = c_d d / (d - 1): logarithms of gamma functions would lose digits."""
    first = 2 + dimension % 2
    return (0.5 if first == 3 else 1 / math.pi) * math.prod(j / (j - 1) for j in range(first, dimension, 2))


def _checked_degrees(degrees: Any) -> list[int]:
    if isinstance(degrees, (int, np.integer)):
        return list(range(check_count("degrees", degrees, 0) + 1))
    try:
        wanted = [check_count("degrees", k, 0) for k in degrees]
    except TypeError:
        wanted = []
    if not wanted or len(set(wanted)) < len(wanted):
        raise InputError(f"`degrees` must be a whole number, or a list of different ones >= 0; got {degrees!r}.")
    return wanted
