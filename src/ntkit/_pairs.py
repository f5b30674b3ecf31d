"""The law of the raw data at all pairs of rows: one matrix product, and exact gaps where rows nearly coincide."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ntkit._check import is_float
from ntkit.errors import InputError
from ntkit.nn import Covariance
from ntkit.nn._law import safe_sqrt, size

# Up to this many features the differences of all pairs are summed directly; beyond, a matrix product is far cheaper.
FEW_FEATURES = 16
# Pairs refined per round of the loop below.
CHUNK = 2048


def check_batches(x1: Array, x2: Array | None) -> None:
    """What can be refused while a program is traced: ranks, dtypes and widths."""
    for name, x in (("x1", x1), ("x2", x2)):
        if x is None:
            continue
        if jnp.ndim(x) != 2:
            hint = f" For a single example pass `{name}[None, :]`." if jnp.ndim(x) == 1 else ""
            raise InputError(f"`{name}` must have shape (n, features), but has shape {jnp.shape(x)}.{hint}")
        if not is_float(x.dtype):
            raise InputError(f"`{name}` must hold floating-point numbers, but has dtype {x.dtype}. Convert it: {name}.astype(float).")
        if x.shape[1] == 0:
            raise InputError(f"`{name}` has no features: its shape is {x.shape}.")
    if x2 is not None and x1.shape[1] != x2.shape[1]:
        raise InputError(f"`x1` and `x2` must have equally many features, but their shapes are {x1.shape} and {x2.shape}.")
    if x2 is not None and x1.dtype != x2.dtype:
        raise InputError(f"`x1` and `x2` must have one dtype, but have {x1.dtype} and {x2.dtype}.")


def variances(x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """K(x, x) = |x|^2 / d of each row."""
    return jnp.mean(x * x, axis=-1)


def pair_laws(x1: Float[Array, "n d"], x2: Float[Array, "m d"] | None) -> tuple[Covariance, Covariance, Covariance]:
    """The law of all pairs, and the axes over which to map it: rows first, then columns.

    K(x, y) = x.y / d. The gap sqrt(K(x,x) K(y,y)) - |K(x,y)| of nearly parallel rows is summed from the differences of the
    unit vectors: 1 - cos = |x/|x| - y/|y||^2 / 2, while 1 minus a rounded cosine has lost every digit.
    """
    symmetric = x2 is None
    q1, unit1 = variances(x1), _unit(x1)
    q2, unit2 = (q1, unit1) if x2 is None else (variances(x2), _unit(x2))
    cosine, gap = _few(unit1, unit2) if x1.shape[1] <= FEW_FEATURES else _many(unit1, unit2, symmetric)
    s = safe_sqrt(q1)[:, None] * safe_sqrt(q2)[None, :]
    law = Covariance(q1, s * cosine, q2, jnp.zeros((), x1.dtype), s * gap, width=x1.shape[1])
    rows = Covariance(0, 0, None, None, 0, width=law.width)  # pyright: ignore[reportArgumentType]
    columns = Covariance(None, 0, 0, None, 0, width=law.width)  # pyright: ignore[reportArgumentType]
    return law, rows, columns


def _unit(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    # The largest entry is taken out first, so that squares neither overflow nor vanish.
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=1, keepdims=True))
    x = x / jnp.where(top > 0, top, 1)
    length = safe_sqrt(jnp.sum(x * x, axis=1, keepdims=True))
    return x / jnp.where(length > 0, length, 1)


def _few(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
    """Cosines and relative gaps by direct sums over few features."""
    cosine = apart = together = 0
    for k in range(x.shape[1]):
        a, b = x[:, k, None], y[None, :, k]
        cosine, apart, together = cosine + a * b, apart + (a - b) ** 2, together + (a + b) ** 2
    closer = jnp.where(cosine < 0, together, apart) / 2
    return cosine, jnp.where(size(cosine) > 0.5, closer, 1 - size(cosine))


def _many(x: Float[Array, "n d"], y: Float[Array, "m d"], symmetric: bool) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
    """Cosines and relative gaps by one matrix product; the few pairs that it cannot resolve are done again, exactly."""
    cosine = jnp.clip(jnp.matmul(x, y.T, precision="highest"), -1, 1)
    rounded = 1 - size(cosine)
    # Below the threshold the angle sqrt(2 gap) of a rounded gap would be wrong by more than a few units of float precision.
    near = rounded < (2.0**-9 if x.dtype.itemsize <= 4 else 2.0**-18)
    if symmetric:
        near = near & ~jnp.eye(x.shape[0], dtype=bool)
    # Only the value is refined: d(gap) = -d|cosine| is right as it stands, and needs no derivative of a loop.
    values = jax.lax.stop_gradient((x, y, cosine, rounded))
    exact = jax.lax.cond(jnp.any(near), _refine, lambda x, y, c, g, near: g, *values, near)
    return cosine, rounded + jax.lax.stop_gradient(exact - rounded)


def _refine(x: Array, y: Array, cosine: Array, gap: Array, near: Bool[Array, "n m"]) -> Array:
    """`gap` with the entries marked by `near` replaced by |x -+ y|^2 / 2, a chunk of pairs at a time."""
    columns, chunk = gap.shape[1], min(CHUNK, gap.size)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        gap, near, _ = state
        (index,) = jnp.nonzero(near, size=chunk, fill_value=gap.shape[0])
        i, j = jnp.minimum(index, gap.shape[0] - 1) // columns, index % columns
        sign = jnp.where(flat[jnp.minimum(index, gap.shape[0] - 1)] < 0, -1, 1).astype(gap.dtype)
        difference = x[i] - sign[:, None] * y[j]
        gap = gap.at[index].set(jnp.sum(difference * difference, axis=1) / 2, mode="drop")
        near = near.at[index].set(False, mode="drop")
        return gap, near, jnp.any(near)

    flat = cosine.ravel()
    state = gap.ravel(), near.ravel(), jnp.asarray(True)
    gap, _, _ = jax.lax.while_loop(lambda state: state[2], step, state)
    return gap.reshape(cosine.shape)


__all__ = ["check_batches", "pair_laws", "variances"]
