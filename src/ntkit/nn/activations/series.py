"""Any activation, exact to a stated tolerance: a short series in the angle with features of the variances.

Derivation: docs/derivations/duals.md. The tables are made in float64 when an activation is first asked for an
expectation, and shared by all equal ones.
"""

import abc
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkit.errors import InputError
from ntkit.nn._law import is_zero
from ntkit.nn.activations._angular import Angular
from ntkit.nn.activations._base import Affine, Diagonal, Dual, Nonlinearity, Parity
from ntkit.nn.activations._kinks import Kink, find_kinks
from ntkit.nn.activations._mixed import Mixed
from ntkit.nn.activations._nodes import find_products
from ntkit.nn.activations._pieces import Closed, Pieces, find_pieces
from ntkit.nn.activations._products import Products, Sums, products_dual, side
from ntkit.nn.activations._quadrature import derivative_of, half_line_rule, hosted
from ntkit.nn.activations._road import Kinks, Plan, Road
from ntkit.nn.activations._tables import find_parity, fit

# Deviations up to which pixels are served by sums of products, and how exactly in float32.
TOPS, SINGLE_PRODUCTS = (1.2, 2.5, 5.0), 7e-7


class Tabulated(Nonlinearity):
    """An activation whose expectations come from tables made of the function itself."""

    intermediates: ClassVar[int] = 16

    @abc.abstractmethod
    def plan(self) -> Plan:
        """The function, and how well it is to be integrated."""

    @property
    def parity(self) -> Parity:
        return ("none", "even", "odd")[_parity(self.plan().fn)]

    def fn(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.plan().fn(x)

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        return road_of(self.plan()).dual(xx, xy, yy, gap)

    def diagonal(self, q: Array) -> Diagonal:
        return road_of(self.plan()).diagonal(q)

    def variance(self, q: Array) -> Array:
        return road_of(self.plan()).variance(q)

    def mean(self, q: Array) -> Array:
        return road_of(self.plan()).mean(q)

    def narrower(self, dtype: Any) -> tuple[tuple[float, Nonlinearity], ...]:
        plan = self.plan()
        if _kinks(plan):
            return ()
        single = np.dtype(dtype).itemsize <= 4
        table = _products(plan, single)
        return tuple((sums.top**2, Narrow(self, k, single)) for k, sums in enumerate(table.sums if table else ()))

    def normalized(self) -> Affine:
        affine = super().normalized()
        if is_zero(affine.shift) or _pieces(self.plan()) is not None:
            return affine
        # Next to a large mean the rest is rounding: subtracted from the function, not from its expectations.
        return Affine(Centred(self, float(-affine.shift / affine.scale)), affine.scale, 0.0)

    def moments(self) -> tuple[float, float]:
        plan = self.plan()
        return _line_moments(plan, self.parity) if _serves(_kinks(plan)) else super().moments()

    def error(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        """An estimate of the error of both duals relative to their norms, for pairs of variances up to q.

        Inside the plan's variances it is what was measured on points that the fit has not seen, plus rounding. Above,
        the features stay where the table ends, and the estimate adds 4 |phi_q - phi_top| in L2 of the Gaussian
        (phi_q(z) = phi(sqrt(q) z) over its norm), a bound by Cauchy-Schwarz, and twice the relative error of the
        norms. Of functions with kinks away from 0 twice the largest error measured is stated, and below the plan's
        variances they are measured, too; those made of parabolas are integrated in closed form, at any variance, up to
        rounding. Expectations that underflow, below some hundred times the smallest normal number of the dtype, count
        as exact.
        """
        return road_of(self.plan()).error(q)


class Narrow(Nonlinearity):
    """A smooth activation for small variances, its duals from one of the sums of `_products`."""

    inner: Tabulated
    place: int = eqx.field(static=True)
    single: bool = eqx.field(static=True)

    @property
    def table(self) -> tuple[Products, Sums]:
        found = _products(self.inner.plan(), self.single)
        assert found is not None
        return found, found.sums[self.place]

    @property
    def parity(self) -> Parity:
        return self.inner.parity

    def fn(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.inner.fn(x)

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        return products_dual(*self.table, xx, xy, yy)

    def diagonal(self, q: Array) -> Diagonal:
        return self.inner.diagonal(q)

    def variance(self, q: Array) -> Array:
        norm = side(*self.table, q).norm
        return norm * norm

    def mean(self, q: Array) -> Array:
        mean = side(*self.table, q).mean
        return jnp.zeros_like(q) if mean is None else mean


@lru_cache(maxsize=64)
def _products(plan: Plan, single: bool) -> Products | None:
    found = find_products(plan.fn, plan.derivative, TOPS, SINGLE_PRODUCTS if single else plan.tolerance)
    return found.astype(np.float32) if found is not None and single else found


class Activation(Tabulated):
    """Any function as an activation: the derivative by autodiff, its kinks found or declared.

    Equivalent to a Gauss quadrature of E[phi(u) phi(v)] and E[phi'(u) phi'(v)] of as many points as it takes, at the
    price of a short polynomial.

    - `fn`: elementwise, written in `jax.numpy`, of any floating dtype.
    - `derivative`: phi', where autodiff is not to be trusted; default autodiff.
    - `kinks`: where phi or one of its first three derivatives jumps. "find" looks on [-60, 60]; a tuple declares them.
    - `tolerance`: the largest error of both duals relative to sqrt(E[phi(u)^2] E[phi(v)^2]), and the same for phi', in
      float64, for `variances` (lowest, highest). In float32 it is about 1e-6. Where
      a function oscillates fast or nearly vanishes everywhere it may not be reached: `error` says so.

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


class Centred(Tabulated):
    """phi - centre, with tables of its own."""

    inner: Tabulated
    centre: float = eqx.field(static=True)

    @property
    def name(self) -> str:
        return self.inner.name

    def plan(self) -> Plan:
        plan = self.inner.plan()
        return plan._replace(
            fn=_minus(plan.fn, self.centre),
            derivative=plan.derivative or derivative_of(plan.fn),
            kinks=tuple(sorted({kink.place for kink in _kinks(plan)})),
        )

    def diagonal(self, q: Array) -> Diagonal:
        # Where phi comes close to the centre, float32 would see rounding only. The table does not.
        return super().diagonal(q)._replace(value=self.variance(q))


@lru_cache(maxsize=256)
def _minus(fn: Callable, centre: float) -> Callable:
    return lambda x: fn(x) - centre


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


@lru_cache(maxsize=64)
def road_of(plan: Plan) -> Road:
    """How the expectations of a function are computed: asked of its kinks, once.

    The series serves corners at 0. Where a kink lies away from 0 or the function itself jumps, it would not converge:
    then closed forms for functions made of parabolas; of others, for their kinks alone.
    """
    _check_values(plan)
    kinks = _kinks(plan)
    if _serves(kinks):
        return Angular(fit(plan.fn, plan.derivative, plan.tolerance, plan.variances[1] ** 0.5))
    pieces = _pieces(plan)
    if pieces is not None:
        return Closed(pieces, plan.variances[0])
    places = tuple(sorted({kink.place for kink in kinks}))
    return Mixed(plan, places)


def _check_values(plan: Plan) -> None:
    z, w = half_line_rule(208)
    with np.errstate(all="ignore"):
        values = hosted(plan.fn)(plan.variances[1] ** 0.5 * np.concatenate([z, -z]))
        square = np.concatenate([w, w]) @ values**2
    if not np.isfinite(square):
        raise InputError(
            f"`fn` must have finite E[fn(u)^2] up to the highest of `variances`, {plan.variances[1]:g}, but there it "
            "overflows. Pass the variances that your signals have, as `variances=(0.01, 4)`, or a function that grows "
            "more slowly."
        )
    if (values == values[0]).all():
        raise InputError(
            f"`fn` must not be constant, but is {values[0]:g} everywhere: nothing before it reaches the output. For a "
            "constant in the kernel use `b_std`."
        )


def _pieces(plan: Plan) -> Pieces | None:
    """The formula of a function that the series does not serve, if it has one."""
    kinks = _kinks(plan)
    return None if _serves(kinks) else find_pieces(hosted(plan.fn), kinks)


def _kinks(plan: Plan) -> tuple[Kink, ...]:
    return find_kinks(plan.fn, None if plan.kinks == "find" else plan.kinks)


def _serves(kinks: tuple[Kink, ...]) -> bool:
    """Whether the series serves them."""
    return not any(kink.place or kink.order == 0 for kink in kinks)


_parity = lru_cache(maxsize=64)(lambda fn: find_parity(hosted(fn)))


def _line_moments(plan: Plan, parity: Parity) -> tuple[float, float]:
    """E phi and E phi^2 under N(0, 1), without tables."""
    z, w = half_line_rule(208)
    w = w / (2 * w.sum())
    plus, minus = (hosted(plan.fn)(x) for x in (z, -z))
    return 0.0 if parity == "odd" else float(w @ (plus + minus)), float(w @ (plus * plus + minus * minus))


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
