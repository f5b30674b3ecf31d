"""neural-tangents 0.6.5 in its own environment. Its `experimental` subpackage would ask for TensorFlow."""

import importlib.metadata as metadata
import sys
import types
from functools import partial
from pathlib import Path

here = str(Path(__file__).parent)
sys.path = [here, *(p for p in sys.path if p not in ("", here))]
sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")

import jax  # noqa: E402
import jax.experimental  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import neural_tangents as nt  # noqa: E402
from _serve import serve  # noqa: E402
from data import images, labels, normal, sample, times  # noqa: E402
from finite import NETWORKS  # noqa: E402
from neural_tangents import stax  # noqa: E402

ACTIVATIONS = {
    "relu": stax.Relu,
    "tanh": lambda: stax.ElementwiseNumerical(jnp.tanh, deg=25),
    "elu": lambda: stax.ElementwiseNumerical(jax.nn.elu, deg=25),
}


def mlp(depth, activation):
    layers = [layer for _ in range(depth) for layer in (stax.Dense(512, W_std=2**0.5), ACTIVATIONS[activation]())]
    return stax.serial(*layers, stax.Dense(1, W_std=2**0.5))[2]


def ntk(n, depth, activation):
    x = jnp.asarray(normal(n, 784))
    kernel = jax.jit(partial(mlp(depth, activation), x2=None, get="ntk"))
    return lambda: jax.block_until_ready(kernel(x)), lambda k: {"sample": sample(k)}


W = 2**0.5


def conv(strides=None, filter_shape=(3, 3)):
    return stax.Conv(512, filter_shape, strides, "SAME", W_std=W)


def plain(depth, end):
    return stax.serial(*[layer for _ in range(depth) for layer in (conv(), stax.Relu())], end(), stax.Dense(1, W_std=W))


def myrtle():
    layers = []
    for position, count in enumerate((2, 1, 1)):
        layers += [layer for _ in range(count) for layer in (conv(), stax.Relu())]
        layers.append(stax.AvgPool((2, 2), (2, 2)) if position < 2 else stax.GlobalAvgPool())
    return stax.serial(*layers, stax.Dense(10, W_std=W))


def resnet():
    layers = [conv()]
    for position in range(4):
        for block in range(2):
            strides = (2, 2) if position and not block else None
            branch = stax.serial(stax.Relu(), conv(strides), stax.Relu(), conv())
            beside = conv(strides, (1, 1)) if strides else stax.Identity()
            layers.append(stax.serial(stax.FanOut(2), stax.parallel(beside, branch), stax.FanInSum()))
    return stax.serial(*layers, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(10, W_std=W))


def of_images(n, net):
    x1, x2 = (jnp.asarray(images(n, seed)) for seed in (0, 1))
    kernel = jax.jit(partial(net[2], get="ntk"))
    return lambda: jax.block_until_ready(kernel(x1, x2)), lambda k: {"sample": sample(k)}


def empirical(name, implementation):
    fn, params, x1, x2 = NETWORKS[name]()
    kernel = jax.jit(
        nt.empirical_ntk_fn(
            lambda params, x: fn(params, x), trace_axes=(), vmap_axes=0,
            implementation=getattr(nt.NtkImplementation, implementation),
        )
    )  # fmt: skip
    return lambda: jax.block_until_ready(kernel(x1, x2, params)), lambda k: {"sample": float(k.ravel()[0])}


def prepared(n, m):
    """The compiled kernels in float64, examples, and the kernels of the training examples."""
    kernel = jax.jit(partial(mlp(3, "relu"), get=("nngp", "ntk")))
    x, x_test = (jnp.asarray(normal(k, 64, seed), jnp.float64) for k, seed in ((n, 0), (m, 1)))
    return kernel, x, x_test, jax.block_until_ready(kernel(x, None))


def flow(n):
    kernel, x, x_test, train = prepared(n, 1000)
    y, t = jnp.asarray(labels(n)), jnp.asarray(times())

    def run():
        predict = nt.predict.gradient_descent_mse(train.ntk, y)
        found = predict(t, jnp.zeros_like(y), jnp.zeros((1000, 10)), kernel(x_test, x).ntk)
        return jax.block_until_ready(found[1])

    return run, lambda k: {"sample": sample(k[-1])}


def ensemble():
    n, m = 1024, 256
    kernel = mlp(3, "relu")
    x, x_test = (jnp.asarray(normal(k, 64, seed), jnp.float64) for k, seed in ((n, 0), (m, 1)))
    y, t = jnp.asarray(labels(n)), jnp.asarray(times()[::10])

    def run():
        predict = nt.predict.gradient_descent_mse_ensemble(kernel, x, y)
        return jax.block_until_ready(predict(t, x_test, get="ntk", compute_cov=True))

    return run, lambda k: {"sample": sample(k.covariance[-1])}


def cross_entropy():
    n = 512
    train = prepared(n, 1)[3]
    y = jnp.eye(10)[jnp.arange(n) % 10]

    def loss(f, y):
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(f) * y, axis=1))

    def run():
        return jax.block_until_ready(nt.predict.gradient_descent(loss, train.ntk, y)(100.0, jnp.zeros_like(y)))

    return run, lambda k: {"sample": sample(k)}


def posterior():
    n = 2048
    kernel, x, x_test, train = prepared(n, 512)
    y = jnp.asarray(labels(n))

    def run():
        predict = nt.predict.gp_inference(train, y, diag_reg=1e-3, diag_reg_absolute_scale=True)
        return jax.block_until_ready(predict("nngp", kernel(x_test, x), kernel(x_test, None).nngp))

    return run, lambda k: {"sample": sample(k.mean)}


def in_float64(make):
    """The job, prepared and run with 64 bits."""

    def prepare():
        with jax.experimental.enable_x64():
            run, check = make()

        def wide():
            with jax.experimental.enable_x64():
                return run()

        return wide, check

    return prepare


JOBS = {
    "flow-2048": in_float64(lambda: flow(2048)),
    "ensemble": in_float64(ensemble),
    "cross-entropy": in_float64(cross_entropy),
    "posterior": in_float64(posterior),
    "empirical-mlp": lambda: empirical("empirical-mlp", "STRUCTURED_DERIVATIVES"),
    "empirical-cnn": lambda: empirical("empirical-cnn", "STRUCTURED_DERIVATIVES"),
    "empirical-cnn-jacobian": lambda: empirical("empirical-cnn", "JACOBIAN_CONTRACTION"),
    "cnn-5": lambda: of_images(4, plain(5, stax.GlobalAvgPool)),
    "cnn-20": lambda: of_images(2, plain(20, stax.GlobalAvgPool)),
    "myrtle-5": lambda: of_images(4, myrtle()),
    "flatten-5": lambda: of_images(64, plain(5, stax.Flatten)),
    "resnet-18": lambda: of_images(2, resnet()),
    "relu-3": lambda: ntk(4096, 3, "relu"),
    "relu-10": lambda: ntk(4096, 10, "relu"),
    "tanh-3": lambda: ntk(1024, 3, "tanh"),
    "elu-3": lambda: ntk(1024, 3, "elu"),
}


def versions():
    return {name: metadata.version(name) for name in ("neural-tangents", "jax", "jaxlib", "numpy")}


if __name__ == "__main__":
    serve(JOBS, versions)
