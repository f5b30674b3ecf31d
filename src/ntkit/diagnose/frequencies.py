"""Which frequencies finite networks learn first, against the eigenvalues of the infinite kernel.

Y. Cao, Z. Fang, Y. Wu, D. Zhou and Q. Gu, "Towards Understanding the Spectral Bias of Deep Learning", IJCAI 2021; B.
Bowman and G. Montufar, "Spectral Bias Outside the Training Set for Deep Networks in the Kernel Regime", NeurIPS 2022:
early in training, the part of the residual along an eigenfunction falls at the rate of its eigenvalue, at widths that
need only be linear in the number of examples. On the circle: R. Basri, D. Jacobs, Y. Kasten and S. Kritchman, "The
Convergence Rate of Neural Networks for Learned Functions of Different Frequencies", NeurIPS 2019.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from ntkit._progress import Meter, Progress
from ntkit.diagnose.rates import Rate, checked_seeds, fit
from ntkit.diagnose.widths import check_network
from ntkit.errors import ComputationError, InputError
from ntkit.kernels import NTK
from ntkit.linalg.products import check_count
from ntkit.nn import Layer
from ntkit.nn.widths import with_widths
from ntkit.predict._data import parse_number, precision
from ntkit.spectral import Mercer, mercer
from ntkit.spectral.harmonics import multiplicity, zonal

# Steps that are taken without being asked for.
_PATIENCE = 20_000
# Examples of a study that is not told how many: on the circle, and at least on a sphere.
_ON_CIRCLE, _ON_SPHERE = 64, 240
# An eigenvalue below this share of the largest is one of a degree that the kernel does not have.
_NOTHING = 1e-9


@dataclasses.dataclass(frozen=True)
class FrequencyStudy:
    """What `frequency_study` found: w widths, s draws of each, k degrees.

    - `dimension`: d, of the space around the sphere; 2 for the circle.
    - `degrees` (k,), `eigenvalues` (k,): of the infinite NTK on the whole sphere.
    - `learning_rate`; `predicted` (k,): learning_rate eigenvalue, the share of what is left that a step learns.
    - `expected` (k,): the same of the infinite NTK on the examples, measured as that of networks: it differs from
        `predicted` by what n points miss of the sphere, and networks tend to it as their width grows.
    - `widths` (w,); `examples`: n.
    - `rates` (w, s, k): the same as measured of each network.
    - `left` (w, s, steps + 1, k): what was left of each frequency, in units of what there was; `infinite`
        (steps + 1, k): of the infinite NTK on the examples.
    """

    dimension: int
    degrees: Int[np.ndarray, " k"]
    eigenvalues: Float[np.ndarray, " k"]
    learning_rate: float
    expected: Float[np.ndarray, " k"]
    infinite: Float[np.ndarray, "t k"]
    widths: Int[np.ndarray, " w"]
    examples: int
    rates: Float[np.ndarray, "w s k"]
    left: Float[np.ndarray, "w s t k"]

    @property
    def predicted(self) -> Float[np.ndarray, " k"]:
        return self.learning_rate * self.eigenvalues

    @property
    def mean(self) -> Float[np.ndarray, "w k"]:
        return self.rates.mean(axis=1)

    @property
    def standard_error(self) -> Float[np.ndarray, "w k"]:
        """Of the mean over the draws."""
        return self.rates.std(axis=1, ddof=1) / math.sqrt(self.rates.shape[1])

    @property
    def convergence(self) -> Rate:
        """How the relative deviation of the rates, |measured / expected - 1| over the degrees, falls with the width:
        -1/2 in theory while networks stay near their start. NaN for a single width."""
        apart = np.linalg.norm(self.rates / self.expected - 1, axis=2)
        several = len(np.unique(self.widths)) > 1
        return fit(self.widths.astype(float), apart) if several else Rate(math.nan, math.nan, math.nan)

    def __str__(self) -> str:
        heads = f"{'width':>7}  {'width/n':>7}  {'degree':>6}  {'predicted':>10}  {'on points':>10}"
        lines = [f"{heads}  {'measured':>20}  {'ratio':>13}"]
        columns = self.degrees, self.predicted, self.expected
        for width, means, errors in zip(self.widths, self.mean, self.standard_error, strict=True):
            for degree, whole, own, mean, error in zip(*columns, means, errors, strict=True):
                lines.append(
                    f"{width:7}  {width / self.examples:7.3g}  {degree:6}  {whole:10.4g}  {own:10.4g}"
                    f"  {mean:10.4g} ± {error:7.1e}  {mean / own:5.3f} ± {error / own:.3f}"
                )
        slope, error, _ = self.convergence
        return "\n".join([*lines, *([f"deviation: width^({slope:.3f} ± {error:.3f})"] if slope == slope else [])])


def frequency_study(
    net: Layer,
    degrees: Iterable[int],
    widths: Iterable[int],
    seeds: int | Iterable[int] = 10,
    *,
    dimension: int = 2,
    examples: int | None = None,
    radius: float = 1.0,
    amplitude: float = 1.0,
    learning_rate: float | None = None,
    steps: int | None = None,
    progress: Progress = False,
) -> FrequencyStudy:
    """Trains finite networks on a sum of frequencies on a sphere, and measures how fast each frequency is learned.

    The inputs are `examples` points, n, on the sphere of a radius in R^d, d the `dimension`; the target is amplitude
    sum_k phi_k, with of each degree the harmonic that depends on the first coordinate alone,

        phi_k(x) = sqrt(N_k) P_k(x_1 / radius),      on the circle sqrt(2) cos(k angle), and 1 for k = 0

    where there are N_k harmonics of degree k and P_k is Gegenbauer's polynomial with P_k(1) = 1. Networks of each width
    (all hidden layers) are drawn and trained by gradient descent on sum_i (f(x_i) - f_0(x_i) - y_i)^2 / (2 n): the
    output at the start is subtracted, so that all of the target is to learn. What is left of a frequency is the mean
    of phi_k times the residual. With the infinite kernel phi_k is an eigenfunction, and of its part each step leaves

        left_t = (1 - learning_rate lambda_k)^t

    with the eigenvalue lambda_k of `ntkit.mercer` (on the circle, and of the frequencies n - k, n + k, ..., alike on
    the points). A measured rate is 1 - q, with log q the slope of log left_t through 0, by least squares over the steps
    until e^-1 is expected to be left. Smaller amplitudes move the network less: as amplitude tends to 0, what remains
    is the deviation of the kernel at the start.

    *The points.* On the circle they are equally spaced. On spheres they are crosses, {+-e_1, ..., +-e_d} turned by
    random rotations (of NumPy's seed 0): a spherical 3-design, whose mean of any polynomial of degree 3 is that over
    the sphere. Means of higher degrees err by the order of n^(-1/2). The phi_k are therefore made orthonormal on the
    points, by Gram and Schmidt in the order of falling eigenvalues: as eigenvectors are orthogonal, what is learned
    late then has no part in what is learned early. What n points miss of the sphere besides (the eigenvalues of a
    degree part, and the tail of the spectrum adds to each) is the same for all networks: `expected` is what the
    infinite kernel does on the very same points.

    **Arguments:**

    - `net`: a network of rows with one output and the NTK parameterization, whose kernel depends on the angle.
    - `degrees`: frequencies: on the circle below n / 2, on spheres such that there are fewer harmonics of all degrees
        to the largest than examples. `widths`: hidden widths, such as `[n, 4 * n]`.
    - `seeds`: how many networks of each width, at least 2, or the seeds themselves. A network depends on its seed and
        on the place of its width in `widths`.
    - `dimension`: d, 2 for the circle. `examples`: n, on spheres a multiple of 2 d; None for 64 on the circle, and for
        the first multiple of 2 d from 240 on.
    - `learning_rate`: None for half of one over the largest eigenvalue of degrees 0 to the largest asked for.
    - `steps`: None until e^-1 is expected to be left of the slowest frequency. Less shorten what is fitted.
    - `progress`: a bar, or a function of the widths done and all. The dtype is JAX's default.

    **Raises:** `ntkit.InputError` for networks that `width_study` refuses, or of several outputs, for degrees whose
    eigenvalue is zero, such as odd ones above 1 of ReLU without biases, and for a learning rate of 1 over the largest
    eigenvalue or more; `ntkit.ComputationError` where training diverges.
    """
    entries, numbers = _checked_widths(widths), checked_seeds(seeds)
    d = check_count("dimension", dimension, 2)
    n = _checked_examples(examples, d)
    wanted = _checked_degrees(degrees, d, n)
    check_network(net, random=False)
    if net.shape((n, d)) != (n, 1):
        raise InputError(f"`net` must have one output, but of rows of {d} numbers it has shape {net.shape((n, d))}.")
    radius, amplitude = parse_number(radius, "radius"), parse_number(amplitude, "amplitude")
    values, rate = _spectrum(mercer(NTK(net), d, max(wanted), radius=radius), wanted, learning_rate)
    spans = _spans(wanted, rate * values, steps)
    unit = _points(d, n)
    phi = _orthonormal(_harmonics(unit, wanted), np.argsort(-values, kind="stable"))
    infinite = _infinite(NTK(net), radius * unit, phi, rate, max(spans))
    x, goals = (jnp.asarray(array, jnp.result_type(float)) for array in (radius * unit, phi))
    rates, left = [], []
    with Meter(progress, 0, len(entries), "frequencies", "widths") as meter:
        for at, width in enumerate(entries):
            meter(at)
            keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), at) for seed in numbers])
            paths = _paths(with_widths(net, width), x, goals, keys, amplitude, rate, max(spans))
            left.append(np.asarray(paths, np.float64) / amplitude)
            rates.append(_rates(left[-1], spans))
        meter(len(entries))
    expected = _rates(infinite[None], spans)[0]
    return FrequencyStudy(
        d, np.array(wanted), values, rate, expected, infinite, np.array(entries), n, np.array(rates), np.array(left)
    )


def _spectrum(found: Mercer, degrees: list[int], rate: Any) -> tuple[np.ndarray, float]:
    """The eigenvalues of the degrees, and the learning rate."""
    values, largest = found.eigenvalues[degrees], float(found.eigenvalues.max())
    for degree, value in zip(degrees, values, strict=True):
        if value < _NOTHING * largest:
            raise InputError(
                f"`degrees` holds {degree}, whose eigenvalue is zero ({value:.1e}): the infinite network never learns "
                "it. Leave it out, or give the layers biases (`b_std`), which ReLU needs for odd degrees above 1."
            )
    if rate is None:
        return values, 0.5 / largest
    rate = parse_number(rate, "learning_rate")
    if rate * largest >= 1:
        raise InputError(
            f"`learning_rate` must be below {1 / largest:.4g}, 1 over the largest eigenvalue; got {rate}. Beyond, a "
            "step turns the sign of what is left."
        )
    return values, rate


def _spans(degrees: list[int], predicted: np.ndarray, steps: Any) -> list[int]:
    """Of each frequency the steps that are fitted: until e^-1 is expected to be left, and two at least."""
    spans = [max(2, math.ceil(-1 / math.log1p(-p))) for p in predicted.tolist()]
    if steps is not None:
        return [min(span, check_count("steps", steps, 2)) for span in spans]
    if max(spans) > _PATIENCE:
        raise InputError(
            f"Degree {degrees[int(np.argmax(spans))]} needs {max(spans)} steps. Say how many with `steps`: what is "
            "left after fewer is fitted as well; or raise `learning_rate`."
        )
    return spans


def _points(d: int, n: int) -> Float[np.ndarray, "n d"]:
    """The examples, of length 1."""
    if d == 2:
        angle = 2 * np.pi * np.arange(n) / n
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # Uniform rotations but for the signs of the columns, of which there are both.
    frames = np.linalg.qr(np.random.default_rng(0).standard_normal((n // (2 * d), d, d)))[0]
    rows = frames.swapaxes(1, 2).reshape(-1, d)
    return np.concatenate([rows, -rows])


def _harmonics(unit: Float[np.ndarray, "n d"], degrees: list[int]) -> Float[np.ndarray, "n k"]:
    """phi_k at unit vectors: of mean square 1 over the sphere."""
    d = unit.shape[1]
    return np.stack([math.sqrt(multiplicity(d, k)) * zonal(d, k, unit[:, 0]) for k in degrees], axis=1)


def _orthonormal(phi: Float[np.ndarray, "n k"], order: np.ndarray) -> Float[np.ndarray, "n k"]:
    """The same with means of products 1 and 0 on the points: of each what those before it in the order lack."""
    q, r = np.linalg.qr(phi[:, order])
    found = np.empty_like(phi)
    found[:, order] = q * np.sign(np.diagonal(r)) * math.sqrt(len(phi))
    return found


def _infinite(kernel: Any, x: np.ndarray, phi: np.ndarray, rate: float, steps: int) -> Float[np.ndarray, "t k"]:
    """What is left of each phi_k after 0, ..., steps steps with the infinite kernel on the points, in float64:
    phi^T (1 - rate K / n)^t sum_k phi_k / n."""
    with precision(np.dtype(np.float64)):
        matrix = np.asarray(kernel(jnp.asarray(x)), np.float64)
    values, vectors = np.linalg.eigh(matrix / len(x))
    weights = (phi.T @ vectors) * (vectors.T @ phi.sum(axis=1)) / len(x)
    return (1 - rate * values) ** np.arange(steps + 1)[:, None] @ weights.T


@eqx.filter_jit
def _paths(net: Layer, x: Array, phi: Array, keys: Array, amplitude: Any, rate: Any, steps: int) -> Array:
    """(s, steps + 1, k): the part of what is left along each phi_k, of each network in turn."""
    target = amplitude * jnp.sum(phi, axis=1)

    def trained(key: Array) -> Array:
        start = net.init(key, x.shape, dtype=x.dtype)
        goal = target + net.apply(start, x)[:, 0]

        def cost(params: Any) -> tuple[Array, Array]:
            rest = goal - net.apply(params, x)[:, 0]
            return rest @ rest / (2 * len(x)), phi.T @ rest / len(x)

        def step(params: Any, _: None) -> tuple[Any, Array]:
            slope, parts = jax.grad(cost, has_aux=True)(params)
            return jax.tree.map(lambda p, g: p - rate * g, params, slope), parts

        return lax.scan(step, start, length=steps + 1)[1]

    return lax.map(trained, keys)


def _rates(left: Float[np.ndarray, "s t k"], spans: list[int]) -> Float[np.ndarray, "s k"]:
    """1 - q of each network and frequency; of a path that reaches 0 up to there, and 1 where that is the first step."""
    if not np.isfinite(left).all():
        raise ComputationError("Training diverged: what is left is not finite. Lower `learning_rate`.")
    rates = np.ones((left.shape[0], left.shape[2]))
    for (s, k), _ in np.ndenumerate(rates):
        path = left[s, : spans[k] + 1, k]
        ends = np.flatnonzero(path <= 0)
        path = path[: ends[0]] if len(ends) else path
        t = np.arange(len(path))
        if len(path) > 1:
            rates[s, k] = -math.expm1(float(t @ np.log(path)) / float(t @ t))
    return rates


def _checked_widths(widths: Any) -> list[int]:
    try:
        entries = [check_count("widths", width, 1) for width in widths]
    except TypeError:
        entries = []
    if not entries:
        raise InputError(f"`widths` must be a list of hidden widths, such as [64, 256]; got {widths!r}.")
    return entries


def _checked_examples(examples: Any, d: int) -> int:
    if d == 2:
        return check_count("examples", _ON_CIRCLE if examples is None else examples, 3)
    n = 2 * d * math.ceil(_ON_SPHERE / (2 * d)) if examples is None else check_count("examples", examples, 2 * d)
    if n % (2 * d):
        raise InputError(
            f"`examples` must be a multiple of {2 * d}, twice the dimension, as the points are crosses turned; got "
            f"{examples}. Take {2 * d * math.ceil(n / (2 * d))}."
        )
    return n


def _checked_degrees(degrees: Any, d: int, n: int) -> list[int]:
    try:
        wanted = [check_count("degrees", degree, 0) for degree in degrees]
    except TypeError:
        wanted = []
    # On the circle 1 + 2 max(degrees) <= n, which is max(degrees) < n / 2.
    if not wanted or len(set(wanted)) < len(wanted) or _harmonics_to(d, max(wanted)) > n:
        most = max((k for k in range(n) if _harmonics_to(d, k) <= n), default=0)
        raise InputError(
            f"`degrees` must be a list of different frequencies from 0 to {most}: up to there are fewer harmonics than "
            f"examples, {n}; got {degrees!r}."
        )
    return wanted


def _harmonics_to(d: int, degree: int) -> int:
    """How many harmonics there are of all degrees to this."""
    return math.comb(degree + d - 1, d - 1) + (math.comb(degree + d - 2, d - 1) if degree else 0)
