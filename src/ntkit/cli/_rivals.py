"""What the kernel is compared with on one data set: a network of finite width, and a tuned support vector machine."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Shaped

from ntkit.cli._architecture import Architecture

# In the NTK parameterization, where weights are of size 1; the same for every width.
LEARNING_RATE = 0.02


def train_network(
    architecture: Architecture,
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "n o"],
    x_test: Float[np.ndarray, "m d"],
    *,
    alpha: float,
    width: int,
    steps: int,
    seed: int,
    batch: int = 128,
) -> Float[np.ndarray, "m o"]:
    """Outputs at `x_test` of one such network at a finite width, trained in float32.

    The loss tends to that of kernel ridge regression: (sum_i |f(x_i) - y_i|^2 + alpha |theta - theta_0|^2) / 2n.

    Adam on random batches; the step falls to zero as a cosine. No part of the examples is held out.
    """
    net = architecture.network(width, y.shape[1])
    init, draw = jax.random.split(jax.random.key(seed))
    xs, ys, tests = (jnp.asarray(a, jnp.float32) for a in (architecture.examples(x), y, architecture.examples(x_test)))
    params = net.init(init, xs.shape, dtype=jnp.float32)
    optimiser = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))
    rows = jax.random.randint(draw, (steps, min(batch, len(x))), 0, len(x))

    def loss(now: Any, chosen: Int[Array, " b"]) -> Float[Array, ""]:
        error = jnp.mean(jnp.sum((net.apply(now, xs[chosen]) - ys[chosen]) ** 2, axis=1))
        moved = sum(jnp.sum((a - b) ** 2) for a, b in zip(jax.tree.leaves(now), jax.tree.leaves(params), strict=True))
        return (error + alpha / len(x) * moved) / 2

    @jax.jit
    def run(params: Any, rows: Int[Array, "s b"]) -> Float[Array, "m o"]:
        def step(carry: Any, chosen: Int[Array, " b"]) -> tuple[Any, None]:
            params, state = carry
            updates, state = optimiser.update(jax.grad(loss)(params, chosen), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), rows)
        return net.apply(params, tests)

    # Optax mixes integers and floats, which a user's strict promotion would refuse.
    with jax.numpy_dtype_promotion("standard"):
        return np.asarray(run(params, rows), np.float64)


def _grid(quick: bool) -> dict[str, list[float]]:
    """C, and gamma in units of 1 / (features variance)."""
    return {"C": [10.0] if quick else [1.0, 10.0, 100.0], "factor": [1.0] if quick else [0.3, 1.0, 3.0]}


def support_vectors(
    x: Float[np.ndarray, "n d"],
    y: Shaped[np.ndarray, " n"],
    x_test: Float[np.ndarray, "m d"],
    *,
    classification: bool,
    quick: bool,
) -> tuple[Any, Any]:
    """A support vector machine with an RBF kernel, C and gamma tuned by 3-fold cross-validation.

    Classification: (classes, probabilities by temperature scaling on cross-validated scores); regression: (mean, its
    cross-validated root mean squared error).
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC, SVR

    scale = 1 / (x.shape[1] * max(float(x.var()), np.finfo(float).tiny))
    grid = _grid(quick)
    options = {"C": grid["C"], "gamma": [f * scale for f in grid["factor"]]}
    if classification:
        tuned = GridSearchCV(SVC(), options, cv=3).fit(x, y)
        options: Any = {"method": "temperature", "ensemble": False, "cv": 3}
        model = CalibratedClassifierCV(tuned.best_estimator_, **options).fit(x, y)
        return model.classes_, model.predict_proba(x_test)
    tuned = GridSearchCV(SVR(), options, cv=3, scoring="neg_mean_squared_error").fit(x, y)
    return tuned.predict(x_test), float(np.sqrt(-tuned.best_score_))
