"""Random features: a model that is linear in its parameters, and the kernel that it has for all of its training.

A. Jacot, F. Gabriel and C. Hongler, "Neural Tangent Kernel: Convergence and Generalization in Neural Networks", NeurIPS
2018, section 3.1; A. Rahimi and B. Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS 2007.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt

from ntkit._check import check_inputs, is_float
from ntkit._progress import Progress
from ntkit.errors import InputError
from ntkit.gram import gram
from ntkit.gram.host import on_host
from ntkit.kernels import Inputs, Kernel, Others, settled
from ntkit.linalg import spectrum
from ntkit.linalg.products import check_count, generator
from ntkit.nn import Layer

# Features of drawn functions are computed so many functions at a time.
_TOGETHER = 256


class RandomFeatures(Kernel):
    """K_P(x, y) = (1/P) sum_p f^(p)(x) f^(p)(y): what `ntkit.random_features` returns.

    It is the tangent kernel, at all parameters, of the linear model of Jacot et al. 2018, section 3.1,

        f_theta(x) = P^(-1/2) sum_p theta_p f^(p)(x)

    and a kernel as any: the flow of the model is `ntkit.gradient_flow` with it.
    """

    @abc.abstractmethod
    def features(self, x: Inputs) -> Float[Array, "n p"]:
        """f^(p)(x_i), the same functions in every call."""

    def __call__(self, x1: Inputs, x2: Others | None = None) -> Float[Array, "n m"]:
        first = self.features(x1)
        second = first if x2 is None else self.features(x2)
        return first @ second.T / first.shape[1]

    def diagonal(self, x: Inputs) -> Float[Array, " n"]:
        return jnp.mean(self.features(x) ** 2, axis=1)

    def apply(self, theta: Float[Array | np.ndarray, "p *outputs"], x: Inputs) -> Float[Array, "n *outputs"]:
        """The linear model at parameters theta, (P,) or (P, o), whose `EmpiricalNTK(features.apply, theta)` this is."""
        values = self.features(x)
        return values @ theta / values.shape[1] ** 0.5


class GaussianFeatures(RandomFeatures):
    """Functions drawn from a Gaussian process jointly on `points` (q, ...), whose law there is that of `kernel`.

    With K(points, points) = V diag(v) V^T, `basis` = V diag(v)^(-1/2) and `draws` (r, P) of N(0, 1),

        f^(p)(x) = K(x, points) basis draws[:, p]

    On the points it is V diag(v)^(1/2) draws. Elsewhere it is the mean of the process given its values there, which
    lacks the variance `missing(x)`.
    """

    kernel: Any
    points: Float[Array | np.ndarray, "q ..."]
    basis: Float[Array | np.ndarray, "q r"]
    draws: Float[Array | np.ndarray, "r p"]

    def features(self, x: Inputs) -> Float[Array, "n p"]:
        known = self._known(x)
        return known @ jnp.asarray(self.draws, known.dtype)

    def missing(self, x: Inputs) -> Float[Array, " n"]:
        """K(x, x) - K(x, points) K(points, points)^+ K(points, x): zero, within rounding, on the points."""
        known = self._known(x)
        values = jnp.asarray(x)
        own = self.kernel.diagonal(values) if hasattr(self.kernel, "diagonal") else jnp.diagonal(self.kernel(values))
        return own - jnp.sum(known**2, axis=1)

    def redrawn(self, P: int, *, key: Any) -> "GaussianFeatures":
        """Another draw on the same points, whose matrix is not decomposed again."""
        draws = generator(key).standard_normal((self.basis.shape[1], _count(P)))
        return GaussianFeatures(self.kernel, self.points, self.basis, draws.astype(self.points.dtype))

    def _known(self, x: Inputs) -> Float[Array, "n r"]:
        """K(x, points) basis: the process in an orthonormal basis of what its values on the points determine."""
        x = jnp.asarray(x)
        if is_float(x.dtype) and jnp.finfo(x.dtype).eps > jnp.finfo(self.points.dtype).eps:
            raise InputError(
                f"The features were drawn in {self.points.dtype}, but the examples are {x.dtype} here, whose rounding "
                'they would multiply. Draw them with `dtype="float32"`, or call them inside `jax.enable_x64(True)`.'
            )
        return self.kernel(x, jnp.asarray(self.points, x.dtype)) @ jnp.asarray(self.basis, x.dtype)


class DrawnFeatures(RandomFeatures):
    """The functions `draw(key)` of P keys, each evaluated wherever it is asked for. A draw belongs to the dtype of
    the examples, as those of `jax.random` do."""

    draw: Callable[[Any], Callable[[Any], Any]]
    bits: UInt[Array | np.ndarray, " w"]
    impl: str = eqx.field(static=True)
    count: int = eqx.field(static=True)

    def features(self, x: Inputs) -> Float[Array, "n p"]:
        x = jnp.asarray(x)
        keys = jax.random.split(jax.random.wrap_key_data(jnp.asarray(self.bits), impl=self.impl), self.count)

        def one(key: Any) -> Any:
            values = self.draw(key)(x)
            if jnp.shape(values) != (len(x),):
                raise InputError(
                    f"`source(key)` must be a function x -> ({len(x)},) of these examples, one number each, but gave "
                    f"an array of shape {jnp.shape(values)}."
                )
            return values

        # A draw of JAX's default float hangs on its mode, which `ntkit.gram` changes: here on the examples alone.
        with jax.enable_x64(x.dtype.itemsize == 8):
            return lax.map(one, keys, batch_size=_TOGETHER).T


class NetworkFeatures(RandomFeatures):
    """The outputs of one finite network with P of them, such as the last hidden layer: dependent where it is deep."""

    net: Layer
    bits: UInt[Array | np.ndarray, " w"]
    impl: str = eqx.field(static=True)
    count: int = eqx.field(static=True)

    def features(self, x: Inputs) -> Float[Array, "n p"]:
        x = jnp.asarray(x)
        if self.net.shape(x.shape) != (len(x), self.count):
            raise InputError(
                f"A network as `source` must have P = {self.count} outputs, which are the features; for these examples "
                f"its outputs have shape {self.net.shape(x.shape)}."
            )
        key = jax.random.wrap_key_data(jnp.asarray(self.bits), impl=self.impl)
        return self.net.apply(self.net.init(key, x.shape, dtype=x.dtype), x)


def random_features(
    source: Any,
    P: int,
    *,
    key: Any,
    points: Float[Array | np.ndarray, "q ..."] | None = None,
    dtype: Any = None,
    memory: str | int | None = "1GiB",
    progress: Progress = False,
) -> RandomFeatures:
    """The kernel (1/P) sum_p f^(p)(x) f^(p)(y) of P random functions, and the linear model it belongs to.

    - `source` a kernel, with `points` (q, ...): functions of the Gaussian process with that covariance, drawn jointly
        on the points. Give all points that matter, those of training and of test: there the law is exact, elsewhere
        functions are their own mean given the points (`missing(x)` is the variance they lack). It costs q^3 and q P.
    - `source` a function without `points`: `source(key)` is one random function, x (n, ...) -> (n,), in pure JAX.
    - `source` a network of `ntkit.nn` with P outputs: these are the features, of one draw of it.

    E K_P is the covariance of the functions. For Gaussian ones of covariance K on some points, by the fourth moments
    of a Gaussian vector (Wishart),

        E |K_P - K|_F^2 = (|K|_F^2 + tr(K)^2) / P

    which `ntkit.feature_study` measures.

    **Arguments:** `key`: a key of JAX, or a whole number. With points also `dtype`: that of the draw, None for what JAX
    makes of `points`; eigenvalues of the covariance below q eps times the largest are left out; examples may be more
    precise, not less. `memory`, `progress`: of the matrix of the points, as for `ntkit.gram`.

    **Raises:** `ntkit.InputError` for a kernel without points, points without a kernel, a network without P outputs,
    and kernels of torch; `ntkit.ComputationError` for a covariance that is not positive semi-definite.

    Equivalent, on the points, to `scipy.stats.multivariate_normal(cov=K).rvs(P)`; for networks and functions to
    `sklearn.kernel_approximation`.
    """
    _count(P)
    if points is not None:
        return _on_points(source, points, dtype, memory, progress).redrawn(P, key=key)
    if dtype is not None:
        raise InputError("`dtype` is that of a drawing on `points`; functions and networks follow the examples'.")
    bits, impl = _bits(key)
    if isinstance(source, Kernel):
        raise InputError(
            "A Gaussian process is drawn jointly on stated points, so that all calls see the same functions. Pass "
            "`points`, the training and test examples, one below the other."
        )
    if isinstance(source, Layer):
        return NetworkFeatures(source, bits, impl, P)
    if not callable(source):
        raise InputError(
            "`source` must be a kernel (with `points`), a function `source(key) -> (x -> (n,))`, or a network of "
            f"`ntkit.nn`; got {type(source).__name__}."
        )
    draw: Any = source
    return DrawnFeatures(draw, bits, impl, P)


def _on_points(kernel: Any, points: Any, dtype: Any, memory: Any, progress: Progress) -> GaussianFeatures:
    """No functions yet: the eigendecomposition of their covariance, in float64."""
    if isinstance(kernel, Layer) or not callable(kernel):
        raise InputError(
            f"With `points`, `source` must be a kernel; got {type(kernel).__name__}. For a network pass "
            "`ntkit.NNGP(net)`, the covariance of its outputs."
        )
    if on_host(kernel):
        raise InputError("`source` computes outside of JAX. Wrap its values in a kernel written in JAX, or use `gram`.")
    x = check_inputs("points", points)
    wanted = np.dtype(jnp.asarray(x).dtype if dtype is None else dtype)
    if wanted.name not in ("float32", "float64"):
        raise InputError(f"`dtype` must be float32 or float64, but got {dtype!r}.")
    x = np.asarray(x, wanted)
    kernel = settled(kernel, x)
    with jax.enable_x64(True):
        matrix = gram(kernel, x.astype(np.float64), memory=memory, progress=progress)
        spec = spectrum(jnp.asarray(matrix), what="covariance of the functions on `points`")
    values, vectors = np.asarray(spec.values), np.asarray(spec.vectors)
    alive = values > len(values) * float(np.finfo(wanted).eps) * values[-1]
    basis = vectors[:, alive] / np.sqrt(values[alive])
    return GaussianFeatures(kernel, x, basis.astype(wanted), np.zeros((basis.shape[1], 1), wanted))


def _count(P: Any) -> int:
    return check_count("P", P, 1)


def _bits(key: Any) -> tuple[np.ndarray, str]:
    """A key as an array of whole numbers, so that files of `ntkit.gram` know the draw, and its generator."""
    generator(key)  # refuses what is no key
    key = jax.random.key(int(key)) if isinstance(key, (int, np.integer)) else key
    return np.asarray(jax.random.key_data(key)), str(jax.random.key_impl(key))
