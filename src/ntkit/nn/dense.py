"""The fully connected layer."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ntkit.nn._law import Covariance, Scalar
from ntkit.nn._layer import Params, Shape
from ntkit.nn._masks import on_existing
from ntkit.nn.weights import Law, Parameterization, Weighted, checked_weights


class Dense(Weighted):
    """z' = (w_std / sqrt(n)) W z + b_std b, with the entries of W and b independent, of mean 0 and variance 1.

    Infinite reading, on the second moments K of the signal before it (Jacot et al. 2018, theorem 1):

        K'     = w_std^2 K + b_std^2
        Theta' = w_std^2 Theta + K'                                            ("ntk" parameterization)
        Theta' = w_std^2 Theta + n K + 1                                       ("standard")

    The standard parameterization draws W ~ w_std / sqrt(n) and b ~ b_std and puts no factor before them: the same
    network, other gradients. Its kernel grows with the fan-in n, and the term 1 of the bias is there only if b_std !=
    0.

    **Arguments:** `width`: number of output channels. `w_std`, `b_std`: leaves, both at least 0; `b_std=0` means no
    bias. `trainable=False` freezes the layer: its own term leaves Theta. `init`: the law of each weight and bias, one
    of "normal", "uniform", "rademacher", "laplace", scaled to variance 1. The infinite reading is the same for all,
    by the central limit theorem over the channels before the layer. Of a first layer these are the d features of the
    data: with another law than "normal" its outputs are Gaussian only as far as x is spread over many features (their
    excess kurtosis is that of the law times sum x_i^4 / (sum x_i^2)^2).
    """

    width: int = eqx.field(static=True)
    w_std: Scalar = 1.0
    b_std: Scalar = 0.0
    trainable: bool = eqx.field(static=True, default=True, kw_only=True)
    parameterization: Parameterization = eqx.field(static=True, default="ntk", kw_only=True)
    law: Law = eqx.field(static=True, default="normal", kw_only=True)

    def __init__(
        self,
        width: int,
        w_std: Scalar = 1.0,
        b_std: Scalar = 0.0,
        *,
        trainable: bool = True,
        parameterization: Parameterization = "ntk",
        init: Law = "normal",
    ):
        checked = checked_weights("Dense", width, w_std, b_std, parameterization, init)
        self.width, self.w_std, self.b_std, self.parameterization, self.law = checked
        self.trainable = trainable

    def shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], self.width)

    def weights_shape(self, shape: Shape) -> Shape:
        return (shape[-1], self.width)

    def bias_shape(self, shape: Shape) -> Shape:
        return (self.width,)

    def fan_in(self, shape: Shape) -> int:
        return shape[-1]

    @on_existing
    def apply(
        self, params: Params, x: Float[Array, "... c"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "... o"]:
        params, w_factor, b_factor = self.factors(params, x.shape, x.dtype)
        z = w_factor * (x @ params["w"])
        if self.has_bias:
            z = z + jnp.broadcast_to(b_factor * params["b"], z.shape)
        return z

    def propagate(self, cov: Covariance) -> Covariance:
        return self.weighted(cov)
