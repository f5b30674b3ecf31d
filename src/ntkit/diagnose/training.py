"""How far finite networks, really trained, are from what the kernel says of them.

J. Lee, L. Xiao et al., "Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent", NeurIPS
2019, theorem 2.1, for the width; L. Chizat, E. Oyallon and F. Bach, "On Lazy Training in Differentiable Programming",
NeurIPS 2019, theorem 2.2, for the scale.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, Key

from ntkit._check import check_inputs, check_same_features, parse_memory
from ntkit._progress import Meter, Progress
from ntkit.diagnose._draws import at_once
from ntkit.diagnose.rates import Rate, checked_seeds, fit
from ntkit.diagnose.widths import check_network
from ntkit.empirical import linearize
from ntkit.errors import ComputationError, InputError
from ntkit.kernels import NTK
from ntkit.linalg import spectrum
from ntkit.linalg.products import check_count
from ntkit.nn import Layer
from ntkit.nn._masks import Masked
from ntkit.nn.widths import with_widths
from ntkit.predict._data import parse_number, parse_y, precision
from ntkit.predict._evaluate import evaluate
from ntkit.predict.flow import SGD, GradientDescent
from ntkit.predict.flow.iterated import parse_steps

# Steps that are compared without being asked for.
_STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
# Of the largest stable step, where none is asked for: finite networks have other kernels, and theirs grow.
_SHARE = 0.25
# Batches are drawn with a key that no place of a width is folded into.
_BATCHES = 1 << 31


@dataclasses.dataclass(frozen=True)
class Distances:
    """How far trained networks are from what was computed of them: root mean squares over examples and outputs, in
    units of y.

    - `examples` (e,), `widths` (w,), `steps` (t,): trained on so many, of so many hidden units, for so many steps.
    - `values` (e, w, s, t): of s networks of each kind.
    """

    examples: Int[np.ndarray, " e"]
    widths: Int[np.ndarray, " w"]
    steps: Int[np.ndarray, " t"]
    values: Float[np.ndarray, "e w s t"]

    @property
    def mean(self) -> Float[np.ndarray, "e w t"]:
        return self.values.mean(axis=2)

    @property
    def standard_error(self) -> Float[np.ndarray, "e w t"]:
        """Of the mean over the networks."""
        return self.values.std(axis=2, ddof=1) / math.sqrt(self.values.shape[2])

    def rate(self, *, examples: int = -1, step: int = -1) -> Rate:
        """distance = constant width^slope, by least squares over the logarithms of all networks; `examples` and `step`
        are places in these, by default the last. NaN at step 0, where all distances are 0."""
        return fit(self.widths.astype(float), self.values[examples, :, :, step])

    def rate_in_examples(self, *, width: int = -1, step: int = -1) -> Rate:
        """distance = constant n^slope in the number n of training examples; NaN where there is only one n."""
        if len(self.examples) < 2:
            return Rate(math.nan, math.nan, math.nan)
        return fit(self.examples.astype(float), self.values[:, width, :, step])


@dataclasses.dataclass(frozen=True)
class TrainingStudy:
    """What `compare_training` found.

    - `train`, `test`: distances between the networks and the trainings with the infinite NTK; `test` is None without
      `x_test`.
    - `linear_train`, `linear_test`: between the networks and their own linearizations at the start; None unless asked.
    - `residual`: of the networks to y at the training examples.
    - `learning_rate`, `batch` (None: full batches), `scale`, `centred`: as they were trained.
    """

    train: Distances
    test: Distances | None
    linear_train: Distances | None
    linear_test: Distances | None
    residual: Distances
    learning_rate: float
    batch: int | None
    scale: float
    centred: bool

    @property
    def times(self) -> Float[np.ndarray, " t"]:
        """steps * learning_rate, the time of `ntkit.gradient_flow`."""
        return self.train.steps * self.learning_rate

    @property
    def distances(self) -> dict[str, Distances]:
        """Those that were measured, by their names: `train`, `test`, `linear_train`, `linear_test`."""
        found = {name: getattr(self, name) for name in ("train", "test", "linear_train", "linear_test")}
        return {name: each for name, each in found.items() if each is not None}

    def __str__(self) -> str:
        found = self.distances
        lines = [f"after {self.train.steps[-1]} steps, time {self.times[-1]:.4g}"]
        lines.append(f"{'n':>7}  {'width':>7}  {'|f - y|':>9}" + "".join(f"  {name:>19}" for name in found))
        for i, n in enumerate(self.train.examples):
            for j, width in enumerate(self.train.widths):
                cells = [f"  {d.mean[i, j, -1]:9.3g} ± {d.standard_error[i, j, -1]:7.1e}" for d in found.values()]
                lines.append(f"{n:7}  {width:7}  {self.residual.mean[i, j, -1]:9.3g}" + "".join(cells))
        lines += [f"{name}: width^({_power(each.rate())})" for name, each in found.items()]
        if len(self.train.examples) > 1:
            lines += [f"{name}: n^({_power(each.rate_in_examples())})" for name, each in found.items()]
        return "\n".join(lines)


def _power(rate: Rate) -> str:
    return f"{rate.slope:.3f} ± {rate.standard_error:.3f}"


def compare_training(
    net: Layer,
    x: Float[Array | np.ndarray, "n ..."],
    y: Any,
    widths: Iterable[int],
    seeds: int | Iterable[int] = 10,
    *,
    x_test: Float[Array | np.ndarray, "m ..."] | None = None,
    steps: int | Iterable[int] = _STEPS,
    learning_rate: float | None = None,
    batch: int | None = None,
    examples: Iterable[int] | None = None,
    linearized: bool = False,
    centred: bool = False,
    scale: float = 1.0,
    memory: str | int | None = "1GiB",
    progress: Progress = False,
) -> TrainingStudy:
    """Trains finite networks, and measures how far their outputs are from what the infinite NTK says they are.

    Networks f of each width (all hidden layers, `nn.with_widths`) and seed are drawn and trained by `optax.sgd` on
    C = sum_i |f(x_i) - y_i|^2 / (2 n). Beside each runs the function g that starts at the same f_0 and takes the same
    steps, on the same batch B of b examples, with the infinite kernel in place of the network's own:

        g_0 = f_0,        g_{k+1}(.) = g_k(.) - (learning_rate / b) sum_{i in B} NTK(., x_i) (g_k(x_i) - y_i)

    which for full batches is `ntkit.descend(NTK(net), x, y, GradientDescent(learning_rate), f0=f_0)`. The distance is

        sqrt(mean of (f_k - g_k)^2)        over outputs, and over the training or the test examples.

    It falls as width^(-1/2), the rate of the kernel at the start. That to the network's own linearization, whose kernel
    is the right one at the start, falls as 1/width where activations are smooth, and more slowly where units cross
    kinks. So do those of batches: both see the same ones.

    **Arguments:**

    - `x`, `y`: (n, ...), in the dtype of the computation; (n,) or (n, outputs). `x_test`: (m, ...), compared as well.
    - `widths`: increasing, two or more. `seeds`: how many networks of each width, at least 2, or the seeds themselves.
      A network depends on its seed and the place of its width; the batches on the seed.
    - `steps`: numbers of steps after which is compared, increasing; time is steps times `learning_rate`.
    - `learning_rate`: None for a quarter of the largest stable step of the infinite kernel, that of the n where it is
      smallest.
    - `batch`: None for all n in each step; or as many, drawn for each step without replacement.
    - `examples`: numbers n of training examples, increasing: the first n of `x`. None for all of them.
    - `linearized`: also train f_lin = f_0 + J (theta - theta_0) on the same batches, at twice the cost, and compare.
    - `centred`: train f - f_0 in place of f.
    - `scale`: alpha of lazy training: the model is alpha f, its cost C(alpha f) / alpha^2, as in `ntkit.gradient_flow`.
    - `memory`: a budget for the networks that are trained at a time. `progress`: a bar, or a function of the networks
      done and all.

    **Raises:** `ntkit.InputError` for networks that `width_study` refuses and for wrong arguments, such as a learning
    rate that would diverge (for batches, in the mean square): it names the largest stable one;
    `ntkit.ComputationError` where the training of a network diverges nevertheless.
    """
    problem = _problem(net, x, y, x_test, examples)
    entries, numbers = _increasing("widths", widths, 1, 2), checked_seeds(seeds)
    marks = _checked_steps(steps)
    batch = None if batch is None else _checked_batch(batch, problem.examples)
    rate, scale = _checked_rate(learning_rate, problem, batch), parse_number(scale, "scale")
    budget = parse_memory(memory)
    tasks = [(i, at) for i in range(len(problem.examples)) for at in range(len(entries))]
    found: dict[str, list[np.ndarray]] = {}
    with Meter(progress, 0, len(tasks) * len(numbers), "training", "networks") as meter:
        meter(0)
        for task, (i, at) in enumerate(tasks):
            rows, labels, kernel = problem.part(i)
            run = _Run(with_widths(net, entries[at]), rows, labels, kernel, batch, linearized, centred)
            pieces = []
            for piece in _train(run, numbers, at, rate, scale, marks, budget):
                pieces.append(piece)
                meter(min(task * len(numbers) + sum(map(len, pieces)), len(tasks) * len(numbers)))
            for name, values in _measure(run, np.concatenate(pieces)).items():
                found.setdefault(name, []).append(values)
    axes = (np.array(problem.examples), np.array(entries), np.array(marks))
    shape = (len(problem.examples), len(entries), len(numbers), len(marks))
    each = {name: Distances(*axes, np.stack(values).reshape(shape)) for name, values in found.items()}
    return TrainingStudy(
        train=each["train"],
        test=each.get("test"),
        linear_train=each.get("linear_train"),
        linear_test=each.get("linear_test"),
        residual=each["residual"],
        learning_rate=rate,
        batch=batch,
        scale=scale,
        centred=centred,
    )


class _Problem(NamedTuple):
    """All training and test examples in one array, and their kernel with the training examples, in float64."""

    rows: np.ndarray
    y: np.ndarray
    kernel: Float[np.ndarray, "a n"]
    examples: list[int]

    def part(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, labels and kernel where the first `examples[i]` are trained on; the test examples stay the same."""
        count, n = self.examples[i], len(self.y)
        keep = np.r_[:count, n : len(self.rows)]
        return self.rows[keep], self.y[:count], self.kernel[keep, :count]


