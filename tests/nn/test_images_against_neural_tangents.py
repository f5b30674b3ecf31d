"""Kernels of convolutional networks against neural-tangents, to the last digits of float64.

The reference was computed in an environment of its own by tests/oracles/neural_tangents_images.py.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.kernels import _images
from ntkit.kernels._images import image_laws

REFERENCE = np.load(Path(__file__).parents[1] / "oracles" / "neural_tangents_images.npz")


def conv(filter_shape, strides=1, padding="SAME", **kwargs):
    return nn.Conv(16, filter_shape, 1.3, 0.2, strides=strides, padding=padding, **kwargs)


def dense(**kwargs):
    return nn.Dense(1, 1.1, 0.3, **kwargs)


def deconv(padding):
    return nn.ConvTranspose(16, (3, 3), 1.3, 0.2, strides=2, padding=padding)


relu, flat, pooled = nn.Relu(), nn.Flatten(), nn.GlobalAvgPool()
down = nn.Sum(conv((1, 1), 2), nn.Sequential(relu, conv((3, 3), 2), relu, conv((3, 3))))
shortcut = nn.Sum(nn.AvgPool((2, 2)), nn.Sequential(relu, conv((3, 3), 2)))
branch = nn.Sequential(relu, conv((3, 3)), relu, conv((3, 3)))
standard = {"parameterization": "standard"}
first_pool = [conv((3, 3)), relu, nn.AvgPool((2, 2)), conv((3, 3)), relu]

NETWORKS = {
    "flatten": ("image", [conv((3, 3)), relu, conv((3, 3)), relu, flat, dense()]),
    "global": ("image", [conv((3, 3)), relu, conv((3, 3)), relu, pooled, dense()]),
    "global, then deep": ("image", [conv((3, 3)), relu, pooled, dense(), relu, dense()]),
    "global sum": ("image", [conv((3, 2)), relu, nn.GlobalSumPool(), dense()]),
    "valid": (
        "square",
        [conv((3, 2), padding="VALID"), relu, conv((2, 3), padding="VALID"), nn.Erf(), pooled, dense()],
    ),
    "circular": (
        "square",
        [conv((3, 3), padding="CIRCULAR"), relu, conv((5, 3), padding="CIRCULAR"), relu, pooled, dense()],
    ),
    "strides": ("square", [conv((3, 3), 2), relu, conv((2, 3), (2, 1)), relu, pooled, dense()]),
    "strides, odd": ("image", [conv((3, 3), (4, 3)), relu, conv((3, 3)), relu, pooled, dense()]),
    "strides, valid": ("image", [conv((3, 3), 2, "VALID"), relu, conv((1, 2)), relu, pooled, dense()]),
    "valid, then circular": (
        "image",
        [conv((3, 3), padding="VALID"), relu, conv((3, 3), padding="CIRCULAR"), relu, pooled, dense()],
    ),
    "average pooling": ("square", [*first_pool, pooled, dense()]),
    "average pooling, flatten": ("square", [*first_pool, flat, dense()]),
    "sum pooling, then relu": (
        "square",
        [conv((3, 3)), nn.SumPool((4, 2), 2), relu, conv((3, 3)), relu, flat, dense()],
    ),
    "overlapping": ("image", [conv((3, 3)), relu, nn.LocalAvgPool((3, 3)), flat, dense()]),
    "overlapping, circular": ("image", [conv((3, 3)), relu, nn.LocalAvgPool((3, 3), "CIRCULAR"), flat, dense()]),
    **{
        f"transposed, {padding}": ("image", [deconv(padding), relu, conv((3, 3)), relu, pooled, dense()])
        for padding in ("SAME", "VALID", "CIRCULAR")
    },
    "transposed, flatten": ("image", [conv((3, 3)), relu, deconv("SAME"), relu, flat, dense()]),
    "one dimension": ("line", [conv((3,)), relu, conv((4,), 2), nn.Erf(), pooled, dense()]),
    "three dimensions": ("volume", [conv((2, 3, 3)), relu, conv((3, 1, 3)), relu, pooled, dense()]),
    "residual": ("image", [conv((3, 3)), nn.Residual(branch), relu, pooled, dense()]),
    "residual, strided": ("square", [conv((3, 3)), down, relu, pooled, dense()]),
    "residual, pooled": ("square", [conv((3, 3)), shortcut, relu, conv((3, 3)), relu, pooled, dense()]),
    "layer norm": ("image", [conv((3, 3)), nn.LayerNorm(eps=1e-12), relu, pooled, dense()]),
    "erf, sin": ("image", [conv((3, 3)), nn.Erf(), conv((3, 3)), nn.Sin(), pooled, dense()]),
    "gelu, gaussian": ("image", [conv((3, 3)), nn.Gelu(), conv((3, 3)), nn.Gaussian(), flat, dense()]),
    "layer norm, all": ("image", [conv((3, 3)), nn.LayerNorm(1e-12, axis="all"), relu, pooled, dense()]),
    "resized, up": (
        "image",
        [conv((3, 3)), relu, conv((3, 2)), relu, nn.ImageResize((9, 7)), conv((3, 3)), relu, pooled, dense()],
    ),
    "row": ("image", [conv((3, 3)), relu, nn.Index(np.s_[2, ::-1]), conv((3,), 2), relu, flat, dense()]),
    "standard": (
        "image",
        [conv((3, 3), **standard), relu, conv((3, 3), **standard), relu, pooled, dense(**standard)],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_agree(name, x64):
    shape, layers = NETWORKS[name]
    x1, x2 = (jnp.asarray(REFERENCE[f"{shape}/{i}"]) for i in (1, 2))
    ours = ntkit.kernels(nn.Sequential(*layers), x1, x2)
    for kind in ("nngp", "ntk"):
        scale = np.diag(REFERENCE[f"{name}/own {kind}"]).mean()
        np.testing.assert_allclose(getattr(ours, kind), REFERENCE[f"{name}/{kind}"], rtol=1e-10, atol=1e-10 * scale)


OWN = ["flatten", "global, then deep", "average pooling", "transposed, SAME", "residual, pooled", "standard"]


@pytest.mark.parametrize("name", OWN)
def test_kernels_of_one_batch_agree(name, x64):
    shape, layers = NETWORKS[name]
    ours = ntkit.kernels(nn.Sequential(*layers), jnp.asarray(REFERENCE[f"{shape}/1"]))
    for kind in ("nngp", "ntk"):
        theirs, mine = REFERENCE[f"{name}/own {kind}"].copy(), np.asarray(getattr(ours, kind))
        # Its diagonal goes through the formulas of pairs: behind a kink half of the digits are lost.
        np.testing.assert_allclose(np.diag(mine), np.diag(theirs), rtol=1e-8)
        np.fill_diagonal(theirs, np.diag(mine))
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-10 * np.diag(mine).mean())


LOOPED = ["strides, odd", "transposed, SAME", "residual, pooled"]


@pytest.mark.parametrize("name", LOOPED)
def test_a_loop_over_displacements_changes_nothing(name, x64, monkeypatch):
    shape, layers = NETWORKS[name]
    net = nn.Sequential(*layers)
    x1, x2 = (jnp.asarray(REFERENCE[f"{shape}/{i}"]) for i in (1, 2))

    def law():
        return jax.jit(lambda: image_laws(net, x1, x2)[0])()

    at_once = law()
    monkeypatch.setattr(_images, "TARGET", 40)
    looped = law()
    for array in ("xx", "xy", "yy", "ntk"):
        np.testing.assert_allclose(getattr(looped, array), getattr(at_once, array), rtol=1e-13)
