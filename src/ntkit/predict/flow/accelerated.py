"""The limits of small steps of the momentum methods: equations of second order in time, in closed form.

B. Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Computational Mathematics and
Mathematical Physics 4 (1964), for the heavy ball; W. Su, S. Boyd and E. Candes, "A differential equation for modeling
Nesterov's accelerated gradient method", JMLR 17 (2016), eq. 3 and section 3.2.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Bool, Float

from ntkit.errors import InputError
from ntkit.linalg import Spectrum
from ntkit.predict._data import parse_number
from ntkit.predict._times import parse_times
from ntkit.predict.flow.spectral import Spectral
from ntkit.predict.flow.trajectory import Problem

Values = Float[np.ndarray, " n"]
Where = Bool[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class HeavyBallFlow:
    """theta'' + friction theta' + learning_rate grad C = 0, from rest: a ball that rolls down C.

    `HeavyBall(step, momentum)` with small steps, at time t = k sqrt(step) for k steps, has the friction
    (1 - momentum) / sqrt(step). With much friction it is gradient flow at time t / friction; with none, which is
    allowed, it never comes to rest.
    """

    friction: float

    def __post_init__(self):
        parse_number(self.friction, "friction", zero=True)

    def learned(self, speed: Values, time: float) -> Values:
        """(1 - q) / speed^2 at a finite time, where q'' + friction q' + speed^2 q = 0, q(0) = 1, q'(0) = 0."""
        return time**2 * rolled(speed * time, 0.5 * self.friction * time)

    def resistance(self, time: Any, velocity: Any, force: Any) -> Any:
        """What friction takes from the acceleration."""
        return self.friction * velocity

    @property
    def rests(self) -> bool:
        """Whether it comes to rest."""
        return self.friction > 0


@dataclasses.dataclass(frozen=True)
class NesterovFlow:
    """theta'' + (3 / t) theta' + learning_rate grad C = 0, from rest: Nesterov's method with its growing momentum.

    The momentum of step k is (k - 1) / (k + 2), and t = k sqrt(step). On the squared loss a component of speed w is
    left by 2 J_1(w t) / (w t), which decays as t^(-3/2).
    """

    rests = True

    def learned(self, speed: Values, time: float) -> Values:
        """(1 - q) / speed^2 at a finite time, where q'' + (3 / t) q' + speed^2 q = 0, q(0) = 1, q'(0) = 0."""
        z = speed * time
        small = z < 0.5
        safe = np.where(small, 1.0, z)
        near = np.polyval(_BESSEL, np.where(small, z, 0.0) ** 2)
        return time**2 * np.where(small, near, (1 - 2 * scipy.special.j1(safe) / safe) / safe**2)

    def resistance(self, time: Any, velocity: Any, force: Any) -> Any:
        """What friction takes from the acceleration. At the start the velocity is t acceleration, which is a quarter of
        the force."""
        late = time > 0
        return jnp.where(late, 3 * velocity / jnp.where(late, time, 1.0), 0.75 * force)


# (1 - 2 J_1(z) / z) / z^2 as a polynomial in z^2, highest power first: seven terms are enough for z < 1 / 2.
_ORDER = np.arange(6, -1, -1)
_BESSEL = (-0.25) ** _ORDER / (4 * scipy.special.factorial(_ORDER + 1) * scipy.special.factorial(_ORDER + 2))


def rolled(z: Values, m: float) -> Values:
    """(1 - q) / z^2 of an oscillator that starts at rest at 1: q = exp(-m) (cosh h + m sinh(h) / h), h^2 = m^2 - z^2.

    With the roots rho, kappa = m -+ h it is (E(rho) - E(kappa)) / (kappa - rho), E(x) = (1 - exp(-x)) / x, an integral
    of r exp(-m r) sinh(h r) / (h r) over [0, 1]. Each of the three ways is taken where it loses no digits.
    """
    square = (m - z) * (m + z)
    h = np.sqrt(np.abs(square))
    over = square > 0
    apart = over & (2 * h >= m)
    return np.where(m + h < 4, _integral(m, h, over), np.where(apart, _by_roots(z, m, h), _by_value(z, m, h, over)))


# Gauss-Legendre on [0, 1]: exact to rounding where m + h < 4.
_NODES, _WEIGHTS = (v / 2 for v in np.polynomial.legendre.leggauss(24))
_NODES = _NODES + 0.5


def _integral(m: float, h: Values, over: Where) -> Values:
    h = np.minimum(h, 4.0)  # elsewhere another way is taken
    hr = h[:, None] * _NODES
    ratio = np.where(over[:, None], np.sinh(hr) / np.where(hr > 0, hr, 1.0), np.sinc(hr / np.pi))
    ratio = np.where(hr > 0, ratio, 1.0)
    return ratio @ (_WEIGHTS * _NODES * np.exp(-min(m, 4.0) * _NODES))


def _by_roots(z: Values, m: float, h: Values) -> Values:
    """Roots that are far apart: the slow one from the product of both, z^2."""
    kappa = np.maximum(m + h, 1e-300)
    rho = z**2 / kappa
    slow = np.where(rho > 0, -np.expm1(-rho) / np.where(rho > 0, rho, 1.0), 1.0)
    return (slow + np.expm1(-kappa) / kappa) / np.where(h > 0, 2 * h, 1.0)


def _by_value(z: Values, m: float, h: Values, over: Where) -> Values:
    """Roots that are near to each other or complex, and not small: q itself is not near 1."""
    safe = np.where(h > 0, h, 1.0)
    narrow = np.where(over, np.minimum(h, m), 0.0)  # no overflow where another branch is taken
    sinh = np.where(h > 0, -np.exp(narrow - m) * np.expm1(-2 * narrow) / (2 * safe), np.exp(-m))
    rolling = 0.5 * (np.exp(narrow - m) + np.exp(-narrow - m)) + m * sinh
    swinging = np.exp(-m) * (np.cos(h) + m * np.sinc(h / np.pi))
    return (1 - np.where(over, rolling, swinging)) / np.where(z > 0, z, 1.0) ** 2


Momentum = HeavyBallFlow | NesterovFlow


class AcceleratedFlow(Spectral):
    """A flow with momentum on the squared loss, in closed form: what `ntkit.gradient_flow(momentum=...)` returns."""

    def __init__(self, problem: Problem, spec: Spectrum, rate: float, momentum: Any):
        super().__init__(problem, spec)
        self.momentum, self._rate = momentum, rate

    def __repr__(self) -> str:
        n, o = self._problem.y.shape
        return f"AcceleratedFlow(n={n}, outputs={o}, dtype={self.dtype}; {self.momentum})"

    def __call__(self, x_test: Any, t: Any = None, *, f0_test: Any = None) -> Float[np.ndarray, "..."]:
        """The model's outputs at `x_test` after training for time `t`, in NumPy: (m,) or (m, o).

        - `x_test`, `f0_test`: as of gradient flow.
        - `t`: a time >= 0, infinity, or an array of such, whose axis then stands first; None is infinity, which a heavy
          ball without friction never reaches (`InputError`).
        """
        times = parse_times(t)
        check_rest(times, self.momentum)
        self._warn_if_singular(times)
        return self._at(x_test, times, f0_test)

    def _rotated(self, times):
        values = np.where(self._alive, np.asarray(self._spectrum.values, np.float64), 1.0)
        rate = self._rate / len(self.x)
        gains = [1 / values if np.isinf(t) else rate * self.momentum.learned(np.sqrt(rate * values), t) for t in times]
        return (np.where(self._alive, np.stack(gains), 0.0)[:, :, None] * self._residual).astype(self.dtype)


def check_rest(times: np.ndarray, momentum: Momentum | None) -> None:
    """Refuses infinity where it does not come to rest."""
    if np.isinf(times).any() and momentum is not None and not momentum.rests:
        raise InputError("`t` must be finite for a heavy ball without friction, which swings for ever.")


def parse_momentum(momentum: Any) -> None:
    if momentum is not None and not isinstance(momentum, (HeavyBallFlow, NesterovFlow)):
        raise InputError(
            "`momentum` must be `HeavyBallFlow(friction)` or `NesterovFlow()` of `ntkit.predict`, or None for gradient "
            f"flow, but got {momentum!r}. Momenta of steps of a size belong to `ntkit.descend`."
        )
