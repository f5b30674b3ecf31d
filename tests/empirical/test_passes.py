"""Examples that pass through the network some at a time give the kernel of all at once, in a fraction of its memory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_empirical import CASES, by_jacobians, case, normalised, reduced, some

import ntkit
from ntkit.empirical import kernel as room
from ntkit.empirical import passes
from ntkit.errors import ComputationError, InputError


@pytest.fixture
def counted(monkeypatch):
    """The numbers of examples that passed together, with a bound of some bytes."""
    seen, inner = [], passes._filled
    monkeypatch.setattr(passes, "TOGETHER", 1)
    monkeypatch.setattr(passes, "PASSING", 1)
    monkeypatch.setattr(passes, "_left", lambda *a: 0)
    monkeypatch.setattr(passes, "_found", {})
    monkeypatch.setattr(passes, "_filled", lambda job, whole: seen.append(job[3]) or inner(job, whole))
    with jax.numpy_rank_promotion("allow"):
        yield seen


@pytest.mark.parametrize(
    "name, outputs", [*((name, "full") for name in CASES), ("images", "mean"), ("mlp", "diagonal")]
)
def test_one_at_a_time_are_all_at_once(name, outputs, x64, counted, monkeypatch):
    fn, params, x = case(name)
    kernel, other = ntkit.EmpiricalNTK(fn, params, outputs=outputs, method=ntkit.Structured()), some(x)
    want = reduced(sum(by_jacobians(fn, params, x, other)), outputs)
    np.testing.assert_allclose(kernel(x, other), want, rtol=0, atol=1e-11 * np.abs(want).max())
    assert counted == [1] * (len(jax.tree.leaves(x)[0]) + 2)
    monkeypatch.setattr(passes, "_found", {})
    monkeypatch.setattr(passes, "examples_at_once", lambda *a: 2)  # so that the last of an odd number overlaps
    whole = reduced(sum(by_jacobians(fn, params, x, x)), outputs)
    np.testing.assert_allclose(kernel(x), whole, rtol=0, atol=1e-11 * np.abs(whole).max())


def convolved(params, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.nn.relu(jax.lax.conv_general_dilated(x, params[0], (1, 1), "SAME", dimension_numbers=numbers))
    return x.mean((1, 2)) @ params[1]


def test_a_number_that_divides_is_taken(monkeypatch):
    params = [jnp.ones(shape, jnp.float32) for shape in ((3, 3, 2, 4), (4, 2))]
    net = room.EmpiricalNTK(convolved, params)
    network, method = net.network_and_method(jnp.ones((1, 16, 16, 2)), 12, 5, False)
    each = 4 * (256 * (18 + 2 * 4) + 4 + 2 * 2)

    def found(of=method, n1=12):
        return passes.examples_at_once(network, of, n1, 5, "full", False, 4)

    monkeypatch.setattr(passes, "TOGETHER", 12 * each)
    assert found() == 12
    monkeypatch.setattr(passes, "TOGETHER", 12 * each - 1)
    for bound, rows in ((7 * each, 6), (5 * each, 4), (each, 1), (1, 1)):
        monkeypatch.setattr(passes, "PASSING", bound)
        assert found() == rows
    assert found(n1=13) == 1
    for other in (ntkit.ByVectorProducts(), ntkit.Structured(chunk=3)):
        assert found(other) == 12


def test_what_leaves_as_much_as_it_holds_passes_at_once(monkeypatch):
    monkeypatch.setattr(passes, "TOGETHER", 1)
    net = room.EmpiricalNTK(lambda p, x: jnp.tanh(x @ p), np.ones((3, 2), np.float32))
    network, method = net.network_and_method(jnp.ones((1, 3)), 12, 5, False)
    assert passes.examples_at_once(network, method, 12, 5, "full", False, 4) == 12


def test_traced_calls_are_as_they_were(counted):
    fn, params, x = case("images")
    kernel = ntkit.EmpiricalNTK(fn, params)
    x = x.astype(jnp.float32)
    np.testing.assert_allclose(jax.jit(lambda x: kernel(x))(x), kernel(x), rtol=1e-4)
    assert len(counted) == len(x)


def test_what_is_wrong_is_seen_in_passes(counted):
    weights, x = {"w": np.ones((3, 2), np.float32)}, np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    with pytest.raises(InputError, match=r"depends? on other examples"):
        ntkit.EmpiricalNTK(normalised, weights)(x)
    signs = np.where(np.arange(5) == 4, -1, 1)[:, None]
    with pytest.raises(ComputationError, match="not finite for example 4 of `x1`"):
        ntkit.EmpiricalNTK(lambda p, x: jnp.log(x @ p["w"]), weights)(np.abs(x) * signs)
    assert counted


def test_a_pass_holds_what_it_should():
    """By the compiler's own count; the benchmark of docs/benchmarks/empirical.md has all that a call holds."""
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 3, 3, 32), (3, 3, 32, 32), (32, 10))]

    def fn(params, x):
        for w in params[:-1]:
            numbers = ("NHWC", "HWIO", "NHWC")
            x = jax.nn.relu(jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers))
        return x.mean((1, 2)) @ params[-1]

    x = jnp.asarray(rng.normal(size=(32, 32, 32, 3)), jnp.float32)
    kernel = ntkit.EmpiricalNTK(fn, params, outputs="full")
    rows = kernel._at_once(x, None)
    assert rows is not None
    whole = jax.jit(lambda x: kernel(x)).lower(x).compile().memory_analysis().temp_size_in_bytes
    # One example's part of all: beside the arrays that are filled, which are the arguments.
    kept = jax.tree.map(
        lambda a: jnp.zeros((len(x), *a.shape[1:]), a.dtype),
        eqx.filter_eval_shape(passes._factors, kernel, x[:rows], (32, 32, True)),
    )
    lowered = passes._filled.lower((kernel, x, jnp.asarray(0, jnp.int32), rows, (32, 32, True)), kept)
    assert lowered.compile().compiled.memory_analysis().temp_size_in_bytes < whole / 5
