"""What can be wrong with a function, its parameters and its inputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkit._check import check_finite
from ntkit.empirical._uses import first_not_finite
from ntkit.empirical.methods import length, network
from ntkit.errors import ComputationError, InputError

FLOATS = ("float32", "float64")


def floats(params: Any) -> dict[int, tuple[str, Any]]:
    """The parameters that are arrays of floats, by their number among all leaves: name and array."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {
        i: (jax.tree_util.keystr(path, simple=True, separator=".") or "params", leaf)
        for i, (path, leaf) in enumerate(leaves)
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    }


def chosen(params: Any, only: tuple[str, ...] | None) -> tuple[int, ...]:
    """The numbers of the parameters that count."""
    known = floats(params)
    if only is None:
        return tuple(known)
    if not only:
        raise InputError("`only` names no parameter, of which the kernel would be 0. None stands for all.")
    for part in only:
        if not any(_begins(name, part) for name, _ in known.values()):
            names = ", ".join(f"`{name}`" for name, _ in known.values())
            raise InputError(f"`only` names {part!r}, but no parameter begins so. The parameters are {names}.")
    return tuple(i for i, (name, _) in known.items() if any(_begins(name, part) for part in only))


def _begins(name: str, part: str) -> bool:
    return name == part or name.startswith(part.rstrip(".") + ".")


def check_parameters(params: Any) -> None:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    for path, leaf in leaves:
        dtype = getattr(leaf, "dtype", None)
        if dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
            raise InputError(
                f"`params{jax.tree_util.keystr(path)}` is complex ({dtype}). The NTK of complex parameters is not "
                "defined here: use their real and imaginary parts as parameters."
            )
    known = floats(params)
    if not any(np.size(leaf) for _, leaf in known.values()):
        raise InputError(
            "`params` holds no array of floats, so that there is nothing to differentiate by. Pass the network's "
            "parameters, as its `init` returns them."
        )
    for name, leaf in known.values():
        if leaf.dtype.name not in FLOATS:
            raise InputError(f"Parameter `{name}` has dtype {leaf.dtype}; convert it to float32 or float64.")
        if not isinstance(leaf, jax.core.Tracer) and not bool(np.isfinite(np.asarray(leaf)).all()):
            raise InputError(f"Parameter `{name}` is not finite: has training diverged?")


def check_batch(name: str, x: Any) -> Any:
    """A batch as arrays; each leaf has the examples first."""
    leaves = jax.tree.leaves(x)
    if not leaves:
        raise InputError(f"`{name}` holds no array.")
    arrays = [leaf if isinstance(leaf, jax.core.Tracer) else jnp.asarray(leaf) for leaf in leaves]
    sizes = {a.shape[0] if a.ndim else None for a in arrays}
    if None in sizes or len(sizes) != 1:
        raise InputError(
            f"All arrays of `{name}` must have the examples as their first axis, equally many; their shapes are "
            f"{', '.join(str(a.shape) for a in arrays)}."
        )
    if 0 in sizes:
        raise InputError(f"`{name}` holds no example.")
    for a in arrays:
        if not isinstance(a, jax.core.Tracer) and jnp.issubdtype(a.dtype, jnp.floating):
            check_finite(name, np.asarray(a))
    return jax.tree.unflatten(jax.tree.structure(x), arrays)


def check_alike(x1: Any, x2: Any) -> None:
    first, second = ((jax.tree.structure(x), [(a.shape[1:], a.dtype) for a in jax.tree.leaves(x)]) for x in (x1, x2))
    kinds = jax.tree.structure(x1), jax.tree.structure(x2)
    if kinds[0] != kinds[1]:
        raise InputError(f"`x1` and `x2` must be built alike, but are {kinds[0]} and {kinds[1]}.")
    if first != second:
        raise InputError(
            "`x1` and `x2` must hold examples of one shape and dtype, but those of `x1` are "
            f"{_written(first[1])}, of `x2` {_written(second[1])}."
        )


def _written(arrays: list[tuple[tuple[int, ...], Any]]) -> str:
    return " and ".join(f"{dtype}{list(shape)}" for shape, dtype in arrays)


