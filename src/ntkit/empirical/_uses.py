"""How each parameter enters a function: its uses, found in the function's jaxpr and, at each, what comes in.

A use is a matrix product or a convolution of a parameter with something else, its addition, spread over rows, or the
lookup of some of its slices, as of tokens in a table. Where
a parameter reaches the output through one use alone, its gradient is X^T G, activations times cotangents (`_rules`),
and need never be formed. Several uses of one kind, as of a weight in each turn of a recurrence, are one with the rows
of all. On the way to its use a parameter may be reshaped, transposed, cast, negated and multiplied by a
number. What else happens to it (uses of two kinds, a loop) is left to autodiff, exactly. One interpreter does both,
finding and computing, so that they cannot disagree.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.extend.core as core
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

# Programs in programs whose equations are walked as if they stood here.
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr", "remat2": "jaxpr"}
# They move the entries of a parameter, or turn the sign of all: lengths and angles of gradients stay.
MOVES = {"reshape", "transpose", "squeeze", "expand_dims", "rev", "neg", "copy", "copy_p", "convert_element_type"}
# They make an array of one number.
SPREADS = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "convert_element_type", "copy"}


class Value(NamedTuple):
    """An array; which parameter it is, if it is one, and times what number; the number of which it is made."""

    array: Any
    leaf: int | None = None
    scale: Any = 1.0
    number: Any = None
    data: bool = False  # whether it depends on the inputs
    spread: tuple[int, ...] | None = None  # axes along which a parameter, repeated over the others, has its entries
    path: tuple[str, ...] = ()  # how the entries of a parameter were moved


class Use(NamedTuple):
    """What is made with a parameter: which, by which equation, and its shape."""

    leaf: int
    equation: Any
    first: bool  # whether the parameter is the first operand
    shape: tuple[int, ...]
    dtype: Any
    spread: tuple[int, ...] = ()  # of an addition: as of `Value`
    path: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return self.equation.primitive.name

    @property
    def layout(self) -> tuple[Any, ...]:
        """Which entry of the parameter is which of X^T G: the gradients of uses of one layout may be added."""
        params, operand = self.equation.params, self.equation.invars[0 if self.first else 1].aval
        if self.kind in ("add", "add_any"):
            # Entries in their order, whatever axes of length 1 there are.
            return "add", self.dtype, tuple(step for step in self.path if step.startswith(("transpose", "rev")))
        if self.kind == "dot_general":
            where: Any = params["dimension_numbers"][0][0 if self.first else 1]
        elif self.kind == "gather":
            where = params["dimension_numbers"].collapsed_slice_dims
        else:
            where = params["dimension_numbers"]
        return self.kind, self.dtype, self.path, operand.shape, str(where)


class Record(NamedTuple):
    """What came in at a use, as (T, c): rows that meet the columns of the parameter; and the parameter's factor.

    Of a lookup (T, 1), which slice each row is: whole numbers, -1 for none."""

    activations: Array
    scale: Any


class Uses(NamedTuple):
    """The uses of each parameter that has some, all of one layout, by parameter and in order."""

    by_leaf: dict[int, tuple[Use, ...]]

    @property
    def leaves(self) -> list[int]:
        return sorted(self.by_leaf)


@lru_cache(maxsize=64)
def find_uses(jaxpr: Any, leaves: int, wanted: tuple[int, ...]) -> Uses:
    """Of a closed jaxpr whose first inputs are the parameters; `wanted` are those to look for."""
    walk = _Walk(set(wanted), None)

    def run(*arrays: Array) -> Any:
        return walk.program(jaxpr, _inputs(arrays, leaves, set(wanted)))

    jax.eval_shape(run, *(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in jaxpr.jaxpr.invars))
    found = {leaf: tuple(use for use in walk.found if use.leaf == leaf) for leaf in wanted if leaf not in walk.lost}
    return Uses({leaf: uses for leaf, uses in found.items() if len({use.layout for use in uses}) == 1})


def apply_with_uses(
    jaxpr: Any, arrays: Sequence[Any], leaves: int, uses: Uses, added: Sequence[Sequence[Array]]
) -> tuple[list[Array], list[list[Record]]]:
    """The outputs, with `added` to what each use makes, and what came in at each, in the order of `uses.leaves`."""
    records: dict[int, list[Record]] = {leaf: [] for leaf in uses.leaves}
    place = {leaf: k for k, leaf in enumerate(uses.leaves)}

    def at_use(use: Use, made: Array, other: Array, scale: Any) -> Array:
        records[use.leaf].append(Record(_rows(use, other), scale))
        return made + added[place[use.leaf]][len(records[use.leaf]) - 1]

    out = _Walk(set(place), at_use).program(jaxpr, _inputs(arrays, leaves, set(place)))
    return out, [records[leaf] for leaf in uses.leaves]


def first_not_finite(jaxpr: Any, arrays: Sequence[Any], leaves: int) -> tuple[int | None, int | None]:
    """The last parameter whose product is finite, and the first whose is not, of one example whose output is not."""
    last: list[int] = []
    first: list[int] = []

    def at_use(use: Use, made: Array, other: Array, scale: Any) -> Array:
        (last if bool(jnp.isfinite(made).all()) and not first else first).append(use.leaf)
        return made

    _Walk(set(range(leaves)), at_use).program(jaxpr, _inputs(arrays, leaves, set(range(leaves))))
    return (last[-1] if last else None), (first[0] if first else None)


def _inputs(arrays: Sequence[Any], leaves: int, wanted: set[int]) -> list[Value]:
    return [Value(a, i if i in wanted else None, data=i >= leaves) for i, a in enumerate(arrays)]


class _Walk:
    """Goes through a program, and knows of each value which parameter it is. Without `at_use` it only takes note."""

    def __init__(self, wanted: set[int], at_use: Callable[[Use, Array, Array, Any], Array] | None):
        self.wanted, self.at_use = wanted, at_use
        self.found: list[Use] = []
        self.lost: set[int] = set()

    def program(self, closed: Any, inputs: Sequence[Value]) -> list[Array]:
        out = self.body(closed.jaxpr, [Value(c) for c in closed.consts], inputs)
        self.lost |= {value.leaf for value in out if value.leaf is not None}
        return [value.array for value in out]

    def body(self, jaxpr: Any, consts: Sequence[Value], inputs: Sequence[Value]) -> list[Value]:
        known: dict[Any, Value] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))

        def read(v: Any) -> Value:
            return Value(v.val, number=v.val if jnp.ndim(v.val) == 0 else None) if _is_literal(v) else known[v]

        for equation in jaxpr.eqns:
            values = self.equation(jaxpr, equation, [read(v) for v in equation.invars])
            known.update(zip(equation.outvars, values, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def equation(self, jaxpr: Any, equation: Any, inputs: list[Value]) -> list[Value]:
        name, of_leaves = equation.primitive.name, [v for v in inputs if v.leaf is not None]
        if name in CALLS and of_leaves:
            inner = equation.params[CALLS[name]]
            closed = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
            return self.body(closed.jaxpr, [Value(c) for c in closed.consts], inputs)
        made = _evaluate(jaxpr, equation, [v.array for v in inputs])
        data = any(v.data for v in inputs)
        if len(of_leaves) == 1:
            leaf = of_leaves[0]
            if leaf.spread is None and (axes := _spread(equation)) is not None:
                return [leaf._replace(array=made[0], data=data, spread=axes)]
            if leaf.spread is None and (scale := _moved(equation, inputs, leaf)) is not None:
                moved = leaf._replace(array=made[0], scale=leaf.scale * scale, data=data)
                return [moved._replace(path=(*leaf.path, *_step(equation)))]
            if (use := _use(equation, inputs, leaf)) is not None:
                return [Value(self._used(use, made[0], inputs, leaf), data=data)]
        self.lost |= {v.leaf for v in of_leaves if v.leaf is not None}
        number = inputs[0].number if name in SPREADS else None
        return [Value(array, number=number, data=data) for array in made]

    def _used(self, use: Use, made: Array, inputs: list[Value], leaf: Value) -> Array:
        use = use._replace(path=leaf.path)
        self.found.append(use)
        other = inputs[1 if use.first else 0].array
        return made if self.at_use is None else self.at_use(use, made, other, leaf.scale)


def _is_literal(v: Any) -> bool:
    return isinstance(v, core.Literal)


def _evaluate(jaxpr: Any, equation: Any, arrays: list[Any]) -> list[Array]:
    """One equation, with its own rules of differentiation."""
    pairs = [(v, a) for v, a in zip(equation.invars, arrays, strict=True) if not _is_literal(v)]
    names = dict(pairs)  # an operand may stand twice
    one = jaxpr.replace(constvars=(), invars=tuple(names), outvars=tuple(equation.outvars), eqns=[equation],
                        effects=equation.effects, debug_info=jaxpr.debug_info.with_unknown_names())  # fmt: skip
    return core.jaxpr_as_fun(core.ClosedJaxpr(one, ()))(*names.values())


def _moved(equation: Any, inputs: list[Value], leaf: Value) -> Any:
    """By what a parameter is multiplied that is still itself behind the equation; None where it is not."""
    name = equation.primitive.name
    if name in MOVES or (name == "broadcast_in_dim" and equation.outvars[0].aval.size == jnp.size(leaf.array)):
        floats = jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating)
        return (-1.0 if name == "neg" else 1.0) if floats else None
    if name == "mul" or (name == "div" and inputs[0] is leaf):
        other = inputs[1] if inputs[0] is leaf else inputs[0]
        number = other.number if other.number is not None else other.array if jnp.ndim(other.array) == 0 else None
        if number is None or other.data or equation.outvars[0].aval.shape != jnp.shape(leaf.array):
            return None
        number = jnp.reshape(jnp.asarray(number), ())
        return number if name == "mul" else 1 / number
    return None


def _step(equation: Any) -> tuple[str, ...]:
    """A move as a part of `Value.path`: nothing where each entry stays in its place."""
    name = equation.primitive.name
    if name not in MOVES | {"broadcast_in_dim"} or name in ("neg", "copy", "copy_p", "convert_element_type"):
        return ()
    shapes = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return (f"{name} {shapes} {sorted(map(str, equation.params.items()))}",)


def _spread(equation: Any) -> tuple[int, ...] | None:
    """Where the entries of a parameter go that is repeated along other axes; None if it is not."""
    if equation.primitive.name != "broadcast_in_dim":
        return None
    own, out = equation.invars[0].aval, equation.outvars[0].aval
    if own.size == out.size:
        return None
    return tuple(a for a, n in zip(equation.params["broadcast_dimensions"], own.shape, strict=True) if n > 1)


def _use(equation: Any, inputs: list[Value], leaf: Value) -> Use | None:
    name, params, out = equation.primitive.name, equation.params, equation.outvars[0].aval
    first = inputs[0] is leaf
    if name in ("add", "add_any"):
        # An axis of length 1 is repeated where the other operand is longer.
        own = tuple(a for a, n in enumerate(jnp.shape(leaf.array)) if n > 1)
        spread = own if leaf.spread is None else leaf.spread
        return Use(leaf.leaf, equation, first, out.shape, out.dtype, spread)  # pyright: ignore[reportArgumentType]
    if leaf.spread is not None:
        return None
    if name == "dot_general" and params["dimension_numbers"][1] == ((), ()):
        return Use(leaf.leaf, equation, first, out.shape, out.dtype)  # pyright: ignore[reportArgumentType]
    if name == "conv_general_dilated" and not first and _one_group(params):
        return Use(leaf.leaf, equation, first, out.shape, out.dtype)  # pyright: ignore[reportArgumentType]
    if name == "gather" and first and _of_whole_slices(params, jnp.shape(leaf.array)):
        return Use(leaf.leaf, equation, first, out.shape, out.dtype)  # pyright: ignore[reportArgumentType]
    return None


def _of_whole_slices(params: Any, shape: tuple[int, ...]) -> bool:
    """Whether a gather takes whole slices along one axis, each by one number."""
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    axes = numbers.collapsed_slice_dims
    whole = len(axes) == 1 and numbers.start_index_map == axes and not numbers.operand_batching_dims
    return whole and tuple(sizes) == tuple(1 if a == axes[0] else n for a, n in enumerate(shape))


def _one_group(params: Any) -> bool:
    return params["feature_group_count"] == params["batch_group_count"] == 1


def _rows(use: Use, other: Array) -> Array:
    """What the parameter is multiplied with, as (T, c): a row for each place where it stands."""
    params = use.equation.params
    if use.kind in ("add", "add_any"):
        return jnp.ones((_size([n for a, n in enumerate(use.shape) if a not in use.spread]), 1), use.dtype)
    if use.kind == "dot_general":
        contracted = params["dimension_numbers"][0][1 if use.first else 0]
        # In the order of the parameter's own axes, which no product of two gradients sees.
        moved = jnp.moveaxis(other, contracted, range(-len(contracted), 0))
        kept = other.ndim - len(contracted)
        return moved.reshape(_size(moved.shape[:kept]), _size(moved.shape[kept:]))
    if use.kind == "gather":
        return _slices(use, other)
    numbers = params["dimension_numbers"]
    filters = use.equation.invars[1].aval.shape
    patches = lax.conv_general_dilated_patches(
        other, [filters[axis] for axis in numbers.rhs_spec[2:]], params["window_strides"], params["padding"],
        params["lhs_dilation"], params["rhs_dilation"], dimension_numbers=numbers,
    )  # fmt: skip
    rows = jnp.moveaxis(patches, numbers.out_spec[1], -1)
    return rows.reshape(-1, rows.shape[-1])


def _slices(use: Use, index: Array) -> Array:
    """Which slice each row of a lookup is, as the gather treats numbers outside."""
    flat, most = index.reshape(-1, 1), slices(use) - 1
    if use.equation.params["mode"] == lax.GatherScatterMode.CLIP:
        return jnp.clip(flat, 0, most)
    return jnp.where((flat >= 0) & (flat <= most), flat, -1)


def slices(use: Use) -> int:
    """Of a lookup: rows of the table."""
    (axis,) = use.equation.params["dimension_numbers"].collapsed_slice_dims
    return use.equation.invars[0].aval.shape[axis]


def columns(use: Use, cotangent: Array) -> Array:
    """A cotangent of what a use makes as (T, f), with the same T."""
    if use.kind in ("add", "add_any"):
        moved = jnp.moveaxis(cotangent, use.spread, range(-len(use.spread), 0))
        return moved.reshape(-1, _size([use.shape[a] for a in use.spread]))
    if use.kind == "conv_general_dilated":
        moved = jnp.moveaxis(cotangent, use.equation.params["dimension_numbers"].out_spec[1], -1)
        return moved.reshape(-1, moved.shape[-1])
    if use.kind == "gather":
        inside = use.equation.params["dimension_numbers"].offset_dims
        moved = jnp.moveaxis(cotangent, inside, range(-len(inside), 0))
        return moved.reshape(-1, _size([use.shape[a] for a in inside]))
    parameter = use.equation.invars[0 if use.first else 1].aval
    free = parameter.ndim - len(use.equation.params["dimension_numbers"][0][0])
    if use.first:  # the parameter's axes stand in front
        rows = cotangent.reshape(_size(cotangent.shape[:free]), -1)
        return rows.T
    return cotangent.reshape(-1, _size(cotangent.shape[cotangent.ndim - free :]))


def _size(shape: Sequence[int]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total
