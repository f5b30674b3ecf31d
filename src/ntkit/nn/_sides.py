"""What of a computation on a pair depends on one of its two inputs alone: to be done once per input, not per pair."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun
from jaxtyping import Array, PyTree

LEFT, RIGHT, PAIR = 1, 2, 4


class Sides(NamedTuple):
    """A function of x, y and what belongs to the pair, in parts.

    `left(x)` and `right(y)` return (features, values): what the rest of the computation reads, and those results that
    depend on x or on y alone. `rest(features of x, features of y, pair)` returns the other results; given `of` (a
    tuple), those of them alone, by no more steps than they take. `place` says for each leaf of the result which of the
    three has it.
    """

    left: Callable[[PyTree], tuple[list[Array], list[Array]]]
    right: Callable[[PyTree], tuple[list[Array], list[Array]]]
    rest: Callable[..., list[Array]]
    place: tuple[int, ...]


def sides(fn: Callable[[Any, Any, Any], Any], x: PyTree, y: PyTree, pair: PyTree) -> Sides:
    """Traces `fn` for arguments of the shapes of `x`, `y` and `pair`, and sorts its steps by what they depend on.

    XLA would do the steps of x and y again for each pair: it moves nothing out of a loop, and recomputes what it fuses.
    """
    closed = jax.make_jaxpr(fn)(x, y, pair)
    jaxpr = _without_repetitions(closed)
    counts = [len(jax.tree.leaves(part)) for part in (x, y, pair)]
    own = [jaxpr.invars[: counts[0]], jaxpr.invars[counts[0] : sum(counts[:2])], jaxpr.invars[sum(counts[:2]) :]]
    depends = {var: mark for mark, group in zip((LEFT, RIGHT, PAIR), own, strict=True) for var in group}

    def mark(var: Any) -> int:
        return 0 if isinstance(var, Literal) else depends.get(var, 0)

    groups: dict[int, list[JaxprEqn]] = {0: [], LEFT: [], RIGHT: [], PAIR: []}
    for eqn in jaxpr.eqns:
        of = 0
        for var in eqn.invars:
            of |= mark(var)
        of = of if of in (0, LEFT, RIGHT) else PAIR
        depends |= dict.fromkeys(eqn.outvars, of)
        groups[of].append(eqn)
    place = tuple(mark(var) or PAIR for var in jaxpr.outvars)
    placed = list(zip(jaxpr.outvars, place, strict=True))
    results = {of: [var for var, at in placed if at == of] for of in (LEFT, RIGHT, PAIR)}
    pairs = _needed(groups[0] + groups[PAIR], results[PAIR])
    read = [var for eqn in pairs for var in eqn.invars] + results[PAIR]
    cut = {of: list(dict.fromkeys(var for var in read if mark(var) == of)) for of in (LEFT, RIGHT)}

    def part(eqns: list[JaxprEqn], invars: list[Any], outvars: list[Any]) -> Callable[..., list[Array]]:
        body = Jaxpr(
            jaxpr.constvars, invars, outvars, _needed(eqns, outvars), debug_info=jaxpr.debug_info.with_unknown_names()
        )
        return jaxpr_as_fun(ClosedJaxpr(body, closed.consts))

    def one_side(of: int, invars: list[Var]) -> Callable[[PyTree], tuple[list[Array], list[Array]]]:
        run, count = part(groups[0] + groups[of], invars, cut[of] + results[of]), len(cut[of])
        return lambda inputs: ((out := run(*jax.tree.leaves(inputs)))[:count], out[count:])

    def rest(of_x: Sequence[Any], of_y: Sequence[Any], pair: PyTree, of: tuple[int, ...] | None = None) -> list[Any]:
        wanted = results[PAIR] if of is None else [results[PAIR][k] for k in of]
        return part(pairs, [*cut[LEFT], *cut[RIGHT], *own[2]], wanted)(*of_x, *of_y, *jax.tree.leaves(pair))

    return Sides(one_side(LEFT, own[0]), one_side(RIGHT, own[1]), rest, place)


def _without_repetitions(closed: ClosedJaxpr) -> Jaxpr:
    """Each step once: what is looked up for every pair should be few arrays."""
    jaxpr, same = closed.jaxpr, _equal_constants(closed)
    known: dict[Any, list[Var]] = {}
    eqns = []

    def first(var: Any) -> Any:
        return var if isinstance(var, Literal) else same.get(var, var)

    for eqn in jaxpr.eqns:
        invars = [first(var) for var in eqn.invars]
        key = _key(eqn, invars)
        if key is not None and key in known:
            same |= dict(zip(eqn.outvars, known[key], strict=True))
            continue
        if key is not None:
            known[key] = eqn.outvars
        eqns.append(eqn.replace(invars=invars))
    return jaxpr.replace(eqns=eqns, outvars=[first(var) for var in jaxpr.outvars])


def _equal_constants(closed: ClosedJaxpr) -> dict[Any, Any]:
    """Each but the first of those that have one value, and the first."""
    firsts: dict[Any, Var] = {}
    same = {}
    for var, const in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        if isinstance(const, np.ndarray):
            first = firsts.setdefault((const.dtype, const.shape, const.tobytes()), var)
            if first is not var:
                same[var] = first
    return same


def _key(eqn: JaxprEqn, invars: list[Any]) -> Any:
    """Equal for equal steps; None where that cannot be told."""
    inputs = tuple((str(var.val), var.aval) if isinstance(var, Literal) else var for var in invars)
    params = tuple(sorted(eqn.params.items(), key=lambda item: item[0]))
    try:
        hash(key := (eqn.primitive, inputs, params))
    except TypeError:
        return None
    return key if not eqn.effects else None


def _needed(eqns: list[JaxprEqn], outvars: list[Any]) -> list[JaxprEqn]:
    """The steps that the outputs need, in order."""
    needed = {var for var in outvars if not isinstance(var, Literal)}
    kept = []
    for eqn in reversed(eqns):
        if needed.intersection(eqn.outvars):
            kept.append(eqn)
            needed.update(var for var in eqn.invars if not isinstance(var, Literal))
    return kept[::-1]
