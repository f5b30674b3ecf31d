"""Any activation, exact to a stated tolerance: a short series in the angle with features of the variances.

Derivation: docs/derivations/duals.md. The tables are made in float64 when an activation is first asked for an
expectation, and shared by all equal ones.
"""

import abc
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkit.errors import InputError
from ntkit.nn._law import safe_sqrt
from ntkit.nn.activations._base import Diagonal, Dual, Nonlinearity, Parity
from ntkit.nn.activations._kinks import Kink, find_kinks
from ntkit.nn.activations._mixed import (
    Mixed,
    fit_mixed,
    mixed_diagonal,
    mixed_dual,
    mixed_mean,
    mixed_variance,
    signs_of,
)
from ntkit.nn.activations._pieces import Pieces, average, find_pieces, pieces_diagonal, pieces_dual, pieces_error
from ntkit.nn.activations._quadrature import hosted
from ntkit.nn.activations._runtime import beyond, row, series_dual, squares
from ntkit.nn.activations._tables import Fit, Series, compress, find_parity, fit

# float32 cannot resolve more: its series is cut here. What rounding adds was measured, and is stated by `error`.
SINGLE, SINGLE_ROUNDING, DOUBLE_ROUNDING = 7e-8, 1e-6, 1e-14
# Where kinks are subtracted the rest is scaled by variances: 2.2e-5 was measured at variance 100, for a cut cosine.
MIXED_ROUNDING = 3e-5

Kinks = Literal["find"] | tuple[float, ...]


class Plan(NamedTuple):
    """What the tables of an activation are made from; equal plans share them."""

    fn: Callable
    derivative: Callable | None = None
    kinks: Kinks = ()
    tolerance: float = 1e-9
    variances: tuple[float, float] = (1e-2, 1e2)


