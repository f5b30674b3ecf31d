"""Kernels of several networks in one pass are those of each alone, whatever the networks share."""

import jax.numpy as jnp
import laws
import numpy as np
import pytest

import ntkit
from ntkit import NNGP, NTK, Together, nn
from ntkit.errors import InputError
from ntkit.nn._stages import plan_of_several

RNG = np.random.default_rng(8)
SIGNALS = RNG.standard_normal((3, 8, 2))
ROWS = RNG.standard_normal((4, 6))
relu = nn.Relu()


def conv(**kwargs):
    return nn.Conv(8, (3,), 1.3, 0.2, **kwargs)


BEGIN = (conv(), relu)
END = (nn.GlobalAvgPool(), nn.Dense(1, 1.1))
LOCAL = (nn.LocalAvgPool((3,)), nn.Flatten(), nn.Dense(1))
FAMILIES = {
    # In an order that is not that of the ways out behind the forks.
    "depths and ways of pooling": [
        (*BEGIN, conv(), relu, *END),
        (*BEGIN, *LOCAL),
        (*BEGIN, conv(), *LOCAL),
        (*BEGIN, *END),
    ],
    "with what reads variances behind": [
        (*BEGIN, *END, relu, nn.Dense(1)),
        (*BEGIN, conv(), *END, nn.Erf(), nn.Dense(1)),
    ],
    "one way out, several heads": [(*BEGIN, *END), (*BEGIN, nn.GlobalAvgPool(), nn.Dense(2, 0.7), relu, nn.Dense(1))],
    "one branch is trained": [(conv(trainable=False), relu, *END), (conv(trainable=False), relu, conv(), *END)],
    "a pooling before they part": [(*BEGIN, nn.AvgPool((2,)), conv(), relu, *end) for end in (END, LOCAL)],
}
APART = {
    "nothing": [(*BEGIN, *END), (conv(strides=2), relu, *END)],
    "parting at a stride": [(*BEGIN, *END), (*BEGIN, conv(strides=2), relu, *END)],
    "parting at a pooling": [(*BEGIN, *END), (*BEGIN, nn.AvgPool((2,)), conv(), relu, *END)],
    "centred": [(*BEGIN, nn.BatchNorm(), *END), (*BEGIN, *END)],
}


def alone(kernels, *inputs):
    return {name: np.asarray(kernel(*inputs)) for name, kernel in kernels.items()}


def agree(kernels, x):
    """At all pairs of x, at pairs of x and others, and on the diagonal."""
    together = Together(**kernels)
    found = laws.quickly(lambda x: (together(x), together.diagonal(x)))(x)
    for name, kernel in kernels.items():
        want = np.asarray(laws.quickly(kernel)(x))
        assert np.ptp(want) > 1e-3
        laws.close(np.asarray(getattr(found[0], name)), want, 1e-12, scale=laws.natural(want))
        laws.close(np.asarray(getattr(found[1], name)), np.diag(want), 1e-12)
    return together


def shares(nets):
    return plan_of_several(nets, (1, *SIGNALS.shape[1:])) is not None


@pytest.mark.parametrize("name", FAMILIES)
def test_each_is_what_it_is_alone(name, x64):
    kernels = {f"k{i}": NTK(nn.Sequential(*layers)) for i, layers in enumerate(FAMILIES[name])}
    together = agree(kernels, jnp.asarray(SIGNALS))
    assert shares([nn.Sequential(*(together.layers[k] for k in way)) for way in together.ways])


@pytest.mark.parametrize("name", APART)
def test_what_is_not_run_plane_by_plane_is_not_shared(name):
    assert not shares([nn.Sequential(*layers) for layers in APART[name]])


def test_what_is_not_shared_is_computed_for_each(x64):
    agree({f"k{i}": NTK(nn.Sequential(*layers)) for i, layers in enumerate(APART["centred"])}, jnp.asarray(SIGNALS))


def test_two_kernels_of_one_network(x64):
    net = nn.Sequential(*BEGIN, *END)
    together = agree({"covariance": NNGP(net), "tangent": NTK(net)}, jnp.asarray(SIGNALS))
    assert len(together.layers) == len(net.layers)


def test_rows(x64):
    nets = {f"depth_{d}": NTK(nn.mlp(d, 8, nn.Erf(), w_std=1.2, b_std=0.3)) for d in (1, 2)}
    agree(nets, jnp.asarray(ROWS))


def test_masked_images(x64):
    mask = np.arange(8) < np.array([8, 5, 6])[:, None]
    kernels = {"a": NTK(nn.Sequential(*BEGIN, *END)), "b": NTK(nn.Sequential(*BEGIN, *LOCAL))}
    x = ntkit.Masked(SIGNALS, mask)
    found = Together(**kernels)(x)
    for name, want in alone(kernels, x).items():
        laws.close(np.asarray(getattr(found, name)), want, 1e-12, scale=laws.natural(want))


def test_between_two_batches_and_by_tiles():
    x = SIGNALS.astype(np.float32)
    kernels = {
        f"k{i}": NTK(nn.Sequential(*layers)) for i, layers in enumerate(FAMILIES["depths and ways of pooling"][:2])
    }
    together = Together(**kernels)
    cross, square = ntkit.gram(together, x[:2], x, progress=False), ntkit.gram(together, x, tile=2, progress=False)
    for name, kernel in kernels.items():
        np.testing.assert_allclose(getattr(cross, name), ntkit.gram(kernel, x[:2], x, progress=False), rtol=1e-6)
        np.testing.assert_array_equal(np.diag(getattr(square, name)), np.asarray(kernel.diagonal(x)))


def test_weights_are_those_of_each():
    # Equal layers with other numbers are other layers.
    nets = [nn.Sequential(nn.Conv(8, (3,), w), relu, *END) for w in (1.0, 2.0)]
    together = Together(a=NTK(nets[0]), b=NTK(nets[1]))
    x = SIGNALS.astype(np.float32)
    found = together(x)
    assert float(found.b[0, 1] / found.a[0, 1]) == pytest.approx(4, rel=1e-5)


@pytest.mark.parametrize(
    "kernels, words",
    [
        ({}, "there is none"),
        ({"a": NTK(nn.Dense(1)), "b": 3}, "`b` is 3"),
        ({"a": ntkit.Both(nn.Dense(1))}, "`a` is Both"),
    ],
)
def test_what_is_refused(kernels, words):
    with pytest.raises(InputError, match=words):
        Together(**kernels)


def test_images_that_one_of_them_cannot_read():
    kernels = {"a": NTK(nn.Sequential(*BEGIN, *END)), "b": NTK(nn.Sequential(*BEGIN, conv(padding="VALID"), *END))}
    with pytest.raises(InputError, match="Conv"):
        Together(**kernels)(np.ones((2, 2, 2), np.float32))
