"""Architectures by name."""

import math

from ntkit.errors import InputError
from ntkit.nn._law import Scalar
from ntkit.nn.activations import Nonlinearity
from ntkit.nn.combinators import Sequential
from ntkit.nn.dense import Dense
from ntkit.nn.weights import Law, Parameterization


def mlp(
    depth: int,
    width: int,
    activation: Nonlinearity,
    *,
    beta: Scalar | None = None,
    w_std: Scalar | None = None,
    b_std: Scalar | None = None,
    outputs: int = 1,
    parameterization: Parameterization = "ntk",
    init: Law = "normal",
    fixed_layers: int = 0,
) -> Sequential:
    """A fully connected network with `depth` hidden layers and a linear readout, all with the same `w_std` and `b_std`.

    `beta` in [0, 1] sets Jacot's balance w_std = sqrt(1 - beta^2), b_std = beta; it excludes `w_std` and `b_std`, whose
    defaults are 1 and 0. The first `fixed_layers` of the depth + 1 dense layers are frozen.
    """
    if not isinstance(depth, int) or depth < 0:
        raise InputError(f"`depth` of `mlp` counts the hidden layers and must be a whole number >= 0; got {depth!r}.")
    if not 0 <= fixed_layers <= depth:
        raise InputError(f"`fixed_layers` must lie between 0 and depth = {depth}; got {fixed_layers!r}.")
    if not isinstance(activation, Nonlinearity):
        hint = (
            " Create it first: add parentheses."
            if isinstance(activation, type)
            else " Wrap a function in `nn.Activation(fn)`."
        )
        raise InputError(f"`activation` of `mlp` must be an activation such as `nn.Relu()`; got {activation!r}.{hint}")
    if beta is not None:
        if w_std is not None or b_std is not None:
            raise InputError("`beta` sets `w_std` and `b_std`: give either `beta`, or these two.")
        if isinstance(beta, (int, float)) and not 0 <= beta <= 1:
            raise InputError(f"`beta` of `mlp` must lie in [0, 1]; got {beta!r}.")
        w_std, b_std = (math.sqrt(1 - beta**2) if isinstance(beta, (int, float)) else (1 - beta * beta) ** 0.5), beta
    w_std, b_std = (1.0 if w_std is None else w_std), (0.0 if b_std is None else b_std)

    def dense(position: int, size: int) -> Dense:
        return Dense(
            size, w_std, b_std, trainable=position >= fixed_layers, parameterization=parameterization, init=init
        )

    hidden = [layer for i in range(depth) for layer in (dense(i, width), activation)]
    return Sequential(*hidden, dense(depth, outputs))
