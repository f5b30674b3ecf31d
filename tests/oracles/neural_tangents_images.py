"""Writes neural_tangents_images.npz: kernels of convolutional networks by neural-tangents 0.6.5, in float64.

Run by hand in the environment that neural_tangents_reference.py describes.
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

# Spatial shapes of the inputs: 1, 2 (rectangular) and 3 dimensions.
SHAPES = {"line": (9,), "image": (6, 8), "square": (8, 8), "volume": (3, 4, 4)}


def conv(filter_shape, strides=None, padding="SAME", **kwargs):
    return stax.Conv(16, filter_shape, strides, padding, W_std=1.3, b_std=0.2, **kwargs)


def dense():
    return stax.Dense(1, W_std=1.1, b_std=0.3)


def networks():
    """(name, shape of the inputs, network)."""
    relu, erf, flat, pooled = stax.Relu, stax.Erf, stax.Flatten, stax.GlobalAvgPool
    yield "flatten", "image", stax.serial(conv((3, 3)), relu(), conv((3, 3)), relu(), flat(), dense())
    yield "global", "image", stax.serial(conv((3, 3)), relu(), conv((3, 3)), relu(), pooled(), dense())
    yield "global, then deep", "image", stax.serial(conv((3, 3)), relu(), pooled(), dense(), relu(), dense())
    yield "global sum", "image", stax.serial(conv((3, 2)), relu(), stax.GlobalSumPool(), dense())
    yield (
        "valid",
        "square",
        stax.serial(conv((3, 2), padding="VALID"), relu(), conv((2, 3), padding="VALID"), erf(), pooled(), dense()),
    )
    yield (
        "circular",
        "square",
        stax.serial(
            conv((3, 3), padding="CIRCULAR"), relu(), conv((5, 3), padding="CIRCULAR"), relu(), pooled(), dense()
        ),
    )
    yield (
        "strides",
        "square",
        stax.serial(conv((3, 3), (2, 2)), relu(), conv((2, 3), (2, 1)), relu(), pooled(), dense()),
    )
    yield "strides, odd", "image", stax.serial(conv((3, 3), (4, 3)), relu(), conv((3, 3)), relu(), pooled(), dense())
    yield (
        "strides, valid",
        "image",
        stax.serial(conv((3, 3), (2, 2), "VALID"), relu(), conv((1, 2)), relu(), pooled(), dense()),
    )
    yield (
        "valid, then circular",
        "image",
        stax.serial(conv((3, 3), padding="VALID"), relu(), conv((3, 3), padding="CIRCULAR"), relu(), pooled(), dense()),
    )
    pool = stax.serial(conv((3, 3)), relu(), stax.AvgPool((2, 2), (2, 2)), conv((3, 3)), relu())
    yield "average pooling", "square", stax.serial(pool, pooled(), dense())
    yield "average pooling, flatten", "square", stax.serial(pool, flat(), dense())
    yield (
        "sum pooling, then relu",
        "square",
        stax.serial(conv((3, 3)), stax.SumPool((4, 2), (2, 2)), relu(), conv((3, 3)), relu(), flat(), dense()),
    )
    yield (
        "overlapping",
        "image",
        stax.serial(conv((3, 3)), relu(), stax.AvgPool((3, 3), (1, 1), "SAME"), flat(), dense()),
    )
    yield (
        "overlapping, circular",
        "image",
        stax.serial(conv((3, 3)), relu(), stax.AvgPool((3, 3), (1, 1), "CIRCULAR"), flat(), dense()),
    )
    deconv = lambda padding: stax.ConvTranspose(16, (3, 3), (2, 2), padding, W_std=1.3, b_std=0.2)  # noqa: E731
    for padding in ("SAME", "VALID", "CIRCULAR"):
        yield (
            f"transposed, {padding}",
            "image",
            stax.serial(deconv(padding), relu(), conv((3, 3)), relu(), pooled(), dense()),
        )
    yield "transposed, flatten", "image", stax.serial(conv((3, 3)), relu(), deconv("SAME"), relu(), flat(), dense())
    yield "one dimension", "line", stax.serial(conv((3,)), relu(), conv((4,), (2,)), erf(), pooled(), dense())
    yield "three dimensions", "volume", stax.serial(conv((2, 3, 3)), relu(), conv((3, 1, 3)), relu(), pooled(), dense())
    branch = stax.serial(relu(), conv((3, 3)), relu(), conv((3, 3)))
    residual = stax.serial(stax.FanOut(2), stax.parallel(stax.Identity(), branch), stax.FanInSum())
    yield "residual", "image", stax.serial(conv((3, 3)), residual, relu(), pooled(), dense())
    down = stax.serial(
        stax.FanOut(2),
        stax.parallel(conv((1, 1), (2, 2)), stax.serial(relu(), conv((3, 3), (2, 2)), relu(), conv((3, 3)))),
        stax.FanInSum(),
    )
    yield "residual, strided", "square", stax.serial(conv((3, 3)), down, relu(), pooled(), dense())
    shortcut = stax.serial(
        stax.FanOut(2),
        stax.parallel(stax.AvgPool((2, 2), (2, 2)), stax.serial(relu(), conv((3, 3), (2, 2)))),
        stax.FanInSum(),
    )
    yield (
        "residual, pooled",
        "square",
        stax.serial(conv((3, 3)), shortcut, relu(), conv((3, 3)), relu(), pooled(), dense()),
    )
    yield "layer norm", "image", stax.serial(conv((3, 3)), stax.LayerNorm(), relu(), pooled(), dense())
    yield "erf, sin", "image", stax.serial(conv((3, 3)), erf(), conv((3, 3)), stax.Sin(), pooled(), dense())
    yield (
        "gelu, gaussian",
        "image",
        stax.serial(conv((3, 3)), stax.Gelu(), conv((3, 3)), stax.Gaussian(), flat(), dense()),
    )
    # Rectangular only behind an even number of convolutions: its kernels turn height and width around at each of them,
    # which its `ImageResize` does not know.
    up = stax.ImageResize((-1, 9, 7, -1), "linear", antialias=False)
    twice = stax.serial(conv((3, 3)), relu(), conv((3, 2)), relu())
    yield "resized, up", "image", stax.serial(twice, up, conv((3, 3)), relu(), pooled(), dense())
    row = stax.Index(stax.Slice[:, 2, ::-1])
    yield "row", "image", stax.serial(conv((3, 3)), relu(), row, conv((3,), (2,)), relu(), flat(), dense())
    norm = stax.LayerNorm(axis=(1, 2, 3))
    yield "layer norm, all", "image", stax.serial(conv((3, 3)), norm, relu(), pooled(), dense())
    standard = {"parameterization": "standard", "s": (1, 1)}
    yield (
        "standard",
        "image",
        stax.serial(
            conv((3, 3), **standard),
            relu(),
            conv((3, 3), **standard),
            relu(),
            pooled(),
            stax.Dense(1, W_std=1.1, b_std=0.3, **standard),
        ),
    )


def main():
    rng = np.random.default_rng(0)
    arrays = {}
    for name, space in SHAPES.items():
        arrays |= {f"{name}/{i}": rng.standard_normal((n, *space, 3)) for i, n in ((1, 3), (2, 2))}
    for name, shape, (_, _, kernel_fn) in networks():
        x1, x2 = (jnp.asarray(arrays[f"{shape}/{i}"]) for i in (1, 2))
        both, own = kernel_fn(x1, x2, ("nngp", "ntk")), kernel_fn(x1, None, ("nngp", "ntk"))
        arrays |= {f"{name}/nngp": np.asarray(both.nngp), f"{name}/ntk": np.asarray(both.ntk)}
        arrays |= {f"{name}/own nngp": np.asarray(own.nngp), f"{name}/own ntk": np.asarray(own.ntk)}
        print(name, flush=True)
    np.savez_compressed(Path(__file__).with_name("neural_tangents_images.npz"), **arrays)


if __name__ == "__main__":
    main()
