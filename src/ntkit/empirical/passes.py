"""Kernels of networks whose pass holds much more than it leaves: some examples at a time.

The loop is on the host, around a compiled pass: XLA for CPU runs convolutions many times slower inside of its own. So
this serves calls with values, not traced ones, for which the tiles of `ntkit.gram` are made.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ntkit.empirical._checks import Probe
from ntkit.empirical._rules import Factor, Outputs, contribution, finished
from ntkit.empirical.methods import ByVectorProducts, Method, Network, length

# Bytes that a pass should hold.
PASSING = 1 << 24


def examples_at_once(net: Network, method: Method, n1: int, n2: int, kind: Outputs, same: bool, word: int) -> int:
    """How many examples should pass through the network at a time: all, or of the larger side a number that fits, and
    divides it if one nearly as large does. Never one of several, which would not show that it depends on others."""
    n = max(n1, n2)
    if isinstance(method, ByVectorProducts) or method.chunk is not None:
        return n
    each = [known.shapes for known in method.treat(net, n1, n2, kind, same)[1].values()]
    held = word * sum(t * (c + net.outputs * f) for t, c, f in each)
    most = max(2, PASSING // max(1, held))
    if n <= most:
        return n
    return next((d for d in range(most, most // 2, -1) if n % d == 0), most)


# Numbers of examples by what they were found for. Were the function to change, they would still be right to use.
_found: dict[Any, int] = {}
_MOST = 256


def remembered(key: Any, count: Callable[[], int]) -> int:
    """`count()`, which traces the function, unless it is known; where the key has no hash it is counted anew."""
    try:
        if key not in _found:
            while len(_found) >= _MOST:
                _found.pop(next(iter(_found)))
            _found[key] = count()
        return _found[key]
    except TypeError:
        return count()


class _Traced(threading.local):
    on = False
    network: tuple[Any, Network] | None = None


_traced = _Traced()


@contextlib.contextmanager
def traced_once() -> Iterator[None]:
    """In it `latest` traces a function once: to decide on passes, and to compile."""
    _traced.on, _traced.network = True, None
    try:
        yield
    finally:
        _traced.on, _traced.network = False, None


def latest(fn: Any, trace: Callable[[], Network]) -> Network:
    """`trace()` of a function, or what it gave in the same `traced_once`."""
    if not _traced.on:
        return trace()
    if _traced.network is None or _traced.network[0] is not fn:
        _traced.network = fn, trace()
    return _traced.network[1]


def in_passes(kernel: Any, x1: Any, x2: Any, rows: int) -> tuple[Array, list[Probe]]:
    """The kernel's value, and the outputs of each side: in their batches of `rows` examples, and alone."""
    sizes = length(x1), length(x1 if x2 is None else x2), x2 is None
    sides = [_side(kernel, x, rows, sizes) for x in (x1, x2) if x is not None]
    value = _value([factors for factors, _ in sides], sizes[:2], kernel.outputs, rows)
    return value, [probe for _, probe in sides]


def _starts(n: int, rows: int) -> list[int]:
    """Where the parts begin. All are equally long, or the last would be compiled for itself: it begins earlier."""
    return [min(start, max(0, n - rows)) for start in range(0, n, rows)]


def _disjoint(parts: Sequence[Any], n: int, rows: int) -> list[Any]:
    """The parts, without what the last one has in common with the one before."""
    return [*parts[:-1], parts[-1][max(0, len(parts) * rows - n) if n > rows else 0 :]]


def _side(kernel: Any, x: Any, rows: int, sizes: tuple[int, int, bool]) -> tuple[list[dict[int, Factor]], Probe]:
    n, parts, probes = length(x), [], []
    for start in _starts(n, rows):
        factors, probe = _factors(kernel, x, jnp.asarray(start, jnp.int32), min(rows, n), sizes)
        parts.append(factors)
        probes.append([np.asarray(a) for a in probe])
    together, alone = (jnp.asarray(np.concatenate(_disjoint(each, n, rows))) for each in zip(*probes, strict=True))
    return parts, Probe(together, alone)


@eqx.filter_jit
def _factors(
    kernel: Any, x: Any, start: Array, rows: int, sizes: tuple[int, int, bool]
) -> tuple[dict[int, Factor], Probe]:
    x = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, rows), x)
    net, method = kernel.network_and_method(x, *sizes)
    n1, n2, same = sizes
    made = method.factors(net, jax.tree.leaves(kernel.params), x, n1, n2, kernel.outputs, same)
    return made, Probe.of(kernel.fn, kernel.params, x)


def _value(sides: list[list[dict[int, Factor]]], sizes: tuple[int, int], kind: Outputs, rows: int) -> Array:
    """The sum of what the parameters add, each let go before the next: in one program XLA puts all of them together at
    the same time."""
    total, outputs = None, jax.tree.leaves(sides[0][0])[-1].shape[1]
    for leaf in list(sides[0][0]):
        parts = [[part.pop(leaf) for part in side] for side in sides]
        total = _added(total, parts, sizes, kind, rows)
    assert total is not None
    return finished(total, kind, outputs)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _added(total: Array | None, sides: list[list[Factor]], sizes: tuple[int, int], kind: Outputs, rows: int) -> Array:
    whole = [
        jax.tree.map(lambda *a, n=n: jnp.concatenate(_disjoint(a, n, rows)), *side)
        for side, n in zip(sides, sizes, strict=False)
    ]
    own = contribution(whole[0], whole[-1], kind)
    return own if total is None else total + own
