"""Kernels of networks whose pass holds much more than it leaves: some examples at a time.

The loop is on the host, around a compiled pass: XLA for CPU runs convolutions many times slower inside of its own. So
this serves calls with values, not traced ones, for which the tiles of `ntkit.gram` are made.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ntkit.empirical._checks import Probe
from ntkit.empirical._rules import Factor, Outputs, Rule, Shapes, contribution, finished
from ntkit.empirical.methods import ByVectorProducts, Method, Network, length

# Bytes that all examples may hold at once, and that a pass should hold where they are more.
TOGETHER, PASSING = 1 << 24, 1 << 23


def examples_at_once(net: Network, method: Method, n1: int, n2: int, kind: Outputs, same: bool, word: int) -> int:
    """How many examples should pass through the network at a time: all, or of the larger side a number that fits, and
    divides it if one nearly as large does."""
    n = max(n1, n2)
    if isinstance(method, ByVectorProducts) or method.chunk is not None:
        return n
    each = method.treat(net, n1, n2, kind, same)[1].values()
    held = word * sum(_rows(shapes, net.outputs) for _, shapes in each)
    left = word * sum(_left(*known, net.outputs) for known in each)
    if n * held <= TOGETHER or held < 2 * left:
        return n
    most = min(n, max(1, PASSING // held))
    return next((d for d in range(most, most // 2, -1) if n % d == 0), most)


def _rows(shapes: Shapes, outputs: int) -> int:
    """Numbers that an example holds at a parameter's uses in a pass: activations and cotangents."""
    t, c, f = shapes
    return t * (c + outputs * f)


def _left(rule: Rule, shapes: Shapes, outputs: int) -> int:
    """Numbers that it leaves there for the product with others."""
    _, c, f = shapes
    return _rows(shapes, outputs) if rule in (Rule.ROWS, Rule.TOKENS) else outputs * c * f


# Numbers of examples by what they were found for. Were the function to change, they would still be right to use.
_found: dict[Any, int] = {}
_MOST = 256


def remembered(key: Any, count: Callable[[], int]) -> int:
    """`count()`, which traces the function, unless it is known; where the key has no hash it is counted anew."""
    try:
        hash(key)
    except TypeError:
        return count()
    if key not in _found:
        while len(_found) >= _MOST:
            _found.pop(next(iter(_found)))
        _found[key] = count()
    return _found[key]


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
    """The kernel's value, and the outputs of each side: in batches of `rows` examples, and alone."""
    sizes = length(x1), length(x1 if x2 is None else x2), x2 is None
    sides = [_side(kernel, x, rows, sizes) for x in (x1, x2) if x is not None]
    value = _value([factors for factors, _ in sides], kernel.outputs)
    return value, [probe for _, probe in sides]


def _side(kernel: Any, x: Any, rows: int, sizes: tuple[int, int, bool]) -> tuple[dict[int, Factor], Probe]:
    """The factors of all examples, which every pass fills a part of."""
    n = length(x)
    rows = min(rows, n)
    like = eqx.filter_eval_shape(_factors, kernel, jax.tree.map(lambda a: a[:rows], x), sizes)
    # Of NumPy: zeros of JAX are a program for each shape, which takes longer to compile than to run.
    whole = jax.device_put(jax.tree.map(lambda a: np.zeros((n, *a.shape[1:]), a.dtype), like))
    probes: dict[str, np.ndarray] = {}
    for start in range(0, n, rows):
        begin = min(start, n - rows)  # all passes are equally long, or the last would be compiled for itself
        whole, found = _filled((kernel, x, jnp.asarray(begin, jnp.int32), rows, sizes), whole)
        for name, part in found._asdict().items():
            probes.setdefault(name, np.empty((n, *part.shape[1:]), part.dtype))[begin : begin + rows] = part
    return whole, Probe(**{name: jnp.asarray(a) for name, a in probes.items()})


def _factors(kernel: Any, x: Any, sizes: tuple[int, int, bool]) -> dict[int, Factor]:
    net, method = kernel.network_and_method(x, *sizes)
    n1, n2, same = sizes
    return method.factors(net, jax.tree.leaves(kernel.params), x, n1, n2, kernel.outputs, same)


@eqx.filter_jit(donate="all-except-first")
def _filled(job: tuple[Any, Any, Array, int, tuple[int, int, bool]], whole: Any) -> tuple[Any, Probe]:
    """With the factors of `rows` examples from `start` on; and their outputs."""
    kernel, x, start, rows, sizes = job
    # Never one alone of several, which would not show that it depends on others.
    batch = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, max(rows, min(2, len(a)))), x)
    place = start - jnp.minimum(start, length(x) - length(batch))  # a slice that would reach beyond begins earlier
    own = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, place, rows), batch)
    made = _factors(kernel, own, sizes)
    whole = jax.tree.map(lambda all, part: lax.dynamic_update_slice_in_dim(all, part, start, 0), whole, made)
    together = lax.dynamic_slice_in_dim(kernel.fn(kernel.params, batch), place, rows)
    return whole, Probe(together, Probe.alone_of(kernel.fn, kernel.params, own))


@partial(jax.jit, static_argnums=1)
def _value(sides: list[dict[int, Factor]], kind: Outputs) -> Array:
    """The sum of what the parameters add."""
    outputs = jax.tree.leaves(sides[0])[-1].shape[1]
    total = sum(contribution(sides[0][leaf], sides[-1][leaf], kind) for leaf in sides[0])
    return finished(jnp.asarray(total), kind, outputs)
