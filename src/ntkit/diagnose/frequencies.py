"""Which frequencies finite networks learn first, against the eigenvalues of the infinite kernel.

Y. Cao, Z. Fang, Y. Wu, D. Zhou and Q. Gu, "Towards Understanding the Spectral Bias of Deep Learning", IJCAI 2021; B.
Bowman and G. Montufar, "Spectral Bias Outside the Training Set for Deep Networks in the Kernel Regime", NeurIPS 2022:
early in training, the part of the residual along an eigenfunction falls at the rate of its eigenvalue, at widths that
need only be linear in the number of examples.
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
from ntkit.predict._data import parse_number
from ntkit.spectral import mercer

# Steps that are taken without being asked for.
_PATIENCE = 20_000
# An eigenvalue below this share of the largest is one of a degree that the kernel does not have.
_NOTHING = 1e-9


@dataclasses.dataclass(frozen=True)
class FrequencyStudy:
    """What `frequency_study` found: w widths, s draws of each, k degrees.

    - `degrees` (k,), `eigenvalues` (k,): of the infinite NTK on the circle.
    - `learning_rate`; `predicted` (k,): learning_rate eigenvalue, the share of what is left that a step learns.
    - `widths` (w,); `examples`: n.
    - `rates` (w, s, k): the same as measured of each network.
    - `left` (w, s, steps + 1, k): what was left of each frequency, in units of what there was.
    """

    degrees: Int[np.ndarray, " k"]
    eigenvalues: Float[np.ndarray, " k"]
    learning_rate: float
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
        """How the relative deviation of the rates, |measured / predicted - 1| over the degrees, falls with the width:
        -1/2 in theory while networks stay near their start. NaN for a single width."""
        apart = np.linalg.norm(self.rates / self.predicted - 1, axis=2)
        several = len(np.unique(self.widths)) > 1
        return fit(self.widths.astype(float), apart) if several else Rate(math.nan, math.nan, math.nan)

    def __str__(self) -> str:
        lines = [f"{'width':>7}  {'width/n':>7}  {'degree':>6}  {'predicted':>10}  {'measured':>20}  {'ratio':>13}"]
        for width, means, errors in zip(self.widths, self.mean, self.standard_error, strict=True):
            for degree, own, mean, error in zip(self.degrees, self.predicted, means, errors, strict=True):
                lines.append(
                    f"{width:7}  {width / self.examples:7.3g}  {degree:6}  {own:10.4g}  {mean:10.4g} ± {error:7.1e}"
                    f"  {mean / own:5.3f} ± {error / own:.3f}"
                )
        slope, error, _ = self.convergence
        return "\n".join([*lines, *([f"deviation: width^({slope:.3f} ± {error:.3f})"] if slope == slope else [])])


def frequency_study(
    net: Layer,
    degrees: Iterable[int],
    widths: Iterable[int],
    seeds: int | Iterable[int] = 10,
    *,
    examples: int = 64,
    radius: float = 1.0,
    amplitude: float = 1.0,
    learning_rate: float | None = None,
    steps: int | None = None,
    progress: Progress = False,
) -> FrequencyStudy:
    """Trains finite networks on a sum of frequencies on the circle, and measures how fast each frequency is learned.

    The inputs are `examples` equally spaced points, n, on the circle of a radius, the target is amplitude sum_k phi_k
    with phi_k(x) = sqrt(2) cos(k angle) (1 for k = 0). Networks of each width (all hidden layers) are drawn and trained
    by gradient descent on sum_i (f(x_i) - f_0(x_i) - y_i)^2 / (2 n): the output at the start is subtracted, so that all
    of the target is to learn. With the infinite kernel phi_k is an eigenvector, and of its part each step leaves

        left_t = (1 - learning_rate lambda_k)^t

    with the eigenvalue lambda_k of `ntkit.mercer` (and of the frequencies n - k, n + k, ..., alike on the points). A
    measured rate is 1 - q, with log q the slope of log left_t through 0, by least squares over the steps until
    e^-1 is expected to be left. Smaller amplitudes move the network less: as amplitude tends to 0, what remains is the
    deviation of the kernel at the start.

    **Arguments:**

    - `net`: a network of rows with one output and the NTK parameterization, whose kernel depends on the angle.
    - `degrees`: frequencies, below n / 2. `widths`: hidden widths, such as `[n, 4 * n]`.
    - `seeds`: how many networks of each width, at least 2, or the seeds themselves. A network depends on its seed and
        on the place of its width in `widths`.
    - `learning_rate`: None for half of one over the largest eigenvalue of degrees 0 to the largest asked for.
    - `steps`: None until e^-1 is expected to be left of the slowest frequency. Less shorten what is fitted.
    - `progress`: a bar, or a function of the widths done and all. The dtype is JAX's default.

    **Raises:** `ntkit.InputError` for networks that `width_study` refuses, or of several outputs, for degrees whose
    eigenvalue is zero, such as odd ones above 1 of ReLU without biases, and for a learning rate of 1 over the largest
    eigenvalue or more; `ntkit.ComputationError` where training diverges.
    """
    entries, numbers = _checked_widths(widths), checked_seeds(seeds)
    n = check_count("examples", examples, 3)
    wanted = _checked_degrees(degrees, n)
    check_network(net, random=False)
    if net.shape((n, 2)) != (n, 1):
        raise InputError(f"`net` must have one output, but of rows of 2 numbers it has shape {net.shape((n, 2))}.")
    radius, amplitude = parse_number(radius, "radius"), parse_number(amplitude, "amplitude")
    values, rate = _spectrum(net, wanted, radius, learning_rate)
    spans = _spans(wanted, rate * values, steps)
    x, phi = _circle(n, wanted, radius)
    rates, left = [], []
    with Meter(progress, 0, len(entries), "frequencies", "widths") as meter:
        for at, width in enumerate(entries):
            meter(at)
            keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), at) for seed in numbers])
            paths = _paths(with_widths(net, width), x, phi, keys, amplitude, rate, max(spans))
            left.append(np.asarray(paths, np.float64) / amplitude)
            rates.append(_rates(left[-1], spans))
        meter(len(entries))
    return FrequencyStudy(np.array(wanted), values, rate, np.array(entries), n, np.array(rates), np.array(left))


def _spectrum(net: Layer, degrees: list[int], radius: float, rate: Any) -> tuple[np.ndarray, float]:
    """The eigenvalues of the degrees, and the learning rate."""
    every = mercer(NTK(net), 2, max(degrees), radius=radius).eigenvalues
    values, largest = every[degrees], float(every.max())
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


def _circle(n: int, degrees: list[int], radius: float) -> tuple[Array, Array]:
    """The examples (n, 2), and phi_k at them (n, k)."""
    angle = 2 * np.pi * np.arange(n) / n
    phi = np.stack([np.cos(k * angle) * (math.sqrt(2) if k else 1.0) for k in degrees], axis=1)
    kind = jnp.result_type(float)
    return jnp.asarray(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), kind), jnp.asarray(phi, kind)


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


def _checked_degrees(degrees: Any, n: int) -> list[int]:
    try:
        wanted = [check_count("degrees", degree, 0) for degree in degrees]
    except TypeError:
        wanted = []
    if not wanted or len(set(wanted)) < len(wanted) or 2 * max(wanted) >= n:
        raise InputError(
            f"`degrees` must be a list of different frequencies, 0 or more and below {n / 2:g}, half the number of "
            f"`examples`; got {degrees!r}."
        )
    return wanted