def check_function(fn: Callable, params: Any, name: str, x: Any) -> None:
    """Its outputs are (n, o) of floats."""
    try:
        out = jax.eval_shape(fn, params, x)
    except (TypeError, ValueError) as error:
        raise InputError(f"`fn(params, x)` fails for these inputs: {error}") from error
    if not hasattr(out, "shape") or len(out.shape) != 2 or out.shape[0] != length(x):
        shape = getattr(out, "shape", type(out).__name__)
        raise InputError(
            f"`fn(params, x)` must return an array (n, o), here ({length(x)}, o), but returns {shape}. Reduce or "
            "reshape its output, such as `lambda p, x: fn(p, x).reshape(len(x), -1)`."
        )
    if out.dtype.name not in FLOATS:
        raise InputError(f"`fn(params, x)` returns {out.dtype}; the kernel needs float32 or float64.")


def are_known(*trees: Any) -> bool:
    """Whether there are values to look at: not inside of jit, grad or vmap."""
    return not any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(trees))


class Probe(NamedTuple):
    """The outputs (n, o) of all examples in their batch, and of each alone."""

    together: Array
    alone: Array

    @staticmethod
    def of(fn: Callable, params: Any, x: Any) -> "Probe":
        return Probe(fn(params, x), Probe.alone_of(fn, params, x))

    @staticmethod
    def alone_of(fn: Callable, params: Any, x: Any) -> Array:
        """All examples, each alone, as a structured kernel computes them as well: one by itself would be more to
        compile."""

        def one(example: Any) -> Array:
            return fn(params, jax.tree.map(lambda a: a[None], example))[0]

        return jax.vmap(one)(x)


@eqx.filter_jit
def probed(fn: Callable, params: Any, x: Any) -> Probe:
    return Probe.of(fn, params, x)


def check_outputs(probe: Probe, fn: Callable, params: Any, name: str, x: Any) -> None:
    """Each output depends on its example alone, and is finite; else it is traced back to an example and a parameter."""
    together, alone = (np.asarray(a) for a in probe)
    # Another batch size may round differently; what a batch norm does is far more.
    with np.errstate(invalid="ignore"):
        apart = np.abs(together - alone).max(axis=1)
    wrong = apart > 1e-3 * max(1e-30, np.abs(alone).max())
    if wrong.any():
        i = int(np.argmax(wrong))
        raise InputError(
            f"`fn` gives example {i} of `{name}` another output in its batch than alone "
            f"(they differ by {apart[i]:.2g}): its rows depend on other examples, as under batch normalisation in "
            "training mode, or on chance, as under dropout. Use the network as it predicts: running averages, no "
            "dropout."
        )
    if not np.isfinite(together).all():
        _trace_back(fn, params, name, x, int(np.argmin(np.isfinite(together).all(axis=1))))


def _trace_back(fn: Callable, params: Any, name: str, x: Any, bad: int) -> None:
    example = jax.tree.map(lambda a: a[bad], x)
    net = network(fn, params, example, ())
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    last, first = first_not_finite(net.jaxpr, [*leaves, *jax.tree.leaves(example)], net.leaves)
    names = {i: f"`{known}`" for i, (known, _) in floats(params).items()}
    where = f"; the product with {names[first]} is the first that is not" if first in names else ""
    where += f"; that with {names[last]} still is" if last in names else ""
    raise ComputationError(f"`fn` returns values that are not finite for example {bad} of `{name}`{where}.")


@jax.jit
def _all_finite(value: Array) -> Array:
    return jnp.isfinite(value).all()


def _is_finite(value: Array) -> bool:
    """Of an array on the host without a program of its own, which would take longer to compile than the look."""
    if any(device.platform != "cpu" for device in value.devices()):
        return bool(_all_finite(value))
    numbers = np.asarray(value)
    with np.errstate(all="ignore"):
        return bool(np.isfinite(numbers.sum())) or bool(np.isfinite(numbers).all())


def check_values(value: Array) -> None:
    """The kernel itself, where its values are known."""
    if not isinstance(value, jax.core.Tracer) and not _is_finite(value):
        raise ComputationError(
            "The kernel has entries that are not finite, though the outputs are: a derivative is infinite (as of a "
            f"square root at 0), or {value.dtype} overflows." + (" Try float64." if value.dtype.itemsize < 8 else "")
        )
