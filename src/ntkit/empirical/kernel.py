"""The empirical NTK: the kernel of a network that exists, from its parameters as they are."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ntkit._check import parse_memory
from ntkit.empirical import _checks as checks
from ntkit.empirical._rules import Outputs, finished
from ntkit.empirical.linear import completed
from ntkit.empirical.methods import ByVectorProducts, Method, Network, length, network
from ntkit.empirical.operator import NTKOperator
from ntkit.empirical.passes import examples_at_once, in_passes, latest, remembered, traced_once
from ntkit.empirical.plan import Plan, automatic, plan_of, rows_within
from ntkit.errors import InputError
from ntkit.kernels import Kernel


class EmpiricalNTK(Kernel):
    """K_ab(x, y) = sum_p df_a(x)/dtheta_p df_b(y)/dtheta_p, of any JAX function at given parameters.

    `fn(params, x)` maps a batch, an array or a pytree of arrays with examples first, to outputs (n, o); each row must
    depend on its own example alone. `params` is any pytree: ours, of Flax, Equinox or Haiku, or your own. Its arrays of
    floats are the parameters; whatever else is in it (numbers, random keys, functions) is handed to `fn` as it is.
    Whatever is differentiated is exact; parameters are treated one by one (`plan`). Inputs in float64 make the
    parameters float64, too.

    `kernel(x1, x2=None)` returns, by `outputs`:

    - "mean": (n1, n2), the mean over a of K_aa. A kernel as any: `ntkit.gram`, `posterior` and estimators take it.
    - "diagonal": (n1, n2, o), the K_aa.
    - "full": (n1, n2, o, o), with [i, j, a, b] = K_ab(x1_i, x2_j).

    **Arguments:**

    - `method`: "auto" counts operations; or `Structured()`, `ByJacobian()`, `ByVectorProducts()`.
    - `only`: names of the parameters that count, as `kernel.names` lists them, or beginnings of names ending at a dot;
        None for all.

    **Raises:** `ntkit.InputError` for parameters that are complex, not finite or none at all, outputs that are not
    (n, o), and, where values are known (outside of jit), for examples that depend on each other and for outputs that
    are not finite, naming the parameter behind which they arise.

    **Source:** Jacot et al. 2018; the rule for dense layers in Novak et al. 2022, "Fast finite width neural tangent
    kernel".
    """

    fn: Callable[[Any, Any], Array]
    params: Any
    outputs: Outputs = eqx.field(static=True)
    method: Method | Literal["auto"] = eqx.field(static=True)
    only: tuple[str, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        fn: Callable[[Any, Any], Array],
        params: Any,
        *,
        outputs: Outputs = "mean",
        method: Method | Literal["auto"] = "auto",
        only: Iterable[str] | str | None = None,
    ):
        if not callable(fn):
            raise InputError(f"`fn` must be a function fn(params, x) -> (n, o), but is {type(fn).__name__}.")
        if outputs not in ("full", "diagonal", "mean"):
            raise InputError(f'`outputs` must be "full", "diagonal" or "mean", but is {outputs!r}.')
        if method != "auto" and not isinstance(method, Method):
            raise InputError(
                '`method` must be "auto", or one of `Structured()`, `ByJacobian()` and `ByVectorProducts()`; '
                f"got {method!r}."
            )
        checks.check_parameters(params)
        fn, params = completed(fn, params)
        self.fn, self.params, self.outputs, self.method = fn, params, outputs, method
        self.only = (only,) if isinstance(only, str) else None if only is None else tuple(only)
        checks.chosen(params, self.only)

    def check_examples(self, x: Any) -> None:
        """Raises what `kernel(x)` would for the first three examples. `ntkit.gram` asks: tiles hide values."""
        self._checked(jax.tree.map(lambda a: a[:3], x), None)

    def program(self, x: Any) -> list[Any]:
        """What `fn` computes of an example like those of x, and its constants: `ntkit.gram` knows a job by it."""
        kernel, first, _ = self._checked(x, None, values=False)
        net = kernel._network(first)
        return [str(net.jaxpr.jaxpr), *map(np.asarray, net.jaxpr.consts)]

    @property
    def names(self) -> list[str]:
        """Of all parameters that are arrays of floats, in order."""
        return [name for name, _ in checks.floats(self.params).values()]

    @property
    def wanted(self) -> list[str]:
        """Of the parameters that count: the keys of `by_layer`."""
        known = checks.floats(self.params)
        return [known[leaf][0] for leaf in checks.chosen(self.params, self.only)]

    def restricted(self, only: Iterable[str] | str) -> "EmpiricalNTK":
        """The same kernel with the sum over these parameters alone, as the argument `only`."""
        return EmpiricalNTK(self.fn, self.params, outputs=self.outputs, method=self.method, only=only)

    def __call__(self, x1: Any, x2: Any = None) -> Array:
        kernel, first, second = self._checked(x1, x2, values=False)
        if not checks.are_known(kernel.params, first, second):
            return _kernel(kernel, first, second)
        with traced_once():
            if (rows := kernel._at_once(first, second)) is not None:
                value, probes = in_passes(kernel, first, second, rows)
            else:
                value, probes = _kernel_and_probes(kernel, first, second)
        for name, x, probe in zip(("x1", "x2"), (first, second), probes):
            checks.check_outputs(probe, self.fn, kernel.params, name, x)
        checks.check_values(value)
        return value

    def diagonal(self, x: Any) -> Array:
        """K(x_i, x_i) of each example: (n,), (n, o) or (n, o, o)."""
        kernel, first, _ = self._checked(x, None)
        value = _diagonal(kernel, first)
        checks.check_values(value)
        return value

    def by_layer(self, x1: Any, x2: Any = None) -> dict[str, Array]:
        """What each parameter adds, by name; the sum over all is the kernel."""
        names = checks.floats(self.params)
        return {names[leaf][0]: value for leaf, value in _by_leaf(*self._checked(x1, x2)).items()}

    def plan(self, x1: Any, x2: Any = None) -> Plan:
        """How each parameter would be treated for these inputs, with operations and bytes; nothing is computed."""
        kernel, first, second = self._checked(x1, x2, values=False)
        net, known = kernel._network(first), checks.floats(kernel.params)
        n1, n2 = length(first), length(first if second is None else second)
        itemsize = max(known[leaf][1].dtype.itemsize for leaf in net.wanted)
        names = {leaf: name for leaf, (name, _) in known.items()}
        method = kernel._method(net, n1, n2, second is None)
        return plan_of(net, method, names, n1, n2, self.outputs, second is None, itemsize)

    def operator(self, x: Any, *, memory: str | int | None = "1GiB") -> NTKOperator:
        """The matrix of all examples and outputs as a lineax operator on (n, o): one vjp and one jvp a product.

        `memory` bounds, by a count of the activations, what the passes hold; examples are run in blocks that fit, one
        at a time if need be. None for all at once. See `top_eigenpairs`, `trace`, `logdet`, `effective_rank`.
        """
        budget = parse_memory(memory)
        kernel, first, _ = self._checked(x, None)
        leaves, treedef = jax.tree.flatten(kernel.params)
        rows = length(first) if budget is None else rows_within(kernel._network(first), budget, length(first))
        return NTKOperator(self.fn, leaves, first, treedef, checks.chosen(self.params, self.only), rows)

    def _as_precise_as(self, x: Any) -> "EmpiricalNTK":
        """With parameters in float64 where the inputs are, as the solvers hand them in."""
        if not any(a.dtype == jnp.float64 for a in jax.tree.leaves(x)):
            return self
        known = checks.floats(self.params)
        leaves, treedef = jax.tree.flatten(self.params)
        wide = [lax.convert_element_type(a, jnp.float64) if i in known else a for i, a in enumerate(leaves)]
        return eqx.tree_at(lambda kernel: kernel.params, self, jax.tree.unflatten(treedef, wide))

    def _at_once(self, x1: Any, x2: Any) -> int | None:
        """Examples that pass through the network at a time; None where all of them do."""
        n1, n2 = length(x1), length(x1 if x2 is None else x2)

        def count() -> int:
            net, method = self.network_and_method(x1, n1, n2, x2 is None)
            word = max(jax.tree.leaves(self.params)[leaf].dtype.itemsize for leaf in net.wanted)
            return examples_at_once(net, method, n1, n2, self.outputs, x2 is None, word)

        shapes = [(jnp.shape(a), str(getattr(a, "dtype", type(a)))) for a in jax.tree.leaves((self.params, x1, x2))]
        key = self.fn, tuple(shapes), x2 is None, self.outputs, self.method, self.only
        rows = remembered(key, count)
        return rows if rows < max(n1, n2) else None

    def network_and_method(self, x: Any, n1: int, n2: int, same: bool) -> tuple[Network, Any]:
        """The program of an example like those of x, and how n1 x n2 pairs of such are treated."""
        net = self._network(x)
        return net, self._method(net, n1, n2, same)

    def _network(self, x: Any) -> Network:
        example = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x)
        wanted = checks.chosen(self.params, self.only)
        return latest(self.fn, lambda: network(self.fn, self.params, example, wanted))

    def _method(self, net: Network, n1: int, n2: int, same: bool) -> Method:
        return automatic(net, n1, n2, self.outputs, same) if self.method == "auto" else self.method

    def _checked(self, x1: Any, x2: Any, values: bool = True) -> tuple["EmpiricalNTK", Any, Any]:
        """This kernel, as precise as the inputs, and these as arrays. `values`: what the function makes is checked."""
        first, second = checks.check_batch("x1", x1), None if x2 is None else checks.check_batch("x2", x2)
        if second is not None:
            checks.check_alike(first, second)
        kernel = self._as_precise_as(first)
        for name, x in (("x1", first), ("x2", second)):
            if x is not None:
                checks.check_function(self.fn, kernel.params, name, x)
                if values and checks.are_known(kernel.params, x):
                    checks.check_outputs(checks.probed(self.fn, kernel.params, x), self.fn, kernel.params, name, x)
        return kernel, first, second

    def _values(self, x1: Any, x2: Any, apart: bool = False) -> dict[int, Array]:
        """What each parameter adds, in the promised shape; of vector products, if not `apart`, the sum alone."""
        net, leaves = self._network(x1), jax.tree.leaves(self.params)
        method = self._method(net, length(x1), length(x1 if x2 is None else x2), x2 is None)
        if apart and isinstance(method, ByVectorProducts):
            each = [(leaf, net._replace(wanted=(leaf,))) for leaf in net.wanted]
            values = {leaf: method.by_leaf(one, leaves, x1, x2, self.outputs)[-1] for leaf, one in each}
        else:
            values = method.by_leaf(net, leaves, x1, x2, self.outputs)
        return {leaf: finished(value, self.outputs, net.outputs) for leaf, value in values.items()}


@eqx.filter_jit
def _kernel(kernel: EmpiricalNTK, x1: Any, x2: Any) -> Array:
    return jnp.asarray(sum(kernel._values(x1, x2).values()))


@eqx.filter_jit
def _kernel_and_probes(kernel: EmpiricalNTK, x1: Any, x2: Any) -> tuple[Array, list[checks.Probe]]:
    """One program with all that is asked of values: compiling another one costs as much as this."""
    value = jnp.asarray(sum(kernel._values(x1, x2).values()))
    probes = [checks.Probe.of(kernel.fn, kernel.params, x) for x in (x1, x2) if x is not None]
    return value, probes


@eqx.filter_jit
def _by_leaf(kernel: EmpiricalNTK, x1: Any, x2: Any) -> dict[int, Array]:
    return kernel._values(x1, x2, apart=True)


# Examples whose own kernels are computed together.
_BATCH = 32


@eqx.filter_jit
def _diagonal(kernel: EmpiricalNTK, x: Any) -> Array:
    def own(example: Any) -> Array:
        one = jax.tree.map(lambda a: a[None], example)
        return jnp.asarray(sum(kernel._values(one, None).values()))[0, 0]

    return lax.map(own, x, batch_size=_BATCH)
