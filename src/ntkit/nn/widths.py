"""The same network with other hidden widths: which layers must be equally wide, and which are not hidden."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ntkit.errors import InputError
from ntkit.nn._layer import Layer
from ntkit.nn.combinators import Branches, Concat, Sequential
from ntkit.nn.pooling import Flatten
from ntkit.nn.weights import Weighted

_DATA = 0


def with_widths(net: Layer, widths: int | np.integer | Sequence[int | np.integer]) -> Layer:
    """The network with its hidden widths replaced; that of its output is kept, as are all other choices.

    A layer with weights is hidden if its channels reach the output through other weights only. Layers whose outputs
    are added, multiplied or joined (`Sum`, `Residual`, `Product`, `Concat`) share one width.

    **Arguments:** `widths`: one number for all, or one for each group of layers that share a width, in the order in
    which the groups begin.

    **Raises:** `ntkit.InputError`, by name, for a network without a hidden layer, for branches whose widths cannot
    change together, and for a layer with parameters of its own that is not one of `ntkit.nn`.
    """
    groups = width_groups(net)
    each = [widths] * groups.count if isinstance(widths, (int, np.integer)) else list(widths)
    for width in each:
        if isinstance(width, bool) or not isinstance(width, (int, np.integer)) or width < 1:
            raise InputError(f"`widths` must be positive whole numbers; got {width!r}.")
    if len(each) != groups.count:
        raise InputError(
            f"`widths` must be one number, or one for each of the {groups.count} groups of hidden layers; got "
            f"{len(each)}."
        )

    def widened(number: int, layer: Weighted) -> Weighted:
        group = groups.own[number]
        return layer if group is None else _of_width(layer, int(each[group]))

    return map_weighted(widened, net)


def map_weighted(fn: Callable[[int, Weighted], Any], net: Layer) -> Any:
    """The network with each layer with weights replaced by `fn(its number, itself)`."""
    leaves, treedef = jax.tree.flatten(net, is_leaf=_is_weighted)
    numbers = iter(range(len(leaves)))
    return jax.tree.unflatten(treedef, [fn(next(numbers), leaf) if _is_weighted(leaf) else leaf for leaf in leaves])


def weighted_layers(net: Layer) -> list[tuple[str, Weighted]]:
    """The layers with weights in order, each with the path of its parameters, such as "2.1"."""
    leaves = jax.tree_util.tree_flatten_with_path(net, is_leaf=_is_weighted)[0]
    key = jax.tree_util.SequenceKey
    return [(".".join(str(k.idx) for k in path if isinstance(k, key)), v) for path, v in leaves if _is_weighted(v)]


def changed(layer: Weighted, **fields: Any) -> Any:
    """A layer with some of its fields exchanged, unchecked."""
    new = object.__new__(type(layer))
    for field in dataclasses.fields(layer):
        object.__setattr__(new, field.name, fields.get(field.name, getattr(layer, field.name)))
    return new


def _is_weighted(node: Any) -> bool:
    return isinstance(node, Weighted)


def _of_width(layer: Any, width: int) -> Any:
    if width % getattr(layer, "groups", 1):
        raise InputError(f"`groups` of `{layer.name}` is {layer.groups}, which does not divide the width {width}.")
    return changed(layer, width=width)


class Groups(NamedTuple):
    """Of each layer with weights, in order, the hidden group of its own channels and of those it reads; None for what
    is not hidden. `count`: hidden groups."""

    own: tuple[int | None, ...]
    read: tuple[int | None, ...]
    count: int


def width_groups(net: Layer) -> Groups:
    """Which widths of a network are free. **Raises:** as `with_widths`."""
    if not isinstance(net, Layer):
        raise InputError(f"`net` must be a network of `ntkit.nn` layers; got {type(net).__name__}.")
    flow = _Flow()
    out = flow.through(net, _Channels(_DATA))
    kept = {flow.root(_DATA), flow.root(out.group)}
    hidden = [g for g in dict.fromkeys(flow.root(g) for g in flow.own) if g not in kept]
    if not hidden:
        raise InputError("`net` has no hidden layer, so that there is no width to change. Put a `Dense` in front.")
    for group in hidden:
        widths = sorted({flow.widths[g] for g in flow.own if flow.root(g) == group})
        if len(widths) > 1:
            raise InputError(
                f"`Concat` joins hidden layers of the widths {', '.join(map(str, widths))}: its infinite reading "
                "depends on their ratio, which one width for all would change. Make its branches equally wide."
            )
    number = {group: i for i, group in enumerate(hidden)}
    own, read = (tuple(number.get(flow.root(g)) for g in groups) for groups in (flow.own, flow.read))
    return Groups(own, read, len(hidden))


class _Channels(NamedTuple):
    """Channels of a signal: whose width they have, and what repeats them."""

    group: int
    repeated: tuple[Any, ...] = ()


class _Flow:
    """Walks over the tree as the signal does. Groups of equal width are joined as they are found."""

    def __init__(self):
        self._parent = [_DATA]
        self.widths: dict[int, int] = {}
        self.own: list[int] = []
        self.read: list[int] = []

    def root(self, group: int) -> int:
        while self._parent[group] != group:
            group = self._parent[group]
        return group

    def through(self, layer: Layer, channels: _Channels) -> _Channels:
        if isinstance(layer, Weighted):
            return self._behind_weights(layer, channels)
        if isinstance(layer, Sequential):
            for each in layer.layers:
                channels = self.through(each, channels)
            return channels
        if isinstance(layer, Branches):
            return self._joined(layer, [self.through(branch, channels) for branch in layer.branches])
        if type(layer).init is not Layer.init or any(map(_is_weighted, jax.tree.leaves(layer, is_leaf=_is_weighted))):
            raise InputError(
                f"`{layer.name}` has parameters, but is no layer of `ntkit.nn`: which of its sizes are widths is not "
                "known. Build the network of layers of `ntkit.nn`."
            )
        return channels._replace(repeated=(*channels.repeated, "Flatten")) if isinstance(layer, Flatten) else channels

    def _behind_weights(self, layer: Weighted, channels: _Channels) -> _Channels:
        group = len(self._parent)
        self._parent.append(group)
        self.widths[group] = layer.width
        self.own.append(group)
        self.read.append(channels.group)
        return _Channels(group)

    def _joined(self, layer: Branches, outs: list[_Channels]) -> _Channels:
        first, concat = outs[0], isinstance(layer, Concat)
        if concat and len(outs) > 1 and any(self.root(out.group) == self.root(_DATA) for out in outs):
            raise InputError(
                "`Concat` joins the raw input, whose channels are given, to other channels: their ratio changes with "
                "the width, and with it the infinite reading. Put a `Dense` into each branch."
            )
        for out in outs[1:]:
            if out.repeated != first.repeated and not concat:
                raise InputError(
                    f"The branches of `{layer.name}` have channels that are repeated in different ways (by `Flatten` "
                    "or `Concat`), so that their widths cannot change together. Put a `Dense` behind these."
                )
            ends = sorted((self.root(first.group), self.root(out.group)))
            self._parent[ends[1]] = ends[0]
        return _Channels(first.group, ("Concat", *(out.repeated for out in outs))) if concat else first
