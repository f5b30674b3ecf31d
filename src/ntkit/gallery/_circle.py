"""The task on the plane of Jacot et al. 2018, section 6: f(x) = x1 x2, by networks of depth 4."""

import numpy as np
from jaxtyping import Float

from ntkit import nn

BETA = 0.1


def network(width: int) -> nn.Sequential:
    """Depth L = 4, three hidden layers of ReLU: z' = W phi(z) / sqrt(n) + beta b, as in section 2, with beta = 0.1."""
    return nn.mlp(depth=3, width=width, activation=nn.Relu(), w_std=1.0, b_std=BETA, outputs=1)


def on_circle(angles: Float[np.ndarray, " a"]) -> Float[np.ndarray, "a 2"]:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def goal(x: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 1"]:
    return x[:, :1] * x[:, 1:]