def _problem(net: Any, x: Any, y: Any, x_test: Any, examples: Any) -> _Problem:
    if isinstance(x, Masked) or isinstance(x_test, Masked):
        raise InputError("`x` has a mask, which `compare_training` does not take. Use images of one size.")
    x = np.asarray(jnp.asarray(check_inputs("x", x)))  # in the dtype that JAX trains in
    check_network(net, random=False)
    labels, flat = parse_y(y, len(x), x.dtype)
    outputs = net.shape(x.shape)
    if outputs != labels.shape:
        raise InputError(
            f"`y` must have the shape of the outputs of `net`, {outputs}{' or (n,)' if outputs[1:] == (1,) else ''}; "
            f"got {labels.shape[:1] if flat else labels.shape}."
        )
    counts = [len(x)] if examples is None else _increasing("examples", examples, 1, 1)
    if counts[-1] > len(x):
        raise InputError(f"`examples` must be at most the {len(x)} examples of `x`; got {counts[-1]}.")
    x, labels = x[: counts[-1]], labels[: counts[-1]]
    test = x[:0] if x_test is None else np.asarray(check_inputs("x_test", x_test), x.dtype)
    check_same_features("x_test", test, "x", x)
    with precision(np.dtype(np.float64)):
        parts = [np.asarray(evaluate(NTK(net), x.astype(np.float64)))]
        if len(test):
            parts.append(np.asarray(evaluate(NTK(net), test.astype(np.float64), x.astype(np.float64))))
    return _Problem(np.concatenate([x, test]), labels, np.concatenate(parts), counts)


