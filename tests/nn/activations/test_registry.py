"""Activations by name."""

import jax.numpy as jnp
import numpy as np
import pytest

import ntkit
from ntkit import nn
from ntkit.nn.activations.registry import _ALIASES, activation, activation_name, activation_names


def test_every_name_is_an_activation_and_back():
    assert {"relu", "tanh", "elu", "gaussian"} <= set(activation_names())
    for name in activation_names():
        layer = activation(name)
        assert isinstance(layer, nn.Nonlinearity)
        assert type(layer).__name__.lower() == name.replace("_", "")
        assert activation_name(layer) == name


def test_every_named_layer_of_the_door_has_a_name():
    layers = {cls for cls in vars(nn).values() if isinstance(cls, type) and issubclass(cls, nn.Nonlinearity)}
    named = {type(activation(name)) for name in activation_names()}
    assert {cls.__name__ for cls in layers - named} <= {"Nonlinearity", "Activation", "Affine"}  # these need arguments


@pytest.mark.parametrize("spelling", ["ReLU", " relu ", "LEAKY-RELU", *_ALIASES])
def test_spellings(spelling):
    assert isinstance(activation(spelling), nn.Nonlinearity)


def test_what_is_not_a_name():
    layer = nn.LeakyRelu(0.2)
    assert activation(layer) is layer
    assert activation_name(layer) is None  # the name stands for another slope
    assert isinstance(activation(nn.Erf), nn.Erf)
    x = jnp.linspace(-2.0, 2.0, 5)
    np.testing.assert_allclose(activation(jnp.arctan).fn(x), jnp.arctan(x), rtol=1e-6)


@pytest.mark.parametrize(
    "spec, word", [("rleu", "'relu'"), ("xyz", "names are relu"), (3, "name"), (nn.Activation, "Activation")]
)
def test_what_is_refused(spec, word):
    with pytest.raises(ntkit.InputError, match=word):
        activation(spec)
