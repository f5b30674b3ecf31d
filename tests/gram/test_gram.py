"""A Gram matrix by tiles is the kernel's own matrix."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gram_examples import Pair, Rbf, Twice, dense_rbf, examples
from jax import monitoring

from ntkit import NTK, Both, nn
from ntkit.errors import ComputationError, InputError
from ntkit.gram import gram, run

# |x - y|^2 sums some ten squares of rounded differences.
ROUNDING = 32 * np.finfo(np.float32).eps


@pytest.fixture
def compiled():
    """Counts what XLA compiles."""
    events = []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            events.append(name)

    monitoring.register_event_duration_secs_listener(listen)
    yield events
    monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("n, tile", [(1, None), (2, 1), (7, 3), (9, 3), (40, 16), (40, 100), (300, None)])
def test_symmetric(n, tile):
    x = examples(n, 5)
    k = gram(Rbf(), x, tile=tile)
    assert isinstance(k, np.ndarray)
    assert k.dtype == np.float32
    np.testing.assert_allclose(k, dense_rbf(x), rtol=ROUNDING)
    np.testing.assert_array_equal(k, k.T)


@pytest.mark.parametrize("n, m, tile", [(1, 1, None), (7, 5, 3), (7, 5, (2, 4)), (1, 40, 16), (600, 30, None)])
def test_rectangular(n, m, tile):
    x1, x2 = examples(n, 5), examples(m, 5, seed=1)
    k = gram(Rbf(), x1, x2, tile=tile)
    assert k.shape == (n, m)
    np.testing.assert_allclose(k, dense_rbf(x1, x2), rtol=ROUNDING)


def test_the_same_rows_given_twice_are_not_the_diagonal():
    x = examples(7, 5)
    assert (np.diag(gram(Rbf(), x, tile=3)) == 7).all()
    np.testing.assert_allclose(np.diag(gram(Rbf(), x, x, tile=3)), 1.3**2, rtol=ROUNDING)


def test_only_the_upper_triangle_is_computed():
    seen = []

    class Watched(Rbf):
        def __call__(self, x1, x2=None):
            jax.debug.callback(lambda: seen.append("square" if x2 is None else "pairs"))
            return Rbf.__call__(self, x1, x2)

    gram(Watched(), examples(12, 5), tile=3)
    jax.effects_barrier()
    assert seen == ["pairs"] * 10


def test_the_method_for_the_diagonal_is_what_stands_there():
    class WithDiagonal(Rbf):
        def diagonal(self, x):
            return jnp.full(len(x), 7.5, x.dtype)

    x = examples(12, 5)
    k, plain = (gram(kernel, x, tile=5) for kernel in (WithDiagonal(), Rbf()))
    assert (np.diag(k) == 7.5).all()
    beside = ~np.eye(12, dtype=bool)
    np.testing.assert_allclose(k[beside], plain[beside], rtol=ROUNDING)


class Lopsided(Rbf):
    """Its two sides differ, as those of a deep network do in the last digit."""

    def __call__(self, x1, x2=None):
        return super().__call__(x1, x2) * x1[:, :1] ** 2


def test_the_result_is_symmetric_to_the_last_bit():
    x = np.random.default_rng(0).normal(size=(11, 2))
    for tile in (4, 11):
        found = gram(Lopsided(), x, progress=False, tile=tile)
        np.testing.assert_array_equal(found, found.T)
        np.testing.assert_array_equal(np.diag(found), 7.0)


def test_a_kernel_in_numpy_is_refused():
    with pytest.raises(InputError, match=r"must be a function in `jax\.numpy`"):
        gram(lambda x1, x2=None: np.asarray(x1) @ np.asarray(x1 if x2 is None else x2).T, np.eye(3), progress=False)


def test_a_diagonal_of_another_shape_is_refused():
    class Wrong(Rbf):
        def diagonal(self, x):
            return x

    with pytest.raises(InputError, match=r"`kernel.diagonal\(x\)` must hold"):
        gram(Wrong(), examples(12, 5), tile=5)


def test_named_tuples():
    x1, x2 = examples(11, 5), examples(6, 5, seed=1)
    for inputs in ((x1,), (x1, x2)):
        k = gram(Twice(Rbf()), *inputs, tile=4)
        assert isinstance(k, Pair)
        np.testing.assert_allclose(k.one, dense_rbf(*inputs), rtol=ROUNDING)
        np.testing.assert_array_equal(k.two, 2 * k.one)


@pytest.mark.parametrize("outputs", [1, 2])
def test_kernels_of_several_outputs_are_mirrored_in_the_outputs_too(outputs):
    a = examples(3, 5, seed=2)

    def kernel(x1, x2=None):
        u, v = x1 @ a.T, (x1 if x2 is None else x2) @ a.T
        return jnp.einsum("na,mb->nmab", u, v) if outputs == 2 else jnp.einsum("na,ma->nma", u, v)

    x = examples(7, 5)
    np.testing.assert_allclose(gram(kernel, x, tile=3), gram(kernel, x, x, tile=7), rtol=ROUNDING, atol=ROUNDING)


def test_inputs_of_higher_rank():
    x1, x2 = examples(7, 4, 3, 2), examples(5, 4, 3, 2, seed=1)
    np.testing.assert_allclose(gram(Rbf(), x1, tile=3), dense_rbf(x1), rtol=ROUNDING)
    np.testing.assert_allclose(gram(Rbf(), x1, x2, tile=3), dense_rbf(x1, x2), rtol=ROUNDING)


def test_inputs_of_all_kinds(tmp_path):
    x = examples(9, 5)
    np.save(tmp_path / "x.npy", x)
    want = gram(Rbf(), x, tile=4)
    for same in (
        jnp.asarray(x),
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        np.asfortranarray(x),
        np.repeat(x, 2, 0)[::2],
    ):
        np.testing.assert_array_equal(gram(Rbf(), same, tile=4), want)
    np.testing.assert_array_equal(gram(Rbf(), x.tolist(), tile=4, dtype="float32"), want)


def test_float64_needs_no_switch():
    assert not jax.config.jax_enable_x64
    x = examples(40, 5, dtype=np.float64)
    k = gram(Rbf(), x, tile=16)
    assert k.dtype == np.float64
    np.testing.assert_allclose(k, dense_rbf(x), rtol=32 * np.finfo(np.float64).eps)
    np.testing.assert_array_equal(gram(Rbf(), x.astype(np.float32), tile=16, dtype="float64").dtype, np.float64)
    assert gram(Rbf(), x, dtype=np.float32).dtype == np.float32
    assert not jax.config.jax_enable_x64
    assert jnp.zeros(()).dtype == jnp.float32


def test_one_compilation_per_tile_shape(compiled):
    x = examples(50, 6)
    gram(Rbf(1.11), x, tile=8)
    assert len(compiled) <= 4  # pairs, the diagonal, and two that put together and mirror
    compiled.clear()
    gram(Rbf(1.12), x, tile=8)
    gram(Rbf(1.11), examples(33, 6), tile=8)
    assert not compiled
    gram(Rbf(0.0), x, tile=8)  # a float that is exactly zero is structure
    assert compiled


def test_floats_are_rounded_once():
    """In float32, w_std = 2^0.5 squares to 2, as it does in eager code."""
    net = nn.mlp(depth=20, width=1, activation=nn.Relu())
    he = eqx.tree_at(
        lambda net: [layer.w_std for layer in net.layers if isinstance(layer, nn.Dense)], net, [2**0.5] * 21
    )
    x = examples(9, 12)
    wide, narrow = (np.diag(gram(NTK(he), x, dtype=dtype)) for dtype in ("float64", "float32"))
    np.testing.assert_allclose(narrow, wide, rtol=1e-6)


def test_networks():
    net = nn.mlp(depth=2, width=8, activation=nn.Relu(), beta=0.1)
    x = jnp.asarray(examples(30, 6))
    both = gram(Both(net), x, tile=16)
    direct = Both(net)(x)
    # A tile's matrix product may sum in another order.
    np.testing.assert_allclose(both.ntk, direct.ntk, rtol=1e-5)
    np.testing.assert_allclose(both.nngp, direct.nngp, rtol=1e-5)
    np.testing.assert_allclose(gram(NTK(net), x, x[:7], tile=16), NTK(net)(x, x[:7]), rtol=1e-5)


def test_kernels_that_use_their_floats_outside_jax():
    class Outside(eqx.Module):
        scale: float

        def __call__(self, x1, x2=None):
            factor = 2.0 if self.scale > 1 else 3.0
            return factor * (x1 @ (x1 if x2 is None else x2).T)

    x = examples(9, 5)
    np.testing.assert_allclose(gram(Outside(1.5), x, tile=4), 2 * x @ x.T, rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(gram(Outside(0.5), x, tile=4), 3 * x @ x.T, rtol=ROUNDING, atol=ROUNDING)


def test_kernels_that_make_arrays_of_their_own():
    def kernel(x1, x2=None):
        return x1 @ jnp.eye(x1.shape[1]) @ (x1 if x2 is None else x2).T

    x = examples(9, 5)
    np.testing.assert_allclose(gram(kernel, x, tile=4), x @ x.T, rtol=ROUNDING, atol=ROUNDING)


def test_equal_calls_give_equal_bytes_on_any_number_of_threads(monkeypatch):
    x = examples(100, 5)
    want = gram(Rbf(), x, tile=9)
    for cores in (1, 2, 7):
        monkeypatch.setattr(run, "cores", lambda cores=cores: cores)
        np.testing.assert_array_equal(gram(Rbf(), x, tile=9), want)


@pytest.mark.parametrize("memory", [2000, "20kB", "1MB", None])
def test_any_budget_gives_the_matrix(memory):
    x = examples(60, 5)
    np.testing.assert_allclose(gram(Rbf(), x, memory=memory), dense_rbf(x), rtol=ROUNDING)


def test_a_budget_too_small_names_the_smallest_that_would_do():
    x = examples(6, 5)
    with pytest.raises(
        InputError, match=r"`memory` is 10 B, but one pair takes .* Pass at least `memory=(\d+)`"
    ) as caught:
        gram(Rbf(), x, memory=10)
    smallest = int(str(caught.value).split("memory=")[1].split("`")[0])
    np.testing.assert_allclose(gram(Rbf(), x, memory=smallest), dense_rbf(x), rtol=ROUNDING)
    with pytest.raises(InputError, match="one pair"):
        gram(Rbf(), x, memory=smallest - 1)
    with pytest.raises(InputError, match=r"the tile \(6, 6\) takes"):
        gram(Rbf(), x, memory=smallest, tile=6)


def test_progress_is_told_how_far_it_is(capfd):
    seen = []
    gram(Rbf(), examples(20, 5), tile=6, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(k, 10) for k in range(11)]
    gram(Rbf(), examples(20, 5), tile=6)
    assert capfd.readouterr() == ("", "")


def test_a_failing_kernel_fails_with_its_own_error():
    def kernel(x1, x2=None):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        gram(kernel, examples(4, 5))


def test_a_failing_progress_function_stops_the_run():
    def progress(done, total):
        if done == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gram(Rbf(), examples(20, 5), tile=6, progress=progress)


X = examples(4, 3)
BAD = {
    "nan": ((np.full((4, 3), np.nan, np.float32),), {}, r"`x1\[0, 0\]` is nan"),
    "inf": ((X, np.full((4, 3), np.inf, np.float32)), {}, r"`x2\[0, 0\]` is inf"),
    "empty": ((X[:0],), {}, "at least one"),
    "rank": ((X[0],), {}, r"x1\[None, :\]"),
    "widths": ((X, X[:, :2]), {}, "one shape"),
    "integers": ((X.astype(int),), {}, r"astype\(np.float32\)"),
    "objects": ((X.astype(object),), {}, "object"),
    "complex": ((X.astype(complex),), {}, "real"),
    "dtypes": ((X, X.astype(np.float64)), {}, "dtype="),
    "half": ((X.astype(np.float16),), {}, 'dtype="float32"'),
    "dtype": ((X,), {"dtype": "int32"}, "float32 or float64"),
    "no dtype": ((X,), {"dtype": "real"}, "float32"),
    "memory": ((X,), {"memory": "much"}, "`memory`"),
    "tile": ((X,), {"tile": 0}, "`tile`"),
    "oblong tile": ((X,), {"tile": (2, 3)}, "`tile` must be one number"),
    "out": ((X,), {"out": "k.txt"}, "must end in .npy or .zarr"),
    "folder": ((X,), {"out": "nowhere/k.npy"}, "no folder"),
    "out type": ((X,), {"out": 3}, "`out` must be None, a path"),
    "out shape": ((X,), {"out": np.zeros((4, 3), np.float32)}, r"shape \(4, 4\)"),
    "out dtype": ((X,), {"out": np.zeros((4, 4))}, "dtype float32"),
}


@pytest.mark.parametrize("args, options, words", BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_refused(args, options, words):
    with pytest.raises(InputError, match=words):
        gram(Rbf(), *args, **options)


@pytest.mark.parametrize(
    "kernel, words",
    [
        (lambda x1, x2=None: jnp.zeros(3, x1.dtype), "must return an"),
        (lambda x1, x2=None: jnp.zeros((len(x1), len(x1)), jnp.float16), "float16"),
        (lambda x1, x2=None: jnp.zeros((len(x1), len(x1)), jnp.int32), "int32"),
    ],
)
def test_kernels_that_return_something_else_are_refused(kernel, words):
    with pytest.raises(InputError, match=words):
        gram(kernel, X)


def test_a_kernel_that_is_none_is_refused():
    with pytest.raises(InputError, match="callable"):
        gram(3, X)


def test_under_jit_the_kernel_is_to_be_called():
    with pytest.raises(InputError, match="call the kernel itself"):
        jax.jit(lambda x: gram(Rbf(), x))(X)


def test_a_read_only_target_is_refused():
    out = np.zeros((4, 4), np.float32)
    out.flags.writeable = False
    with pytest.raises(InputError, match="read-only"):
        gram(Rbf(), X, out=out)


def test_rows_are_loaded_once_while_they_fit_and_again_when_not():
    loads = []

    class Counted(np.ndarray):
        def __getitem__(self, item):
            if isinstance(item, slice) and item.start is not None:
                loads.append(item.start)
            return np.asarray(self)[item]

    x = examples(24, 5)
    want = gram(Rbf(), x, tile=6)
    for memory, most in (("1GiB", 4 * 2), (9000, 20)):
        loads.clear()
        np.testing.assert_array_equal(gram(Rbf(), x.view(Counted), tile=6, memory=memory), want)
        # The check of the input reads too.
        assert len(loads) <= most + 4


@pytest.mark.parametrize("act", [nn.Relu(), nn.Erf()], ids=["an unbounded kernel", "a bounded one"])
def test_inputs_too_large_for_float32_are_refused(act):
    x = examples(9, 5)
    x[6:] *= np.float32(1e30)
    theta = NTK(nn.mlp(1, 8, act))
    with pytest.raises(ComputationError, match=r"`x1\[\d\]` and `x1\[[678]\]` is not finite.*float64") as caught:
        gram(theta, x, tile=4)
    assert max(caught.value.pair) >= 6
    with pytest.raises(ComputationError, match=r"`x1\[0\]` and `x2\[6\]` is not finite"):
        gram(theta, x[:5], x)
    assert np.isfinite(gram(theta, x, dtype="float64")).all()
    assert np.isfinite(gram(theta, x[:6])).all()


def test_what_fills_up_a_tile_may_be_anything(unchecked):
    def of_zero_rows(x1, x2=None):
        units = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (x1, x1 if x2 is None else x2)]
        return units[0] @ units[1].T

    x = examples(7, 5)
    assert np.isfinite(gram(of_zero_rows, x, tile=4)).all()
    assert np.isfinite(gram(of_zero_rows, x, x[:3], tile=4)).all()


def test_no_entry_is_overlooked():
    def broken(x1, x2=None):
        same = x1 * (x1 if x2 is None else x2).T == 6  # of rows 2 and 3 only
        return jnp.where(same, jnp.inf, jnp.zeros(same.shape, x1.dtype))

    x = np.arange(7, dtype=np.float32)[:, None]
    x[1], x[6] = 9, 8
    for tile in (2, 3, 7):
        with pytest.raises(ComputationError, match=r"`x1\[2\]` and `x1\[3\]` is not finite \(inf\)"):
            gram(broken, x, tile=tile)
