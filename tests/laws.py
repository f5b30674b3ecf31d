"""What every layer and every kernel must satisfy. Tests of layers, activations and whole kernels call these laws.

A `kernel` here is `ntkit.Both(net)`, whose values are `Kernels(nngp, ntk)`, or any kernel whose values are one matrix.
"""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

import ntkit


def hard_rows(features=5, *, scale=1.0, seed=0):
    """Rows that break kernels: 0-2 one-hot (orthogonal), 3 zero, 4 general, 5 equal to 4, 6 its antipode, 7 a
    multiple of it,
    8 large, 9 small."""
    general, large, small = np.random.default_rng(seed).standard_normal((3, features))
    one_hot = np.eye(features)[:3] * np.sqrt(features)
    rows = [*one_hot, 0 * general, general, general, -general, 0.5 * general, 30 * large, 0.03 * small]
    return np.stack(rows) * scale


SMOOTH_ROWS = (0, 1, 2, 4, 8, 9)
"""No two of them parallel, none zero: there every kernel is smooth."""


def leaves(values):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(values)]


def quickly(fn):
    """jit, by a program that is compiled in half the time and runs slower: where what is computed is small."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


def close(a, b, rtol, *, scale=None):
    """|a - b| <= rtol * scale entrywise; the scale is |b| unless given."""
    bound = rtol * (np.abs(b) if scale is None else scale)
    excess = np.abs(np.asarray(a) - np.asarray(b)) - bound
    assert np.all(excess <= 0), (
        f"off by {np.max(excess + bound)} at {np.unravel_index(np.argmax(excess), np.shape(excess))}"
    )


def natural(matrix):
    """sqrt(K_ii K_jj): what the error of an entry is measured against."""
    d = np.sqrt(np.maximum(np.diag(np.asarray(matrix, np.float64)), 0))
    s = np.outer(d, d)
    return np.where(s > 0, s, 1)


def is_kernel(kernel, x, *, eager=False):
    """Symmetric, positive semi-definite, its diagonal the diagonal of the full matrix, the same between x and a copy
    of x,
    under jit as without, in a batch as pair by pair, and under vmap. In float64. Dropout's kernel is not for this
    law."""
    x = jnp.asarray(x)

    @quickly
    def everything(x):
        pairs = jax.vmap(jax.vmap(lambda u, v: _single(kernel, u, v), (None, 0)), (0, None))
        return kernel(x), kernel(x, x), kernel.diagonal(x), pairs(x, x)

    full, two, diagonal, one = everything(x)
    for f, t, d, o in zip(*map(leaves, (full, two, diagonal, one)), strict=True):
        s = natural(f)
        assert np.isfinite(f).all()
        close(f, f.T, 1e-14, scale=s)
        assert np.linalg.eigvalsh(f)[0] >= -1e-12 * max(np.linalg.eigvalsh(f)[-1], 1e-300)
        close(np.diag(f), d, 1e-15)  # two compilations may round differently
        # The diagonal of kernel(x, x) goes through the formulas of pairs: its angle is that of a rounded gap of some
        # eps.
        close(t, f, 1e-13, scale=s)
        close(o, t, 1e-13, scale=s)
    if eager:
        for f, e in zip(leaves(full), leaves(kernel(x)), strict=True):
            close(e, f, 1e-13, scale=natural(f))


def _single(kernel, u, v):
    return jax.tree.map(lambda k: k[0, 0], kernel(u[None], v[None]))


def total(kernel, weights):
    """A scalar that depends on every entry of every matrix of the kernel."""

    def of(net, x, y=None):
        values = kernel(net)(x, y)
        return sum(jnp.sum(w * v) for w, v in zip(weights, jax.tree.leaves(values), strict=True))

    return of


def has_finite_gradients(net, x, kernel=ntkit.Both):
    """Values and gradients with respect to the inputs and every leaf are finite at zero rows, duplicates, antipodes."""
    x = jnp.asarray(x)
    f = total(kernel, _weights(kernel, net, len(x), len(x)))
    # Duplicates are pairs of different rows here; the diagonal's own formulas are in it too.
    for leaf in leaves(quickly(jax.value_and_grad(f, argnums=(0, 1)))(_traced(net), x)):
        assert np.isfinite(leaf).all(), leaf


def has_right_gradients(net, x, y, kernel=ntkit.Both, rtol=1e-6, step=1e-5):
    """Reverse-mode gradients with respect to x and every leaf agree with central differences, in float64.

    The differences are right to about step^2 + 1e-16 / step relative to the largest gradient, far below `rtol`.
    """
    x, y, net = jnp.asarray(x), jnp.asarray(y), _traced(net)
    f = total(kernel, _weights(kernel, net, len(x), len(y)))
    by_net, by_x = quickly(jax.grad(f, argnums=(0, 1)))(net, x, y)
    dense, rebuild = jax.flatten_util.ravel_pytree((net, x))
    sides = np.asarray(
        quickly(lambda vs: jax.lax.map(lambda v: f(*rebuild(v), y), vs))(dense[None] + step * _signed_eye(dense.size))
    )
    differences = (sides[0::2] - sides[1::2]) / (2 * step)
    exact = np.asarray(jax.flatten_util.ravel_pytree((by_net, by_x))[0])
    close(exact, differences, rtol, scale=max(np.abs(differences).max(), 1e-3))


def _signed_eye(n):
    return jnp.asarray(np.stack([sign * row for row in np.eye(n) for sign in (1, -1)]))


def _traced(net):
    """The network with its leaves as arrays, so that they can be differentiated."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), net)


