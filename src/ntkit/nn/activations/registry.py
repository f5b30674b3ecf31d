"""Activations by name: for configuration files, the command line, estimators, and all else that is spelled out."""

import difflib
from typing import Any

from ntkit.errors import InputError
from ntkit.nn.activations._base import Nonlinearity

_CLASSES = {
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "abs": "Abs",
    "erf": "Erf",
    "gelu": "Gelu",
    "sin": "Sin",
    "cos": "Cos",
    "gaussian": "Gaussian",
    "sign": "Sign",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "softplus": "Softplus",
    "silu": "Silu",
    "elu": "Elu",
    "selu": "Selu",
    "identity": "Identity",
}
_ALIASES = {"swish": "silu", "logistic": "sigmoid", "linear": "identity", "rbf": "gaussian", "leakyrelu": "leaky_relu"}


def activation_names() -> tuple[str, ...]:
    """The names that `activation` knows, without their aliases."""
    from ntkit.nn import activations

    return tuple(name for name, cls in _CLASSES.items() if hasattr(activations, cls))


def activation(spec: Any) -> Nonlinearity:
    """The activation that `spec` means: a name such as `"relu"`, a layer such as `nn.Relu()`, or a function.

    Names are those of `activation_names()`, in any case, with `-` for `_` if you like. A layer is handed back as it
    is, a class is called, a function becomes `nn.Activation(fn)`.

    **Raises:** `InputError`, with the names and the nearest of them.
    """
    from ntkit.nn import activations

    if isinstance(spec, str):
        name = spec.strip().lower().replace("-", "_")
        name = _ALIASES.get(name, name)
        if name not in activation_names():
            raise InputError(_unknown(spec, name))
        return getattr(activations, _CLASSES[name])()
    if isinstance(spec, Nonlinearity):
        return spec
    if isinstance(spec, type) and issubclass(spec, Nonlinearity):
        try:
            return spec()
        except TypeError:
            raise InputError(
                f"`activation` is the class {spec.__name__}, which needs arguments: create it first."
            ) from None
    if callable(spec):
        return activations.Activation(spec)
    raise InputError(f"`activation` must be a name, an activation such as `nn.Relu()`, or a function; got {spec!r}.")


def activation_name(layer: Nonlinearity) -> str | None:
    """The name that `activation` turns into `layer`, or None if there is none: an activation of your own."""
    for name in activation_names():
        found = activation(name)
        if type(found) is type(layer) and found == layer:
            return name
    return None


def _unknown(spec: str, name: str) -> str:
    names = activation_names()
    close = difflib.get_close_matches(name, [*names, *_ALIASES], n=1, cutoff=0.5)
    nearest = f" Did you mean {close[0]!r}?" if close else ""
    return f"There is no activation {spec!r}.{nearest} The names are {', '.join(names)}; a function will do as well."
