"""What has no infinite reading is refused when the kernel is built, by name and with the way out; wrong arguments at
once."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import ntkit
from ntkit import InputError, nn

DENSE = nn.Dense(4)


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Without the check of types that the tests run under, which would be the first to refuse a wrong type."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


REFUSED_NETWORKS = {
    "relu after relu": (
        (DENSE, nn.Relu(), nn.Relu(), nn.Dense(1)),
        "`Relu` needs a Gaussian input.*follows `Relu`.*`Dense`",
    ),
    "erf after gelu": ((DENSE, nn.Gelu(), nn.Erf(), nn.Dense(1)), "`Erf` needs a Gaussian input.*follows `Gelu`"),
    "activation on the input": ((nn.Relu(), nn.Dense(1)), "`Relu` needs a Gaussian input.*follows the input.*`Dense`"),
    "activation after dropout": ((DENSE, nn.Dropout(0.5), nn.Relu(), nn.Dense(1)), "`Relu`.*`Dropout`"),
    "raw data beside a dense": ((nn.Residual(nn.Dense(4)), nn.Dense(1)), "`Sum`.*raw input.*Put a `Dense` before"),
    "two identities": ((DENSE, nn.Sum(nn.Identity(), nn.Identity())), "`Sum`.*independent.*`Dense`"),
    "identity beside relu": ((DENSE, nn.Residual(nn.Relu()), nn.Dense(1)), "`Sum`.*independent.*Put a `Dense`"),
    "two relus beside": (
        (DENSE, nn.Sum(nn.Relu(), nn.Sequential(nn.Dense(4), nn.Relu())), nn.Dense(1)),
        "`Sum`.*zero mean.*End a branch with a `Dense`",
    ),
    "a nested dependent sum": ((DENSE, nn.Residual(nn.Residual(nn.Dense(4))), nn.Dense(1)), "`Sum`.*independent"),
    "layer norm after relu": (
        (DENSE, nn.Relu(), nn.LayerNorm(), nn.Dense(1)),
        "`LayerNorm`.*zero mean.*`Relu`.*behind a `Dense`",
    ),
    "layer norm on the input": ((nn.LayerNorm(), nn.Dense(1)), "`LayerNorm`.*raw input"),
    "dropout on the input": ((nn.Dropout(0.5), nn.Dense(1)), "`Dropout` on the raw input"),
}


@pytest.mark.parametrize("kernel", [ntkit.NTK, ntkit.NNGP, ntkit.Both])
@pytest.mark.parametrize("case", REFUSED_NETWORKS)
def test_networks_without_an_infinite_reading_are_refused(kernel, case):
    layers, message = REFUSED_NETWORKS[case]
    with pytest.raises(InputError, match=message):
        kernel(nn.Sequential(*layers))


LEGAL = {
    "residual around activation and dense": (
        DENSE,
        nn.Residual(nn.Sequential(nn.Relu(), nn.Dense(4))),
        nn.Relu(),
        nn.Dense(1),
    ),
    "residual around dense and activation": (DENSE, nn.Residual(nn.Sequential(nn.Dense(4), nn.Relu())), nn.Dense(1)),
    "gaussian branch beside an activation": (DENSE, nn.Sum(nn.Dense(4), nn.Relu()), nn.Dense(1)),
    "two odd activations": (DENSE, nn.Sum(nn.Erf(), nn.Sequential(nn.Dense(4), nn.Sin())), nn.Dense(1)),
    "layer norm behind an odd activation": (DENSE, nn.Erf(), nn.LayerNorm(), nn.Dense(1)),
    "identity anywhere": (nn.Identity(), DENSE, nn.Identity(), nn.Relu(), nn.Identity(), nn.Dense(1)),
    "dropout behind an activation": (DENSE, nn.Relu(), nn.Dropout(0.3), nn.Dense(1)),
    "dense upon dense": (DENSE, nn.Dense(4), nn.Relu(), nn.Dense(1)),
}


@pytest.mark.parametrize("case", LEGAL)
def test_networks_with_an_infinite_reading_are_taken(case):
    net = nn.Sequential(*LEGAL[case])
    ntkit.Both(net)
    assert net.shape((3, 5)) == (3, 1)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: nn.Dense(0), "`width`.*positive whole number.*0"),
        (lambda: nn.Dense(-3), "`width`"),
        (lambda: nn.Dense(2.0), "`width`.*2.0"),
        (lambda: nn.Dense(True), "`width`"),
        (lambda: nn.Dense(4, -1.0), "`w_std`.*>= 0.*-1.0"),
        (lambda: nn.Dense(4, float("nan")), "`w_std`.*finite"),
        (lambda: nn.Dense(4, 1.0, float("inf")), "`b_std`.*finite"),
        (lambda: nn.Dense(4, parameterization="mup"), '`parameterization`.*"ntk" or "standard".*mup'),
        (lambda: nn.Dense(4, init="cauchy"), "`init`.*'normal'.*'rademacher'.*cauchy"),
        (lambda: nn.Sequential(nn.Dense(4), nn.Relu), "number 1.*add parentheses"),
        (lambda: nn.Sequential(nn.Dense(4), jnp.tanh), r"number 1.*nn\.Activation\(fn\)"),
        (lambda: nn.Sum(nn.Dense(4), 3), "`Sum`.*number 1.*3"),
        (lambda: nn.Dropout(1.0), r"`rate`.*\[0, 1\).*1.0"),
        (lambda: nn.Dropout(-0.1), "`rate`"),
        (lambda: nn.LayerNorm(eps=-1.0), "`eps`"),
        (lambda: nn.mlp(-1, 8, nn.Relu()), "`depth`.*-1"),
        (lambda: nn.mlp(1.5, 8, nn.Relu()), "`depth`"),
        (lambda: nn.mlp(1, 8, nn.Relu), "`activation`.*add parentheses"),
        (lambda: nn.mlp(1, 8, jnp.tanh), r"`activation`.*nn\.Activation\(fn\)"),
        (lambda: nn.mlp(1, 8, nn.Relu(), beta=2.0), r"`beta`.*\[0, 1\].*2.0"),
        (lambda: nn.mlp(1, 8, nn.Relu(), beta=0.1, w_std=1.0), "`beta` sets `w_std`"),
        (lambda: nn.mlp(2, 8, nn.Relu(), fixed_layers=3), "`fixed_layers`.*2.*3"),
        (lambda: ntkit.NTK(nn.Relu), "network of `ntkit.nn` layers"),
        (lambda: -1.0 * ntkit.NTK(nn.Dense(1)), "factor.*>= 0"),
    ],
)
def test_wrong_arguments_are_refused_where_they_are_given(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_branches_of_different_widths_are_refused_when_shapes_are_known():
    net = nn.Sequential(nn.Dense(4), nn.Sum(nn.Dense(4), nn.Dense(3)))
    with pytest.raises(InputError, match=r"`Sum`.*one shape.*\(2, 4\).*\(2, 3\)"):
        net.shape((2, 5))


@pytest.mark.parametrize(
    "x1, x2, message",
    [
        (np.ones(3), None, r"`x1`.*x1\[None, :\]"),
        (np.ones((2, 3, 4)), None, r"shape \(n, features\).*\(3, 4\)\. Flatten them first"),
        (np.ones((2, 3), int), None, "`x1` must be floating point.*int64"),
        (np.ones((2, 0), np.float32), None, "`x1` has no features"),
        (np.ones((2, 3), np.float32), np.ones((2, 4), np.float32), r"equally many features.*\(2, 3\).*\(2, 4\)"),
        (np.ones((2, 3), np.float32), np.ones((2, 3), np.float16), "one dtype.*float32.*float16"),
    ],
)
def test_wrong_batches_are_refused(x1, x2, message):
    with pytest.raises(InputError, match=message):
        ntkit.NTK(nn.Dense(1))(x1, x2)
