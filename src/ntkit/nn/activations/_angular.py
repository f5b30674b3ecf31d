"""The series in the angle as a road: for functions that are smooth but for corners at 0."""

from functools import cached_property
from typing import final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkit.nn.activations._base import Diagonal, Dual
from ntkit.nn.activations._road import DOUBLE_ROUNDING, SINGLE, Road
from ntkit.nn.activations._runtime import beyond, row, series_dual, squares
from ntkit.nn.activations._tables import Fit, Series, compress

# What rounding adds in float32, measured.
SINGLE_ROUNDING = 1e-6


@final
class Angular(Road):
    """`_tables`, at the price of a short polynomial per pair."""

    def __init__(self, fitted: Fit):
        self.fitted = fitted

    @cached_property
    def _single(self) -> Series:
        return compress(self.fitted.tables, SINGLE, np.float32)

    def series(self, dtype: np.dtype) -> Series:
        return self.fitted.series if dtype.itemsize > 4 else self._single

    def dual(self, xx: Array, xy: Array, yy: Array, gap: Array) -> Dual:
        return series_dual(self.series(xy.dtype), xx, xy, yy, gap)

    def diagonal(self, q: Array) -> Diagonal:
        series = self.series(q.dtype)
        x = row(series, q)
        known = Diagonal(x.norm * x.norm, x.slope_norm * x.slope_norm)
        if q.dtype.itemsize > 4:
            return known
        # The table's polynomial of high degree costs float32 a digit. A diagonal has n entries: integrate it.
        inside, direct = q <= series.scale.top**2, squares(self.fitted.sample, q)
        return Diagonal(*(jnp.where(inside, *both) for both in zip(direct, known, strict=True)))

    def variance(self, q: Array) -> Array:
        norm = row(self.series(q.dtype), q).norm
        return norm * norm

    def mean(self, q: Array) -> Array:
        return row(self.series(q.dtype), q).mean

    def error(self, q: Array) -> Array:
        rounding = SINGLE + SINGLE_ROUNDING if q.dtype.itemsize <= 4 else DOUBLE_ROUNDING
        inside = self.fitted.error + rounding
        outside = inside + beyond(self.fitted, self.series(q.dtype), q)
        return jnp.where(q <= self.fitted.tables.scale.top**2, inside, outside)
