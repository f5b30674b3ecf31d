"""The kernels of several networks in one pass: what the networks begin with alike is computed once."""

from collections import namedtuple
from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from ntkit.errors import InputError
from ntkit.kernels._images import pairs_of_several
from ntkit.kernels._laws import laws_of_examples, laws_of_pairs
from ntkit.kernels.kernel import NNGP, NTK, Inputs, Kernel, OfNetwork, Others, arrays_of, widened, with_diagonal
from ntkit.nn import Layer, Sequential
from ntkit.nn._masks import Masked
from ntkit.nn.combinators import flat

# The array of a law that a kernel is.
_ARRAYS: dict[type, str] = {NTK: "ntk", NNGP: "xy"}
_KINDS = {name: kind for kind, name in _ARRAYS.items()}
# Of each network the places of its layers among all.
Ways = tuple[tuple[int, ...], ...]


class Together(Kernel):
    """Several kernels as one, whose values are a named tuple of matrices: `Together(shallow=NTK(a), deep=NTK(b))`.

    Layers that networks begin with alike are computed once: convolutional networks of several depths, or with several
    ways of pooling, take little more time than the largest. What is not shared is computed for each, so that the values
    are always those of the kernels alone, up to rounding. `ntkit.gram` takes it as one kernel.

    **Arguments:** `NTK`s and `NNGP`s by name.

    **Raises:** `ntkit.InputError` for none, or for other kernels.
    """

    layers: tuple[Layer, ...]
    ways: Ways = eqx.field(static=True)
    arrays: tuple[str, ...] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, **kernels: Any):
        wrong = [name for name, kernel in kernels.items() if type(kernel) not in _ARRAYS]
        if wrong or not kernels:
            came = f"`{wrong[0]}` is {kernels[wrong[0]]!r}" if wrong else "there is none"
            raise InputError(f"`Together` takes `ntkit.NTK`s and `ntkit.NNGP`s by name, but {came}.")
        self.names = tuple(kernels)
        self.arrays = tuple(_ARRAYS[type(kernel)] for kernel in kernels.values())
        self.layers, self.ways = _pooled([kernel.net for kernel in kernels.values()])

    @property
    def kernels(self) -> dict[str, OfNetwork]:
        """Each on its own."""
        nets = _nets(self.layers, self.ways)
        return {name: _KINDS[of](net) for name, of, net in zip(self.names, self.arrays, nets, strict=True)}

    def __call__(self, x1: Inputs, x2: Others | None = None) -> Any:
        first, second = arrays_of(x1, x2)
        for kernel in self.kernels.values():
            kernel.check_shapes(first, second)
        return _tuple(self.names)(*_values(self.layers, self.ways, self.arrays, first, second))

    def diagonal(self, x: Inputs) -> Any:
        first, _ = arrays_of(x, None)
        for kernel in self.kernels.values():
            kernel.check_shapes(first)
        return _tuple(self.names)(*_diagonals(self.layers, self.ways, self.arrays, first))

    def settled(self, x: Any) -> "Together":
        """As of `OfNetwork`."""
        return Together(**{name: kernel.settled(x) for name, kernel in self.kernels.items()})

    def weight(self, shape: tuple[int, ...]) -> int:
        """As of `OfNetwork`: what they need together."""
        return pairs_of_several(_nets(self.layers, self.ways), shape) if len(shape) > 1 else 1

    def check_pixels(self, name: str, x: Masked) -> None:
        """As of `OfNetwork`."""
        for kernel in self.kernels.values():
            kernel.check_pixels(name, x)


@lru_cache(maxsize=64)
def _tuple(names: tuple[str, ...]) -> Any:
    return namedtuple("Kernels", names)


def _pooled(nets: list[Layer]) -> tuple[tuple[Layer, ...], Ways]:
    """All layers once, in so far as networks begin with equal ones."""
    pool: list[Layer] = []
    following: dict[tuple[int, ...], list[int]] = {}  # a way so far, and the layers with which some network goes on
    ways = []
    for net in nets:
        way: tuple[int, ...] = ()
        for layer in flat(net):
            known = following.setdefault(way, [])
            place = next((k for k in known if eqx.tree_equal(pool[k], layer) is True), None)
            if place is None:
                place = len(pool)
                pool.append(layer)
                known.append(place)
            way = (*way, place)
        ways.append(way)
    return tuple(pool), tuple(ways)


def _nets(layers: tuple[Layer, ...], ways: Ways) -> list[Layer]:
    """The networks; what they share are the same objects."""
    return [Sequential(*(layers[k] for k in way)) for way in ways]


@eqx.filter_jit
def _values(layers: tuple[Layer, ...], ways: Ways, arrays: tuple[str, ...], x1: Any, x2: Any) -> list[Array]:
    laws = laws_of_pairs(_nets(layers, ways), x1, x2)
    values = [getattr(law, name) for law, name in zip(laws, arrays, strict=True)]
    return values if x2 is not None else list(map(with_diagonal, values, _diagonals(layers, ways, arrays, x1)))


@eqx.filter_jit
def _diagonals(layers: tuple[Layer, ...], ways: Ways, arrays: tuple[str, ...], x: Any) -> list[Array]:
    with jax.enable_x64(True):  # as those of one network
        exact, layers = jax.tree.map(widened, (x, layers))
        laws = laws_of_examples(_nets(layers, ways), exact, x.dtype)
        return [getattr(law, name).astype(x.dtype) for law, name in zip(laws, arrays, strict=True)]