class Tabulated(Nonlinearity):
    """An activation whose expectations come from tables made of the function itself."""

    @abc.abstractmethod
    def plan(self) -> Plan:
        """The function, and how well it is to be integrated."""

    @property
    def parity(self) -> Parity:
        return ("none", "even", "odd")[_parity(self.plan().fn)]

    def fn(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.plan().fn(x)

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        pieces = _pieces(self.plan())
        if pieces is not None:
            return pieces_dual(pieces, xx, xy, yy, gap)
        mixed = _mixed(self.plan())
        if mixed is not None:
            series, signs = _mixed_series(self.plan(), xy.dtype)
            return mixed_dual(mixed, series, signs, xx, xy, yy, gap)
        return series_dual(_series(self.plan(), xy.dtype), xx, xy, yy, gap)

    def diagonal(self, q: Array) -> Diagonal:
        pieces = _pieces(self.plan())
        if pieces is not None:
            return pieces_diagonal(pieces, q)
        mixed = _mixed(self.plan())
        if mixed is not None:
            return mixed_diagonal(mixed, q)
        series = _series(self.plan(), q.dtype)
        x = row(series, q)
        known = Diagonal(x.norm * x.norm, x.slope_norm * x.slope_norm)
        if q.dtype.itemsize > 4:
            return known
        # The table's polynomial of high degree costs float32 a digit. A diagonal has n entries: integrate it.
        inside, direct = q <= series.scale.top**2, squares(_fitted(self.plan()).sample, q)
        return Diagonal(*(jnp.where(inside, *both) for both in zip(direct, known, strict=True)))

    def variance(self, q: Array) -> Array:
        if _pieces(self.plan()) is not None:
            return self.diagonal(q).value
        mixed = _mixed(self.plan())
        if mixed is not None:
            return mixed_variance(mixed, *_mixed_series(self.plan(), q.dtype), q)
        norm = row(_series(self.plan(), q.dtype), q).norm
        return norm * norm

    def mean(self, q: Array) -> Array:
        pieces = _pieces(self.plan())
        if pieces is not None:
            return average(pieces, safe_sqrt(q))
        mixed = _mixed(self.plan())
        return row(_series(self.plan(), q.dtype), q).mean if mixed is None else mixed_mean(mixed, q)

    def error(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        """An estimate of the error of both duals relative to their norms, for pairs of variances up to q.

        Inside the plan's variances it is what was measured on points that the fit has not seen, plus rounding. Above,
        the features stay where the table ends, and the estimate adds 4 |phi_q - phi_top| in L2 of the Gaussian
        (phi_q(z) = phi(sqrt(q) z) over its norm), a bound by Cauchy-Schwarz, and twice the relative error of the
        norms. A function made of parabolas is integrated in closed form, at any variance, up to rounding.
        """
        pieces = _pieces(self.plan())
        if pieces is not None:
            return pieces_error(pieces, q)
        fitted, single = _fitted(self.plan()), q.dtype.itemsize <= 4
        rounding = SINGLE_ROUNDING if _mixed(self.plan()) is None else MIXED_ROUNDING
        inside = fitted.error + (SINGLE + rounding if single else DOUBLE_ROUNDING)
        outside = inside + beyond(fitted, _series(self.plan(), q.dtype), q)
        return jnp.where(q <= fitted.tables.scale.top**2, inside, outside)


class Activation(Tabulated):
    """Any function as an activation: the derivative by autodiff, its kinks found or declared.

    Equivalent to a Gauss quadrature of E[phi(u) phi(v)] and E[phi'(u) phi'(v)] of as many points as it takes, at the
    price of a short polynomial.

    - `fn`: elementwise, written in `jax.numpy`, of any floating dtype.
    - `derivative`: phi', where autodiff is not to be trusted; default autodiff.
    - `kinks`: where phi, phi' or phi'' jumps. "find" looks for them on [-60, 60]; a tuple declares them.
    - `tolerance`: the largest error of both duals relative to sqrt(E[phi(u)^2] E[phi(v)^2]), and the same for phi', in
      float64, for `variances` (lowest, highest). In float32 it is about 1e-6. Where a function with kinks away from 0
      vanishes around 0, or oscillates, it may not be reached: `error` says so.

    `error(q)` is the estimate reached, measured on points the fit has not seen, and bounded beyond `variances`.
    Raises `ntkit.InputError` for arguments of the wrong kind and for functions that are not finite.
    """

    function: Callable = eqx.field(static=True)
    slope: Callable | None = eqx.field(static=True)
    kinks: Kinks = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)
    variances: tuple[float, float] = eqx.field(static=True)
    label: str = eqx.field(static=True)

    # What is wrong is refused by name below, so these annotations let it in.
    def __init__(
        self, fn: Any, *, derivative: Any = None, kinks: Any = "find", tolerance: float = 1e-9,
        variances: tuple[float, float] = (1e-2, 1e2), name: str | None = None,
    ):  # fmt: skip
        self.function, self.slope = (
            _callable("fn", fn),
            derivative if derivative is None else _callable("derivative", derivative),
        )
        self.kinks = _checked_kinks(kinks)
        self.tolerance = _checked_tolerance(tolerance)
        self.variances = _checked_variances(variances)
        self.label = name or getattr(fn, "__name__", "Activation")

    @property
    def name(self) -> str:
        return self.label

    def plan(self) -> Plan:
        return Plan(self.function, self.slope, self.kinks, self.tolerance, self.variances)


class Tanh(Tabulated):
    """tanh(x)."""

    def plan(self) -> Plan:
        return Plan(jnp.tanh, kinks=())


class Sigmoid(Tabulated):
    """1 / (1 + exp(-x)). Equivalent to `jax.nn.sigmoid`."""

    def plan(self) -> Plan:
        return Plan(jax.nn.sigmoid, kinks=())


class Softplus(Tabulated):
    """log(1 + exp(x)). Equivalent to `jax.nn.softplus`."""

    def plan(self) -> Plan:
        return Plan(jax.nn.softplus, kinks=())


class Silu(Tabulated):
    """x / (1 + exp(-x)). Equivalent to `jax.nn.silu`."""

    def plan(self) -> Plan:
        return Plan(jax.nn.silu, kinks=())


class Elu(Tabulated):
    """x for x > 0, else exp(x) - 1. Equivalent to `jax.nn.elu`."""

    def plan(self) -> Plan:
        return Plan(jax.nn.elu, kinks=(0.0,))


class Selu(Tabulated):
    """1.0507 x for x > 0, else 1.0507 * 1.6733 (exp(x) - 1). Equivalent to `jax.nn.selu`; Klambauer et al. 2017."""

    def plan(self) -> Plan:
        return Plan(jax.nn.selu, kinks=(0.0,))


def _kinks_of(plan: Plan) -> tuple[Kink, ...]:
    return find_kinks(plan.fn, None if plan.kinks == "find" else plan.kinks)


def _hard(kinks: tuple[Kink, ...]) -> bool:
    """Whether a kink lies away from 0 or the function itself jumps: what the plain series does not serve."""
    return any(kink.place or kink.order == 0 for kink in kinks)


@lru_cache(maxsize=64)
def _pieces(plan: Plan) -> Pieces | None:
    """The closed form of a function made of parabolas with kinks away from 0, where the series would not converge."""
    kinks = _kinks_of(plan)
    return find_pieces(hosted(plan.fn), kinks) if _hard(kinks) else None


@lru_cache(maxsize=64)
def _mixed(plan: Plan) -> Mixed | None:
    """What else has such kinks: closed forms for these, a series for the rest."""
    kinks = _kinks_of(plan)
    if not _hard(kinks) or _pieces(plan) is not None:
        return None
    places = tuple(sorted({kink.place for kink in kinks}))
    return fit_mixed(plan.fn, plan.derivative, places, plan.tolerance, plan.variances)


@lru_cache(maxsize=128)
def _mixed_series(plan: Plan, dtype: np.dtype) -> tuple[Series, np.ndarray]:
    """The series, and the signs of its features."""
    mixed = _mixed(plan)
    assert mixed is not None
    if dtype.itemsize > 4:
        return mixed.fit.series, signs_of(mixed.fit.tables, plan.tolerance / 4)
    return compress(mixed.coarse, SINGLE, np.float32), signs_of(mixed.coarse, SINGLE)


@lru_cache(maxsize=64)
def _fitted(plan: Plan) -> Fit:
    kinks, mixed = _kinks_of(plan), _mixed(plan)
    if mixed is not None:
        return mixed.fit
    return fit(plan.fn, plan.derivative, kinks, plan.tolerance, plan.variances[1] ** 0.5)


@lru_cache(maxsize=128)
def _series(plan: Plan, dtype: np.dtype) -> Series:
    fitted = _fitted(plan)
    return fitted.series if dtype.itemsize > 4 else compress(fitted.tables, SINGLE, np.float32)


_parity = lru_cache(maxsize=64)(lambda fn: find_parity(hosted(fn)))


def _callable(name: str, fn: Any) -> Callable:
    if not callable(fn):
        raise InputError(f"`{name}` must be a function of one array, written in jax.numpy; got {fn!r}.")
    return fn


def _checked_kinks(kinks: Any) -> Kinks:
    if isinstance(kinks, str) and kinks == "find":
        return kinks
    try:
        places = tuple(float(k) for k in kinks)
    except (TypeError, ValueError):
        places = (float("nan"),)
    if not all(np.isfinite(places)):
        raise InputError(
            f'`kinks` must be "find" or a tuple of the places where the function has kinks; got {kinks!r}.'
        )
    return places


def _checked_tolerance(tolerance: float) -> float:
    if not 1e-13 <= tolerance <= 1e-2:
        raise InputError(f"`tolerance` must lie between 1e-13 and 1e-2; got {tolerance!r}.")
    return float(tolerance)


def _checked_variances(variances: tuple[float, float]) -> tuple[float, float]:
    low, high = variances
    if not 0 <= low < high < float("inf"):
        raise InputError(f"`variances` must be (lowest, highest) with 0 <= lowest < highest; got {variances!r}.")
    return float(low), float(high)