def _increasing(name: str, values: Any, least: int, count: int) -> list[int]:
    try:
        entries = [check_count(name, value, least) for value in values]
    except TypeError:
        entries = []
    if len(entries) < count or any(a >= b for a, b in itertools.pairwise(entries)):
        why = "or there is no rate, " if count > 1 else ""
        raise InputError(
            f"`{name}` must be a list of {count} or more whole numbers, {why}each larger than the one before; got "
            f"{values!r}."
        )
    return entries


def _checked_steps(steps: Any) -> list[int]:
    counts = np.atleast_1d(parse_steps(list(steps) if isinstance(steps, Iterator) else steps))
    if not np.isfinite(counts).all() or (np.diff(counts) <= 0).any() or counts[-1] < 1:
        raise InputError(
            "`steps` must be finite, each larger than the one before, the last one 1 or more: networks take them one "
            f"by one; got {steps!r}."
        )
    return [int(count) for count in counts]


def _checked_batch(batch: Any, examples: list[int]) -> int:
    batch = check_count("batch", batch, 1)
    if batch > examples[0]:
        raise InputError(
            f"`batch` must be at most n = {examples[0]}, the training examples that there are; got {batch}. None takes "
            "all of them in each step."
        )
    return batch


def _checked_rate(rate: Any, problem: _Problem, batch: int | None) -> float:
    optimizer = GradientDescent(1.0) if batch is None else SGD(1.0, batch, replacement=False)
    with precision(np.dtype(np.float64)):
        matrices = [problem.kernel[:n, :n] for n in problem.examples]
        stable = min(optimizer.largest_stable_step(spectrum(jnp.asarray(matrix))) for matrix in matrices)
    if not math.isfinite(stable):
        raise InputError("The infinite NTK of `net` is 0 on `x`: nothing is trained. Set `trainable=True`.")
    if rate is None:
        return _SHARE * stable
    rate = parse_number(rate, "learning_rate")
    if rate >= stable:
        raise InputError(
            f"`learning_rate` must be below the largest stable one with the infinite kernel, {stable:.6g}, but is "
            f"{rate!r}: training would diverge."
        )
    return rate


class _Run(eqx.Module):
    """Networks of one width, and what they are trained on: all examples, the first n of them with labels."""

    net: Layer
    rows: Any
    y: Any
    kernel: Any
    batch: int | None = eqx.field(static=True)
    linearized: bool = eqx.field(static=True)
    centred: bool = eqx.field(static=True)


