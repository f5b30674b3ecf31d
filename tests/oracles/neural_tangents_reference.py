"""Writes neural_tangents.npz: kernels of dense networks by neural-tangents 0.6.5, in float64.

Run by hand in an environment of its own: Python 3.10 or 3.11, neural-tangents==0.6.5, jax==0.4.24. It needs
TensorFlow only for its
`experimental` part, which an empty module stands in for.
"""

import sys
import types
from pathlib import Path

sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from neural_tangents import stax  # noqa: E402


def dense(**kwargs):
    return stax.Dense(16, W_std=1.3, b_std=0.2, **kwargs)


def networks():
    # Its Gaussian is exp(-x^2) too; its LeakyRelu takes the slope as alpha; its Gelu is the exact one.
    activations = {
        "Relu": stax.Relu(),
        "LeakyRelu": stax.LeakyRelu(0.2),
        "Abs": stax.Abs(),
        "Erf": stax.Erf(),
        "Gelu": stax.Gelu(),
        "Sin": stax.Sin(),
        "Cos": stax.Cos(),
        "Gaussian": stax.Gaussian(),
        "Sign": stax.Sign(),
    }
    for name, phi in activations.items():
        yield name, stax.serial(dense(), phi, dense(), phi, dense())
    standard = lambda: dense(parameterization="standard", s=(1, 1))  # noqa: E731
    # Its standard parameterization needs the finite widths of the layers before.
    yield "standard", stax.serial(standard(), stax.Relu(), standard(), stax.Relu(), standard())
    branch = stax.serial(stax.Relu(), dense())
    residual = stax.serial(stax.FanOut(2), stax.parallel(stax.Identity(), branch), stax.FanInSum())
    yield "residual", stax.serial(dense(), residual, stax.Erf(), dense())
    yield "layer norm", stax.serial(dense(), stax.LayerNorm(), stax.Relu(), dense())


def main():
    rng = np.random.default_rng(0)
    x1, x2 = rng.standard_normal((4, 6)), rng.standard_normal((3, 6))
    arrays = {"x1": x1, "x2": x2}
    for name, (_, _, kernel_fn) in networks():
        both = kernel_fn(jnp.asarray(x1), jnp.asarray(x2), ("nngp", "ntk"))
        arrays |= {f"{name}/nngp": np.asarray(both.nngp), f"{name}/ntk": np.asarray(both.ntk)}
    np.savez_compressed(Path(__file__).with_name("neural_tangents.npz"), **arrays)


if __name__ == "__main__":
    main()
