"""The empirical NTK of JAX functions: each method, each kind of output, against the contraction of whole Jacobians."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax import lax

import ntkit
from ntkit import nn
from ntkit.errors import ComputationError, InputError

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """Functions of users add a bias to a matrix."""
    with jax.numpy_rank_promotion("allow"):
        yield


def draw(*shape):
    return RNG.standard_normal(shape)


def ours(net, x):
    return net.apply, jax.tree.map(lambda a: draw(*a.shape), net.init(jax.random.key(0), x.shape)), x


def tied(params, x):
    hidden = jnp.tanh(jnp.tanh(x @ params["twice"]) @ params["twice"])
    return -2.0 * hidden @ params["turned"].T + jnp.sum(params["twice"])


def attention(params, x):
    q, k = x @ params["q"], jnp.einsum("ntd,de->nte", x, params["k"])
    mixed = jax.nn.softmax(q @ k.mT / 2.0, axis=-1) @ x
    inner = jax.checkpoint(lambda h: jax.nn.gelu(h @ params["up"] + params["shift"]) @ params["down"])(mixed)
    return jnp.mean(jax.jit(lambda h: h * params["gain"])(inner), 1)


def adapted(params, x):
    """A frozen weight and a product of two others; a column vector in the manner of Equinox."""
    weight = params["frozen"] + params["a"] @ params["b"] * params["strength"]
    return jax.vmap(lambda row: params["last"] @ jnp.tanh(weight @ row))(x)


def looped(params, x):
    def step(h, layer):
        return jnp.tanh(h @ layer["w"] + layer["b"]), None

    return lax.scan(step, x, params["layers"])[0] @ params["out"]


def convolved(params, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(x, params["dilated"], (1, 1), "SAME", rhs_dilation=(2, 1), dimension_numbers=numbers)
    x = jnp.tanh(x + params["bias"])
    x = lax.conv_general_dilated(
        x, params["grouped"], (2, 1), "VALID", dimension_numbers=numbers, feature_group_count=2
    )
    x = lax.conv_transpose(jnp.tanh(x), params["up"], (2, 2), "SAME", dimension_numbers=numbers)
    return jnp.sum(x, (1, 2))


def of_a_pair(params, inputs):
    return jnp.tanh(inputs["left"] @ params["w"]) * (inputs["right"] @ params["v"] / 3.0)


D = 4
CASES = {
    "mlp": ours(nn.mlp(2, 9, nn.Gelu(), outputs=3, beta=0.1), draw(5, D)),
    "images": ours(
        nn.Sequential(
            nn.Conv(4, (3, 3), 1.2, 0.3),
            nn.Relu(),
            nn.Residual(nn.Conv(4, (3, 2), 1.0, 0.2)),
            nn.GlobalAvgPool(),
            nn.Dense(3, 1.1, 0.2),
        ),
        draw(4, 4, 3, 2),
    ),
    "tied": (tied, {"twice": draw(D, D), "turned": draw(3, D)}, draw(4, D)),
    "attention": (
        attention,
        {"q": draw(D, D), "k": draw(D, D), "up": draw(D, 6), "shift": draw(6), "down": draw(6, 3), "gain": draw(3)},
        draw(3, 5, D),
    ),
    "adapted": (
        adapted,
        {"frozen": draw(5, D), "a": draw(5, 2), "b": draw(2, D), "strength": draw(), "last": draw(2, 5)},
        draw(3, D),
    ),
    "looped": (looped, {"layers": {"w": draw(3, D, D), "b": draw(3, D)}, "out": draw(D, 2)}, draw(3, D)),
    "convolved": (
        convolved,
        {"dilated": draw(3, 2, 2, 4), "bias": draw(4), "grouped": draw(2, 2, 2, 6), "up": draw(3, 3, 6, 2)},
        draw(3, 5, 4, 2),
    ),
    "pair": (of_a_pair, {"w": draw(D, 2), "v": draw(3, 2)}, {"left": draw(4, D), "right": draw(4, 3)}),
}
METHODS = {
    "auto": "auto",
    "structured": ntkit.Structured(),
    "chunks": ntkit.Structured(chunk=2),
    "jacobian": ntkit.ByJacobian(),
    "products": ntkit.ByVectorProducts(),
}


def case(name):
    """Its arrays in JAX, in the precision of the test."""
    fn, params, x = CASES[name]
    return fn, *jax.tree.map(jnp.asarray, (params, x))


def by_jacobians(fn, params, x1, x2):
    """K_ab for all pairs and outputs, (n1, n2, o, o), a dictionary by parameter."""
    rows = []
    for x in (x1, x2):
        jacobian = jax.jit(jax.jacrev(fn))(params, x)
        rows.append([np.asarray(j).reshape(*j.shape[:2], -1) for j in jax.tree.leaves(jacobian)])
    return [np.einsum("iap,jbp->ijab", a, b) for a, b in zip(*rows, strict=True)]


def reduced(full, outputs):
    if outputs == "full":
        return full
    own = np.einsum("ijaa->ija", full)
    return own if outputs == "diagonal" else own.mean(-1)


def some(x):
    return jax.tree.map(lambda a: 0.5 * a[:2] + 0.1, x)


OTHER_METHODS = [
    (name, method) for name in ("tied", "convolved", "pair") for method in ("chunks", "jacobian", "products")
]


@pytest.mark.parametrize(
    "name, method", [(name, method) for name in CASES for method in ("auto", "structured")] + OTHER_METHODS
)
def test_every_method_is_the_contraction_of_jacobians(name, method, x64):
    fn, params, x = case(name)
    each = by_jacobians(fn, params, x, some(x))
    outputs = "full" if method == "structured" else {"auto": "mean", "chunks": "full"}.get(method, "diagonal")
    kernel = ntkit.EmpiricalNTK(fn, params, outputs=outputs, method=METHODS[method])
    want = reduced(sum(each), outputs)
    np.testing.assert_allclose(kernel(x, some(x)), want, rtol=0, atol=1e-11 * np.abs(want).max())
    if method == "structured":
        parts = kernel.by_layer(x, some(x))
        assert list(parts) == kernel.names
        for part, one in zip(parts.values(), each, strict=True):
            np.testing.assert_allclose(part, one, rtol=0, atol=1e-11 * np.abs(want).max())


@pytest.mark.parametrize("outputs", ["full", "diagonal", "mean"])
def test_of_one_batch_and_its_diagonal(outputs, x64):
    fn, params, x = case("images")
    want = reduced(sum(by_jacobians(fn, params, x, x)), outputs)
    kernel = ntkit.EmpiricalNTK(fn, params, outputs=outputs)
    np.testing.assert_allclose(kernel(x), want, rtol=0, atol=1e-11 * np.abs(want).max())
    np.testing.assert_allclose(kernel.diagonal(x), np.stack([want[i, i] for i in range(len(x))]), rtol=1e-9)


RULES = {
    "mlp": {"pairs of rows"},
    "images": {"gradients, from rows", "pairs of rows"},
    "tied": {"pairs of rows", "gradients, by autodiff"},
    "looped": {"pairs of rows", "gradients, by autodiff"},
}


@pytest.mark.parametrize("name", RULES)
def test_the_plan_says_how_each_parameter_is_treated(name):
    fn, params, x = case(name)
    plan = ntkit.EmpiricalNTK(fn, params, outputs="full").plan(x)
    assert {line.rule for line in plan.lines} == RULES[name]
    if name == "tied":
        assert {line.name: line.rule for line in plan.lines}["twice"] == "gradients, by autodiff"
    assert all(line.name in str(plan) for line in plan.lines)
    assert plan.operations == sum(line.operations for line in plan.lines) > 0


def test_a_large_parameter_that_is_left_to_autodiff_goes_by_vector_products():
    params = {"table": jnp.ones((4000, 8))}
    tokens = jnp.arange(24).reshape(4, 6) * 7

    def fn(params, tokens):
        return jnp.tanh(jnp.sin(params["table"])[tokens].mean(1))  # the lookup is of another array

    kernel = ntkit.EmpiricalNTK(fn, params, outputs="full")
    assert isinstance(kernel.plan(tokens).method, ntkit.ByVectorProducts)
    want = sum(by_jacobians(fn, params, tokens, tokens))
    np.testing.assert_allclose(kernel(tokens), want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_restricted_to_some_parameters(x64):
    fn, params, x = case("mlp")
    kernel, parts = ntkit.EmpiricalNTK(fn, params), ntkit.EmpiricalNTK(fn, params).by_layer(x)
    np.testing.assert_allclose(kernel.restricted("2")(x), parts["2.w"] + parts["2.b"], rtol=1e-12)
    np.testing.assert_allclose(kernel.restricted(["0.w", "4.b"])(x), parts["0.w"] + parts["4.b"], rtol=1e-12)
    with pytest.raises(InputError, match=r"no parameter begins so\. The parameters are `0\.b`"):
        kernel.restricted("weights")


def test_gram_posterior_and_sums_take_it(x64):
    fn, params, x = case("mlp")
    kernel, full = ntkit.EmpiricalNTK(fn, params), ntkit.EmpiricalNTK(fn, params, outputs="full")
    want = np.asarray(kernel(x))
    np.testing.assert_allclose(ntkit.gram(kernel, x, tile=2, progress=False), want, rtol=1e-12)
    np.testing.assert_allclose(ntkit.gram(full, x, tile=2, progress=False), full(x), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose((0.5 * kernel + kernel * kernel)(x), 0.5 * want + want**2, rtol=1e-12)
    y = jnp.asarray(draw(5))
    mean, _ = ntkit.posterior(kernel, x, y, noise=0.1)(x)
    np.testing.assert_allclose(mean, want @ np.linalg.solve(want + 0.1 * np.eye(5), y), rtol=1e-9)


def test_it_is_pure_jax(x64):
    fn, params, x = case("mlp")

    def total(params, x):
        return jnp.sum(ntkit.EmpiricalNTK(fn, params)(x, x[:2]))

    step = 1e-6
    slopes = jax.jit(jax.grad(total, (0, 1)))(params, x)
    ways = jax.tree.map(lambda a: jnp.asarray(draw(*a.shape)), (params, x))
    moved = [jax.tree.map(lambda a, w, s=s: a + s * step * w, (params, x), ways) for s in (1, -1)]
    numeric = (total(*moved[0]) - total(*moved[1])) / (2 * step)
    exact = sum(jnp.vdot(s, w) for s, w in zip(jax.tree.leaves(slopes), jax.tree.leaves(ways), strict=True))
    np.testing.assert_allclose(exact, numeric, rtol=1e-6)


def test_the_operator_is_the_matrix(x64):
    fn, params, x = case("images")
    operator = ntkit.EmpiricalNTK(fn, params).operator(x)
    full = sum(by_jacobians(fn, params, x, x)).transpose(0, 2, 1, 3).reshape(12, 12)
    np.testing.assert_allclose(operator.as_matrix(), full, rtol=1e-10, atol=1e-10)
    v = jnp.asarray(draw(4, 3))
    np.testing.assert_allclose(operator.mv(v).ravel(), full @ v.ravel(), rtol=1e-10)
    shifted = operator + lx.TaggedLinearOperator(
        lx.IdentityLinearOperator(operator.in_structure()), lx.positive_semidefinite_tag
    )
    solution = lx.linear_solve(shifted, v, lx.CG(rtol=1e-10, atol=1e-10)).value
    np.testing.assert_allclose(solution.ravel(), np.linalg.solve(full + np.eye(12), v.ravel()), rtol=1e-7)
    some_layers = ntkit.EmpiricalNTK(fn, params, only="4").operator(x)
    part = ntkit.EmpiricalNTK(fn, params, only="4", outputs="full")(x)
    np.testing.assert_allclose(some_layers.mv(v), jnp.einsum("ijab,jb->ia", part, v), rtol=1e-10)


def test_expansions(x64):
    fn, params, x = case("mlp")
    other = jax.tree.map(lambda a: a + jnp.asarray(draw(*a.shape)), params)
    linear = ntkit.linearize(fn, params)
    np.testing.assert_allclose(linear(params, x), fn(params, x), rtol=1e-12)
    kernels = [ntkit.EmpiricalNTK(f, at)(x) for f, at in ((linear, other), (fn, params))]
    np.testing.assert_allclose(*kernels, rtol=1e-10)

    def cubic(p, x):
        return (x @ p["a"]) * (x @ p["b"]) * (x @ p["b"])

    at, to = ({"a": jnp.asarray(draw(D, 2)), "b": jnp.asarray(draw(D, 2))} for _ in range(2))
    np.testing.assert_allclose(ntkit.taylor_expand(cubic, at, 3)(to, x), cubic(to, x), rtol=1e-10)
    errors = [np.abs(ntkit.taylor_expand(cubic, at, k)(to, x) - cubic(to, x)).max() for k in range(3)]
    assert min(errors) > 1e-3
    with pytest.raises(InputError, match="`order` must be a whole number"):
        ntkit.taylor_expand(cubic, at, -1)
    with pytest.raises(InputError, match="must be a pytree as those"):
        linear({"a": 0}, x)


def normalised(params, x):
    h = x @ params["w"]
    return (h - h.mean(0)) / (h.std(0) + 1e-3)


W = {"w": np.ones((3, 2), np.float32)}
X = RNG.standard_normal((4, 3)).astype(np.float32)


def linear(params, x):
    return x @ params["w"]


def third_reads_first(params, x):
    return jnp.where((jnp.arange(len(x)) == 2)[:, None], x[:1], x) @ params["w"]


@pytest.mark.parametrize(
    "fn, params, x, message",
    [
        (linear, {}, X, "holds no array of floats"),
        (linear, {"w": np.ones((3, 2), complex)}, X, r"`params\['w'\]` is complex"),
        (linear, {"w": np.ones((3, 2), np.float16)}, X, "`w` has dtype float16"),
        (linear, {"w": np.full((3, 2), np.nan, np.float32)}, X, "`w` is not finite"),
        (lambda p, x: (x @ p["w"])[:, 0], W, X, r"must return an array \(n, o\), here \(4, o\), but returns \(4,\)"),
        (lambda p, x: {"a": x @ p["w"]}, W, X, "but returns dict"),
        (lambda p, x: jnp.round(x @ p["w"]).astype(int), W, X, "returns int32"),
        (linear, W, X[:, :2], "fails for these inputs"),
        (linear, W, X[:0], "`x1` holds no example"),
        (linear, W, np.where(X > 1, np.nan, X), "`x1"),
        (linear, W, (), "holds no array"),
        (normalised, W, X, "depends? on other examples, as under batch normalisation"),
        (third_reads_first, W, X, "gives example 2 of `x1` another output"),
        (3, W, X, "`fn` must be a function"),
    ],
)
def test_what_makes_no_kernel_is_refused(fn, params, x, message, unchecked):
    with pytest.raises(InputError, match=message):
        ntkit.EmpiricalNTK(fn, params)(x)


def test_other_arguments_are_refused(unchecked):
    with pytest.raises(InputError, match='`outputs` must be "full", "diagonal" or "mean"'):
        ntkit.EmpiricalNTK(linear, W, outputs="sum")
    with pytest.raises(InputError, match='`method` must be "auto"'):
        ntkit.EmpiricalNTK(linear, W, method="fast")
    with pytest.raises(InputError, match="must hold examples of one shape and dtype"):
        ntkit.EmpiricalNTK(linear, W)(X, X[:, :2])
    with pytest.raises(InputError, match="equally many"):
        ntkit.EmpiricalNTK(linear, W)({"a": X, "b": X[:2]})


def test_what_is_not_finite_is_traced_back():
    with pytest.raises(ComputationError, match="not finite for example 2 of `x1`"):
        ntkit.EmpiricalNTK(lambda p, x: jnp.log(x @ p["w"]), W)(np.abs(X) * np.where(np.arange(4) == 2, -1, 1)[:, None])
    params = {"first": np.ones((3, 2), np.float32), "second": np.full((2, 2), 3e38, np.float32)}
    with pytest.raises(ComputationError, match="with `second` is the first that is not; that with `first` still is"):
        ntkit.EmpiricalNTK(lambda p, x: jnp.tanh(x @ p["first"]) @ p["second"] * 1e30, params)(10 * np.abs(X))
    with pytest.raises(ComputationError, match="a derivative is infinite"):
        ntkit.EmpiricalNTK(lambda p, x: jnp.sqrt(x @ (p["w"] - 1)), W)(X)
