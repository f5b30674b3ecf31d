"""Lookups of tokens, and parameters with several uses, against whole Jacobians in float64; by which rule they go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ntkit
from ntkit.errors import InputError

RNG = np.random.default_rng(2)
TOKENS, ROWS, IMAGES = RNG.integers(0, 60, (4, 5)), RNG.standard_normal((4, 3)), RNG.standard_normal((3, 4, 4, 2))


def draw(*shape):
    return RNG.standard_normal(shape)


def read(params, tokens):
    return jnp.tanh(params["table"][tokens]).mean(1) @ params["w"]


def turned(params, tokens):
    """Along another axis, of a table that was moved and scaled on the way."""
    return jnp.tanh(jnp.take(-0.5 * params["table"].T, tokens, axis=1)).mean(2).T @ params["w"]


def outside(mode):
    def fn(params, tokens):
        found = params["table"].at[tokens + 30].get(mode=mode, fill_value=0.0)
        return jnp.tanh(found).mean(1) @ params["w"]

    return fn


def twice_looked_up(params, tokens):
    return read(params, tokens[:, :2]) + params["table"][tokens[:, 2]][:, :2]


def scanned(params, tokens):
    def step(state, word):
        return jnp.tanh(state @ params["u"] + word), None

    words = params["table"][tokens].swapaxes(0, 1)
    return lax.scan(step, jnp.zeros_like(words[0]), words)[0] @ params["w"]


def makes_logits(params, tokens):
    return read(params, tokens) @ jnp.ones((2, 3)) @ params["table"].T[:, :2]


def unrolled(params, x):
    first = jnp.tanh(x @ params["u"] + params["b"])
    return jnp.tanh(-2.0 * first @ params["u"] + params["b"][None]) @ params["out"]


def across(params, x):
    return jnp.tanh(jnp.tanh(x @ params["u"]) @ params["u"].T) @ params["out"]


def reversed_rows(params, x):
    return jnp.tanh(jnp.tanh(x @ params["u"]) @ params["u"][::-1]) @ params["out"]


def convolved_twice(params, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    for dilation in (1, 2):
        x = jnp.tanh(lax.conv_general_dilated(x, params["k"], (1, 1), "SAME", rhs_dilation=(dilation, 1),
                                              dimension_numbers=numbers))  # fmt: skip
    return x.sum((1, 2))


TABLE, U = {"table": draw(60, 3), "w": draw(3, 2)}, {"u": draw(3, 3), "b": draw(3), "out": draw(3, 2)}
AUTODIFF, FORMED, PAIRS, WORDS = "gradients, by autodiff", "gradients, from rows", "pairs of rows", "pairs of tokens"
CASES = {
    "table": (read, TABLE, TOKENS, {"table": WORDS}),
    "few words": (read, {**TABLE, "table": draw(2, 3)}, np.tile(TOKENS % 2, 5), {"table": FORMED}),
    "one word": (lambda p, t: read(p, t[:, :1]), TABLE, TOKENS, {"table": WORDS}),
    "from the end": (lambda p, t: read(p, t - 60), TABLE, TOKENS, {"table": WORDS}),
    "turned": (turned, TABLE, TOKENS, {"table": WORDS}),
    "filled": (outside("fill"), TABLE, TOKENS, {"table": WORDS}),
    "clipped": (outside("clip"), TABLE, TOKENS, {"table": WORDS}),
    "two lookups": (twice_looked_up, TABLE, TOKENS, {"table": WORDS}),
    "scan": (scanned, {**TABLE, "u": draw(3, 3)}, TOKENS, {"table": WORDS, "u": AUTODIFF}),
    "logits": (makes_logits, TABLE, TOKENS, {"table": AUTODIFF}),
    "unrolled": (unrolled, U, ROWS, {"u": FORMED, "b": FORMED}),
    "across": (across, {k: U[k] for k in ("u", "out")}, ROWS, {"u": AUTODIFF}),
    "reversed": (reversed_rows, {k: U[k] for k in ("u", "out")}, ROWS, {"u": AUTODIFF}),
    "filter": (convolved_twice, {"k": draw(3, 2, 2, 2)}, IMAGES, {"k": FORMED}),
}


@pytest.mark.parametrize("name", CASES)
def test_is_the_contraction_of_jacobians(name, x64):
    fn, params, x, rules = CASES[name]
    params, x = jax.tree.map(jnp.asarray, (params, x))
    with jax.numpy_rank_promotion("allow"):
        kernel = ntkit.EmpiricalNTK(fn, params, outputs="full", method=ntkit.Structured())
        jacobian = jax.jit(jax.jacrev(fn))(params, x)
        found, planned = kernel(x, x[:2]), {line.name: line.rule for line in kernel.plan(x, x[:2]).lines}
    rows = np.concatenate([np.asarray(j).reshape(*j.shape[:2], -1) for j in jax.tree.leaves(jacobian)], 2)
    want = np.einsum("iap,jbp->ijab", rows, rows[:2])
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-10 * np.abs(want).max())
    assert {key: planned[key] for key in rules} == rules


def test_a_large_table_is_never_held():
    params = {"table": jnp.asarray(draw(50_000, 8), jnp.float32)}
    kernel = ntkit.EmpiricalNTK(lambda p, t: jnp.tanh(p["table"][t]).mean(1), params)
    tokens = jnp.asarray(TOKENS * 800)
    (line,) = kernel.plan(tokens).lines
    assert line.rule == WORDS
    assert line.bytes < 50_000  # the table has 1.6 MB, its gradients eight times four times that
    hidden = np.asarray(params["table"])[TOKENS * 800]
    slopes = (1 - np.tanh(hidden.astype(float)) ** 2) / 5
    same = TOKENS[:, None, :, None] == TOKENS[None, :, None, :]
    want = np.einsum("isd,jtd,ijst->ij", slopes, slopes, same) / 8
    np.testing.assert_allclose(kernel(tokens), want, rtol=1e-5)


@jax.custom_vjp
def cube(x):
    return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, g: (3 * x * x * g,))


def test_a_function_with_a_backward_rule_only_has_an_operator_and_a_tangent(x64):
    rng = np.random.default_rng(0)
    params, x = {"w": rng.standard_normal((4, 5)), "v": rng.standard_normal((5, 2))}, rng.standard_normal((6, 4))
    fn = lambda p, x: cube(x @ p["w"]) @ p["v"]  # noqa: E731
    plain = lambda p, x: (x @ p["w"]) ** 3 @ p["v"]  # noqa: E731
    vector = rng.standard_normal((6, 2))
    ours, theirs = (ntkit.EmpiricalNTK(f, params).operator(x).mv(vector) for f in (fn, plain))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    moved = jax.tree.map(lambda a: a + 0.1, params)
    ours, theirs = (ntkit.taylor_expand(f, params, 2)(moved, x) for f in (fn, plain))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    with pytest.raises(InputError, match=r"\(6, 2\), .* got \(12,\)"):
        ntkit.EmpiricalNTK(fn, params).operator(x).mv(np.zeros(12))
    with pytest.raises(InputError, match="names no parameter"):
        ntkit.EmpiricalNTK(fn, params, only=[])