def _train(
    run: _Run, seeds: list[int], at: int, rate: float, scale: float, marks: list[int], memory: int | None
) -> Iterator[Float[np.ndarray, "c k t a o"]]:
    """The outputs of each network at all examples, of g, and of its linearization, after each number of steps."""
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), at) for seed in seeds])
    batches = jnp.stack([jax.random.fold_in(jax.random.key(seed), _BATCHES) for seed in seeds])
    kind = run.rows.dtype
    own = jax.tree.map(lambda v: jnp.asarray(v, kind) if isinstance(v, np.ndarray) else v, run)
    spans = jnp.asarray(list(zip([0, *marks], marks, strict=False)))
    count = -(-len(keys) // at_once(run.net, own.rows, len(keys), memory))
    size = -(-len(keys) // count)
    for start in range(0, len(keys), size):
        # All runs are equally long, or the last one would be compiled for itself.
        rows = np.minimum(np.arange(start, start + size), len(keys) - 1)
        values = _outputs(own, keys[rows], batches[rows], jnp.asarray(rate, kind), jnp.asarray(scale, kind), spans)
        values = np.asarray(values, np.float64)[: len(keys) - start]
        if not np.isfinite(values).all():
            raise ComputationError("The training of a finite network diverged. Lower `learning_rate`.")
        yield values


@eqx.filter_jit
def _outputs(
    run: _Run, keys: Key[Array, " c"], batches: Key[Array, " c"], rate: Array, scale: Array, spans: Int[Array, "t 2"]
) -> Float[Array, "c k t a o"]:
    def draw(key: Array) -> Any:
        return run.net.init(key, run.rows.shape, dtype=run.rows.dtype)

    def trained(start: Any, key: Array) -> Array:
        return _path(run, start, key, rate, scale, spans)

    if len(keys) == 1:  # XLA for CPU is many times slower where the filters of convolutions are batched
        return trained(draw(keys[0]), batches[0])[None]
    # Random numbers, batched, would take longer to compile than all else.
    return jax.vmap(trained)(lax.map(draw, keys), batches)


def _path(run: _Run, start: Any, key: Array, rate: Array, scale: Array, spans: Array) -> Array:
    """(k, t, a, o) of one network: itself, g, and its linearization, from one loop over the same batches."""
    x, y, n = run.rows, run.y, len(run.y)
    first = run.net.apply(start, x)
    zero = first if run.centred else jnp.zeros_like(first)
    optimizer = optax.sgd(rate / scale**2)
    fns = [run.net.apply, linearize(run.net.apply, start)][: 1 + run.linearized]

    def cost(params: Any, fn: Any, rows: Any) -> Array:
        out = scale * (fn(params, x[rows]) - zero[rows])
        return jnp.sum((out - y[rows]) ** 2) / (2 * len(out))

    def step(k: Array, state: Any) -> Any:
        g, each = state
        rows = slice(n)
        if run.batch is not None:
            rows = jax.random.permutation(jax.random.fold_in(key, k), n)[: run.batch]
        moved = []
        for fn, (params, memory) in zip(fns, each, strict=True):
            updates, memory = optimizer.update(jax.grad(cost)(params, fn, rows), memory)
            moved.append((optax.apply_updates(params, updates), memory))
        rest = g[rows] - y[rows]
        return g - rate / len(rest) * run.kernel[:, rows] @ rest, tuple(moved)

    def span(state: Any, ends: Array) -> tuple[Any, Array]:
        state = lax.fori_loop(ends[0], ends[1], step, state)
        outs = [scale * (fn(params, x) - zero) for fn, (params, _) in zip(fns, state[1], strict=True)]
        return state, jnp.stack([outs[0], state[0], *outs[1:]])

    begin = scale * (first - zero), tuple((start, optimizer.init(start)) for _ in fns)
    found = lax.scan(span, begin, spans)[1]
    return jnp.moveaxis(found, 0, 1)


def _measure(run: _Run, outputs: Float[np.ndarray, "s k t a o"]) -> dict[str, Float[np.ndarray, "s t"]]:
    n, f = len(run.y), outputs[:, 0]
    found = {"residual": _size(f[:, :, :n] - run.y.astype(np.float64))}
    for prefix, other in zip(("", "linear_"), np.moveaxis(outputs[:, 1:], 1, 0), strict=False):
        found[prefix + "train"] = _size((f - other)[:, :, :n])
        if outputs.shape[3] > n:
            found[prefix + "test"] = _size((f - other)[:, :, n:])
    return found


def _size(values: Float[np.ndarray, "s t a o"]) -> Float[np.ndarray, "s t"]:
    return np.sqrt(np.mean(values**2, axis=(2, 3)))
