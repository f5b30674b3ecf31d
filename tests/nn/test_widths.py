"""Other hidden widths: the outputs stay, what is added shares one width, and what cannot be widened is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.nn.widths import map_weighted, weighted_layers, with_widths


def widths_of(net):
    return [layer.width for _, layer in weighted_layers(net)]


def shapes(net, shape):
    """Of its parameters."""
    return jax.eval_shape(lambda key: net.init(key, shape), jax.random.key(0))


def test_hidden_layers_change_and_outputs_do_not():
    net = nn.mlp(2, 8, nn.Relu(), outputs=3, w_std=1.5, b_std=0.2, fixed_layers=1, init="laplace")
    wide = with_widths(net, 20)
    assert widths_of(wide) == [20, 20, 3]
    assert widths_of(net) == [8, 8, 3]
    # All else is kept: put back, the tree is what it was.
    assert jax.tree.structure(with_widths(wide, 8)) == jax.tree.structure(net)
    assert jax.tree.leaves(wide) == jax.tree.leaves(net)
    assert widths_of(with_widths(net, [5, 7])) == [5, 7, 3]


def test_what_is_added_shares_a_width():
    block = nn.Residual(nn.Sequential(nn.Relu(), nn.Dense(8)))
    net = nn.Sequential(nn.Dense(8), block, nn.Relu(), nn.Dense(9), nn.Relu(), nn.Dense(2))
    assert widths_of(with_widths(net, [4, 5])) == [4, 4, 5, 2]
    out = with_widths(net, [4, 5]).shape((1, 3))
    assert out == (1, 2)


def test_layers_that_make_the_output_together_stay():
    branch = nn.Sequential(nn.Dense(6), nn.Relu(), nn.Dense(2))
    assert widths_of(with_widths(nn.Sum(nn.Dense(2), branch), 11)) == [2, 11, 2]
    net = nn.Sequential(nn.Dense(6), nn.Relu(), nn.Concat(nn.Dense(2), nn.Dense(3)))
    assert widths_of(with_widths(net, 11)) == [11, 2, 3]


def test_images():
    net = nn.presets.cntk(4, 8, outputs=2)
    assert widths_of(with_widths(net, 5)) == [5, 5, 5, 2]
    assert with_widths(net, 5).shape((1, 5, 5, 3)) == (1, 2)
    joined = nn.Sequential(nn.Conv(4, (3,)), nn.Concat(nn.Relu(), nn.Relu()), nn.Flatten(), nn.Dense(1))
    params = shapes(with_widths(joined, 6), (1, 5, 2))
    assert params[3]["w"].shape == (5 * 2 * 6, 1)


def test_parameters_are_named_by_their_path():
    net = nn.Sequential(nn.Dense(4), nn.Sum(nn.Relu(), nn.Sequential(nn.Dense(4), nn.Relu())), nn.Dense(1))
    assert [name for name, _ in weighted_layers(net)] == ["0", "1.1.0", "2"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes(net, (1, 3)))
    assert ntkit.EmpiricalNTK(net.apply, params).names == ["0.w", "1.1.0.w", "2.w"]
    assert map_weighted(lambda i, layer: i, net).layers[1].branches[1].layers[0] == 1


class Own(nn.Layer):
    """A layer with parameters that ntkit knows nothing of."""

    def shape(self, shape):
        return shape

    def init(self, key, shape, *, dtype=None):
        return {"scale": jnp.ones(shape[-1])}

    def apply(self, params, x, *, key=None):
        return x * params["scale"]

    def propagate(self, cov):
        return cov

    def check(self, signal):
        return signal


MLP = nn.mlp(2, 8, nn.Relu())


@pytest.mark.parametrize(
    "net, widths, word",
    [
        (nn.Dense(1), 8, "no hidden layer"),
        (nn.Sequential(nn.Relu()), 8, "no hidden layer"),
        (MLP, 0, "positive whole"),
        (MLP, -3, "positive whole"),
        (MLP, [8, 2.5], "positive whole"),
        (MLP, True, "positive whole"),
        (MLP, [8, 8, 8], "2 groups"),
        ("relu", 8, "`net`"),
        (nn.Sequential(nn.Dense(4), Own(), nn.Dense(1)), 8, "`Own`"),
        (nn.Sequential(nn.Concat(nn.Dense(4), nn.Dense(5)), nn.Dense(1)), 8, "widths 4, 5"),
        (nn.Sequential(nn.Concat(nn.Identity(), nn.Dense(4)), nn.Dense(1)), 8, "raw input"),
        (nn.Sequential(nn.Conv(4, (3,)), nn.Conv(4, (3,), groups=2), nn.Flatten(), nn.Dense(1)), 7, "groups"),
        (nn.Sequential(nn.Conv(4, (3,)), nn.Sum(nn.Flatten(), nn.GlobalAvgPool()), nn.Dense(1)), 8, "repeated"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_widened_is_refused(net, widths, word):
    with pytest.raises(ntkit.InputError, match=word):
        with_widths(net, widths)


def test_numpy_widths_are_numbers():
    assert widths_of(with_widths(MLP, np.int64(5))) == [5, 5, 1]