def _weights(kernel, net, n, m):
    count = 2 if kernel is ntkit.Both else 1
    rng = np.random.default_rng(7)
    return [jnp.asarray(rng.uniform(0.5, 1.5, (n, m)) * rng.choice([-1, 1], (n, m))) for _ in range(count)]


def monte_carlo(net, x, draws, *, seed=0, dropout=False):
    """Mean and standard error, over `draws` finite networks, of the NNGP (averaged over the outputs) and of the NTK
    of the
    first output: two pairs of (n, n) arrays in float64."""
    x = jnp.asarray(x, jnp.float32)

    def one(key):
        key, mask = jax.random.split(key)
        mask = mask if dropout else None
        params = net.init(key, x.shape, dtype=jnp.float32)
        outputs = net.apply(params, x, key=mask)
        jacobian = jax.jacrev(lambda p: net.apply(p, x, key=mask)[:, 0])(params)
        flat = [leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(jacobian)]
        return outputs @ outputs.T / outputs.shape[1], sum(j @ j.T for j in flat)

    keys = jax.random.split(jax.random.key(seed), draws)
    # Convolutions with a batch of filters are slow to compile, and no faster.
    batch = min(draws, 250) if x.ndim == 2 else None
    samples = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=batch))(keys)
    return [(np.mean(s, 0), np.std(s, 0) / np.sqrt(draws)) for s in (np.asarray(s, np.float64) for s in samples)]


def is_limit_of_finite(net, x, draws, *, dropout=False, seed=0, resolution=0.03):
    """The infinite reading lies within 5 standard errors of the Monte Carlo mean of its finite networks.

    With one nonlinearity between `Dense` layers of normal weights the expectation of both kernels is exact at any
    width (the
    pre-activations are exactly Gaussian, and all else is linear in second moments), so the width may be small. The
    standard
    error must be below `resolution` of the natural scale, or the test would see nothing.
    """
    infinite = ntkit.kernels(net, jnp.asarray(x, jnp.float32))
    for (mean, error), exact in zip(monte_carlo(net, x, draws, dropout=dropout, seed=seed), infinite, strict=True):
        exact = np.asarray(exact, np.float64)
        assert np.all(5 * error <= 5 * resolution * natural(exact)), (error / natural(exact)).max()
        # 1e-5: the rounding of a sum of float32 samples, where the kernel itself is deterministic.
        assert np.all(np.abs(mean - exact) <= 5 * error + 1e-5 * natural(exact)), (mean - exact) / np.maximum(
            error, 1e-30
        )


def every_depth(net, x):
    """(nngp, ntk) behind every `Dense` of a `Sequential`, as (count, n, n) arrays in float64, with their exact
    diagonals.

    The layers are run one by one, each compiled once for its type: all depths for the price of one.
    """
    laws = _start(x)
    seen = []
    for layer in net.layers:
        laws = _step(layer, laws)
        if isinstance(layer, ntkit.nn.Dense):
            seen.append([np.array(_with_diagonal(laws, name), np.float64) for name in ("xy", "ntk")])
    return [np.stack(s) for s in zip(*seen, strict=True)]


@jax.jit
def _start(x):
    from ntkit.kernels._pairs import pair_laws, variances

    law = pair_laws(x, None)
    law = ntkit.nn.Covariance(law.xx[:, None], law.xy, law.yy[None, :], jnp.zeros_like(law.xy), law.gap, law.width)
    return law, ntkit.nn.Covariance.of_one(variances(x), x.shape[-1])


@eqx.filter_jit
def _step(layer, laws):
    return tuple(layer.propagate(law) for law in laws)


def _with_diagonal(laws, name):
    pairs, ones = (getattr(law, name) for law in laws)
    return jnp.where(jnp.eye(len(ones), dtype=bool), ones[:, None], pairs)
