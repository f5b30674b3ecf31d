"""Examples that pass through the network some at a time give the kernel of all at once, in a fraction of its memory."""

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
    seen, inner = [], passes._factors
    monkeypatch.setattr(passes, "PASSING", 1)
    monkeypatch.setattr(passes, "_found", {})
    monkeypatch.setattr(passes, "_factors", lambda *a: seen.append(a[3]) or inner(*a))
    with jax.numpy_rank_promotion("allow"):
        yield seen


@pytest.mark.parametrize(
    "name, outputs", [*((name, "full") for name in CASES), ("images", "mean"), ("mlp", "diagonal")]
)
def test_two_at_a_time_are_all_at_once(name, outputs, x64, counted):
    fn, params, x = case(name)
    kernel, other = ntkit.EmpiricalNTK(fn, params, outputs=outputs, method=ntkit.Structured()), some(x)
    want = reduced(sum(by_jacobians(fn, params, x, other)), outputs)
    np.testing.assert_allclose(kernel(x, other), want, rtol=0, atol=1e-11 * np.abs(want).max())
    n = len(jax.tree.leaves(x)[0])
    assert counted == [2] * (-(-n // 2) + 1)
    whole = reduced(sum(by_jacobians(fn, params, x, x)), outputs)
    np.testing.assert_allclose(kernel(x), whole, rtol=0, atol=1e-11 * np.abs(whole).max())


def test_a_number_that_divides_is_taken(monkeypatch):
    net = room.EmpiricalNTK(lambda p, x: jnp.tanh(x @ p), np.ones((3, 2), np.float32))
    network, method = net.network_and_method(jnp.ones((1, 3)), 12, 5, False)
    each = 4 * (3 + 2 * 2)
    for bound, rows in ((12 * each, 12), (7 * each, 6), (5 * each, 4), (each, 2)):
        monkeypatch.setattr(passes, "PASSING", bound)
        assert passes.examples_at_once(network, method, 12, 5, "full", False, 4) == rows
    for other in (ntkit.ByVectorProducts(), ntkit.Structured(chunk=3)):
        assert passes.examples_at_once(network, other, 12, 5, "full", False, 4) == 12


def test_traced_calls_are_as_they_were(counted):
    fn, params, x = case("images")
    kernel = ntkit.EmpiricalNTK(fn, params)
    x = x.astype(jnp.float32)
    np.testing.assert_allclose(jax.jit(lambda x: kernel(x))(x), kernel(x), rtol=1e-4)
    assert len(counted) == 2


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
    lowered = passes._factors.lower(kernel, x, jnp.asarray(0, jnp.int32), rows, (32, 32, True))
    assert lowered.compile().compiled.memory_analysis().temp_size_in_bytes < whole / 5
