"""Convolutions: shared, transposed and unshared."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from ntkit.errors import InputError
from ntkit.nn._law import Covariance, Scalar
from ntkit.nn._layer import Displacements, Frames, Params, Shape, Signal
from ntkit.nn._lift import gapped, over_pixels, through
from ntkit.nn._masks import Mask, behind_windows, on_existing
from ntkit.nn._taps import Padding, Window, dilated, shared
from ntkit.nn._windows import per_axis, positive_sizes, spatial_shape, strided_frames, strided_wanted, windows_of
from ntkit.nn.weights import Law, Parameterization, Weighted, checked_weights


class Conv(Weighted):
    """A convolution in 1, 2 or 3 dimensions: z'(p) = w_std / sqrt(n k) sum_f W_f z(stride p + dilation f - before) +
    b_std b.

    Infinite reading, with K(p, p') the second moments of the pixels before it (Arora et al. 2019, section 3.1):

        K'(p, p') = w_std^2 / k sum_f K(src_f(p), src_f(p')) + b_std^2          (k taps; taps outside the image count 0)

    and Theta' as for `Dense`, with the fan-in n k.

    **Arguments:** `width`: output channels. `filter_shape`: taps per axis; its length is the number of spatial axes.
    `strides`, `dilation`: a number, or one per axis. `padding`: "SAME", "VALID", "CIRCULAR" (around the torus, as much
    as SAME), or (before, after) for each axis. `groups`: the channels are split in so many parts that do not meet
    (not on the raw input at infinite width; behind it the covariances are those without groups). The rest as for
    `Dense`. Inputs: (n, *space, channels).
    """

    elementwise: ClassVar[bool] = False

    width: int = eqx.field(static=True)
    filter_shape: tuple[int, ...] = eqx.field(static=True)
    w_std: Scalar
    b_std: Scalar
    strides: tuple[int, ...] = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    dilation: tuple[int, ...] = eqx.field(static=True)
    groups: int = eqx.field(static=True)
    trainable: bool = eqx.field(static=True)
    parameterization: Parameterization = eqx.field(static=True)
    law: Law = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        filter_shape: Any,
        w_std: Scalar = 1.0,
        b_std: Scalar = 0.0,
        *,
        strides: Any = 1,
        padding: Any = "SAME",
        dilation: Any = 1,
        groups: int = 1,
        trainable: bool = True,
        parameterization: Parameterization = "ntk",
        init: Law = "normal",
    ):
        checked = checked_weights("Conv", width, w_std, b_std, parameterization, init)
        self.width, self.w_std, self.b_std, self.parameterization, self.law = checked
        self.trainable = trainable
        self.filter_shape, self.strides, self.padding = per_axis("Conv", filter_shape, strides, padding)
        self.dilation = positive_sizes("Conv", "dilation", dilation, len(self.filter_shape))
        if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1 or width % groups:
            raise InputError(f"`groups` of `Conv` must divide its width {width}; got {groups!r}.")
        self.groups = groups

    def _windows(self, shape: Shape) -> list[Window]:
        sizes = spatial_shape("Conv", shape, len(self.filter_shape))
        return windows_of("Conv", sizes, self.filter_shape, self.strides, self.dilation, self.padding)

    def shape(self, shape: Shape) -> Shape:
        windows = self._windows(shape)
        if shape[-1] % self.groups:
            raise InputError(f"`groups` of `Conv` is {self.groups}, which does not divide its {shape[-1]} channels.")
        return (shape[0], *(w.size for w in windows), self.width)

    def weights_shape(self, shape: Shape) -> Shape:
        return (*self.filter_shape, shape[-1] // self.groups, self.width)

    def bias_shape(self, shape: Shape) -> Shape:
        return (self.width,)

    def fan_in(self, shape: Shape) -> int:
        return math.prod(self.filter_shape) * shape[-1] // self.groups

    @on_existing
    def apply(self, params: Params, x: Float[Array, "n ... c"], *, key: PRNGKeyArray | None = None) -> Array:
        params, w_factor, b_factor = self.factors(params, x.shape, x.dtype)
        x, pads = around(x, self._windows(x.shape))
        z = w_factor * lax.conv_general_dilated(
            x,
            params["w"],
            self.strides,
            pads,
            rhs_dilation=self.dilation,
            dimension_numbers=_layout(len(self.filter_shape)),
            feature_group_count=self.groups,
        )
        return z + jnp.broadcast_to(b_factor * params["b"], z.shape) if self.has_bias else z

    def propagate(self, cov: Covariance) -> Covariance:
        return over_pixels(self, lambda cov: _filtered(self, cov, self._windows(_shape_of(cov)), self.groups), cov)

    def check(self, signal: Signal) -> Signal:
        if self.groups > 1 and not signal.infinite:
            raise InputError(
                f"`groups` of `Conv` is {self.groups}, which has no infinite reading on the raw input: its channels "
                "are finite in number, and each group would have a law of its own. Use `groups=1` in the first layer."
            )
        return Weighted.check(self, signal)

    def exists(self, shape: Shape, mask: Mask) -> Mask:
        return behind_windows(self.name, mask, self._windows(shape))

    def frames(self, shape: Shape, frames: Frames) -> Frames:
        return strided_frames(self._windows(shape), spatial_shape("Conv", shape, len(self.filter_shape)), frames)

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        return strided_wanted(self._windows(shape), frames, wanted)


def _filtered(layer: Weighted, cov: Covariance, windows: list[Window], groups: int = 1) -> Covariance:
    """The means over taps, and the weights behind them."""
    space = cov.space
    assert space is not None
    (xy, out), (ntk, _) = (shared(a, space, windows, cov.written) for a in (cov.xy, cov.ntk))
    xx, yy = (shared(q, space.maps(), windows)[0] for q in (cov.xx, cov.yy))
    cov = cov.replace(xx=xx, xy=xy, yy=yy, ntk=ntk, gap=jnp.zeros((), xy.dtype), gap_known=True, space=out)
    taps = math.prod(w.taps for w in windows)
    return gapped(through(lambda cov: layer.weighted(cov, taps, groups), cov))


def _shape_of(cov: Covariance) -> Shape:
    assert cov.space is not None, "a law of numbers has no space"
    return (1, *cov.space.sizes, cov.width)


def _layout(rank: int) -> Any:
    axes = "DHW"[-rank:]
    return (f"N{axes}C", f"{axes}IO", f"N{axes}C")


def around(x: Array, windows: list[Window]) -> tuple[Array, list[tuple[int, int]]]:
    """The images, and the zeros that belong around them; what goes around a circle is put there already."""
    pads = []
    for axis, (window, size) in enumerate(zip(windows, x.shape[1:-1], strict=True)):
        high = int(window.sources().max()) - size + 1
        if window.circular:
            x = jnp.take(x, np.arange(-window.before, size + max(high, 0)) % size, axis + 1)
            pads.append((0, min(high, 0)))
        else:
            pads.append((window.before, high))
    return x, pads


class ConvTranspose(Weighted):
    """A transposed convolution (deconvolution): every input pixel spreads its filter over the output, `strides` apart.

    z'(o) = w_std / sqrt(n k) sum_f W_f z((o + f - before) / stride) + b_std b, where the quotient is whole.
    The infinite reading is that of `Conv` with these sources: outputs whose distance is no multiple of the stride share
    nothing but the bias, which is the checkerboard (Jacot et al. 2019, "Freeze and Chaos", section 5).

    `padding`: "SAME" (the output has stride times the size), "VALID", or "CIRCULAR". Equivalent to
    `jax.lax.conv_transpose`. Other arguments as for `Conv`.
    """

    elementwise: ClassVar[bool] = False

    width: int = eqx.field(static=True)
    filter_shape: tuple[int, ...] = eqx.field(static=True)
    w_std: Scalar
    b_std: Scalar
    strides: tuple[int, ...] = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    trainable: bool = eqx.field(static=True)
    parameterization: Parameterization = eqx.field(static=True)
    law: Law = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        filter_shape: Any,
        w_std: Scalar = 1.0,
        b_std: Scalar = 0.0,
        *,
        strides: Any = 1,
        padding: Any = "SAME",
        trainable: bool = True,
        parameterization: Parameterization = "ntk",
        init: Law = "normal",
    ):
        checked = checked_weights("ConvTranspose", width, w_std, b_std, parameterization, init)
        self.width, self.w_std, self.b_std, self.parameterization, self.law = checked
        self.trainable = trainable
        self.filter_shape, self.strides, self.padding = per_axis("ConvTranspose", filter_shape, strides, padding)
        if not isinstance(self.padding, str):
            raise InputError('`padding` of `ConvTranspose` must be "SAME", "VALID" or "CIRCULAR".')

    @property
    def local(self) -> bool:
        return all(s == 1 for s in self.strides)

    def _windows(self, shape: Shape) -> list[Window]:
        """Over the input with its zeros put in: stride times as long."""
        sizes = spatial_shape("ConvTranspose", shape, len(self.filter_shape))
        windows = []
        for n, k, s in zip(sizes, self.filter_shape, self.strides, strict=True):
            out = n * s + (max(k - s, 0) if self.padding == "VALID" else 0)
            # As `jax.lax.conv_transpose`: with SAME the k + s - 2 zeros around are split, most of them behind.
            before = k - 1 if self.padding == "VALID" or s > k - 1 else -(-(k + s - 2) // 2)
            windows.append(Window(k, 1, 1, before, out, self.padding == "CIRCULAR", 1 + n * s - out))
        return windows

    def shape(self, shape: Shape) -> Shape:
        return (shape[0], *(w.size for w in self._windows(shape)), self.width)

    def weights_shape(self, shape: Shape) -> Shape:
        return (*self.filter_shape, shape[-1], self.width)

    def bias_shape(self, shape: Shape) -> Shape:
        return (self.width,)

    def fan_in(self, shape: Shape) -> int:
        return math.prod(self.filter_shape) * shape[-1]

    @on_existing
    def apply(self, params: Params, x: Float[Array, "n ... c"], *, key: PRNGKeyArray | None = None) -> Array:
        params, w_factor, b_factor = self.factors(params, x.shape, x.dtype)
        gaps = [(0, 0, 0), *((0, s - 1, s - 1) for s in self.strides), (0, 0, 0)]
        spread = lax.pad(x, jnp.zeros((), x.dtype), gaps)
        x, pads = around(spread, self._windows(x.shape))
        ones = (1,) * len(self.strides)
        z = w_factor * lax.conv_general_dilated(x, params["w"], ones, pads, dimension_numbers=_layout(len(ones)))
        return z + jnp.broadcast_to(b_factor * params["b"], z.shape) if self.has_bias else z

    def propagate(self, cov: Covariance) -> Covariance:
        return over_pixels(self, self._spread, cov)

    def _spread(self, cov: Covariance) -> Covariance:
        space = cov.space
        assert space is not None
        windows = self._windows(_shape_of(cov))
        (xy, spread), (ntk, _) = (dilated(a, space, self.strides) for a in (cov.xy, cov.ntk))
        xx, yy = (dilated(q, space.maps(), self.strides)[0] for q in (cov.xx, cov.yy))
        return _filtered(self, cov.replace(xx=xx, xy=xy, yy=yy, ntk=ntk, space=spread), windows)

    def exists(self, shape: Shape, mask: Mask) -> Mask:
        for axis, stride in enumerate(self.strides):
            mask = mask.repeat(stride, axis - len(self.strides))
        return behind_windows(self.name, mask, self._windows(shape))

    def frames(self, shape: Shape, frames: Frames) -> Frames:
        spread = tuple(f * s for f, s in zip(frames, self.strides, strict=True))
        sizes = tuple(n * s for n, s in zip(shape[1:-1], self.strides, strict=True))
        return strided_frames(self._windows(shape), sizes, spread)

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        # Forwards all displacements between multiples are made, or of the diagonal alone the diagonal.
        return tuple(np.unique(d // s) if d.any() else d for d, s in zip(wanted, self.strides, strict=True))


class LocalConv(Weighted):
    """A convolution without weight sharing: every output pixel has a filter and a bias of its own.

    K'(p, p') is that of `Conv` for p = p', and 0 for other pairs of pixels (Novak et al. 2019): pooling finds nothing
    to average. Arguments as for `Conv`.
    """

    elementwise: ClassVar[bool] = False

    width: int = eqx.field(static=True)
    filter_shape: tuple[int, ...] = eqx.field(static=True)
    w_std: Scalar
    b_std: Scalar
    strides: tuple[int, ...] = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    trainable: bool = eqx.field(static=True)
    parameterization: Parameterization = eqx.field(static=True)
    law: Law = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        filter_shape: Any,
        w_std: Scalar = 1.0,
        b_std: Scalar = 0.0,
        *,
        strides: Any = 1,
        padding: Any = "SAME",
        trainable: bool = True,
        parameterization: Parameterization = "ntk",
        init: Law = "normal",
    ):
        checked = checked_weights("LocalConv", width, w_std, b_std, parameterization, init)
        self.width, self.w_std, self.b_std, self.parameterization, self.law = checked
        self.trainable = trainable
        self.filter_shape, self.strides, self.padding = per_axis("LocalConv", filter_shape, strides, padding)

    def _windows(self, shape: Shape) -> list[Window]:
        sizes = spatial_shape("LocalConv", shape, len(self.filter_shape))
        ones = (1,) * len(self.filter_shape)
        return windows_of("LocalConv", sizes, self.filter_shape, self.strides, ones, self.padding)

    def shape(self, shape: Shape) -> Shape:
        return (shape[0], *(w.size for w in self._windows(shape)), self.width)

    def weights_shape(self, shape: Shape) -> Shape:
        return (*self.shape(shape)[1:-1], math.prod(self.filter_shape) * shape[-1], self.width)

    def bias_shape(self, shape: Shape) -> Shape:
        return self.shape(shape)[1:]

    def fan_in(self, shape: Shape) -> int:
        return math.prod(self.filter_shape) * shape[-1]

    @on_existing
    def apply(self, params: Params, x: Float[Array, "n ... c"], *, key: PRNGKeyArray | None = None) -> Array:
        params, w_factor, b_factor = self.factors(params, x.shape, x.dtype)
        patches = x[..., None, :]
        for axis, window in enumerate(self._windows(x.shape)):
            patches = _patches(patches, axis + 1, window, x.shape[axis + 1])
        patches = patches.reshape(*patches.shape[:-2], -1)
        z = w_factor * jnp.einsum("n...f,...fo->n...o", patches, params["w"])
        return z + (b_factor * params["b"])[None] if self.has_bias else z

    def propagate(self, cov: Covariance) -> Covariance:
        return over_pixels(self, self._unshared, cov)

    def _unshared(self, cov: Covariance) -> Covariance:
        out = _filtered(self, cov, self._windows(_shape_of(cov)))
        assert out.space is not None
        if out.space.alone:
            return out
        own = out.space.is_diagonal()
        xy, ntk = (jnp.where(own, a, 0) for a in (out.xy, out.ntk))
        return gapped(out.replace(xy=xy, ntk=ntk))

    def exists(self, shape: Shape, mask: Mask) -> Mask:
        return behind_windows(self.name, mask, self._windows(shape))

    def frames(self, shape: Shape, frames: Frames) -> Frames:
        return strided_frames(self._windows(shape), shape[1:-1], frames)

    def wanted(self, shape: Shape, frames: Frames, wanted: Displacements) -> Displacements:
        return strided_wanted(self._windows(shape), frames, wanted)


def _patches(x: Array, axis: int, window: Window, length: int) -> Array:
    """The taps along an axis, appended to the last but one."""
    sources = window.sources()
    inside = (sources >= 0) & (sources < length)
    taken = []
    for source, there in zip(sources % length, inside, strict=True):
        tap = jnp.take(x, source, axis)
        shape = tuple(-1 if a == axis else 1 for a in range(x.ndim))
        taken.append(tap if window.circular else tap * jnp.asarray(there, x.dtype).reshape(shape))
    return jnp.concatenate(taken, -2)
