"""The empirical kernel of a loaded network, of JAX or torch, written to files; and what can be read off it."""

import abc
import collections
from collections.abc import Callable
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import ntkit
from ntkit.cli._network import Network, told
from ntkit.errors import InputError, NtkitError


class Outputs(StrEnum):
    """What of the kernel of a network with several outputs."""

    mean = "mean"
    diagonal = "diagonal"
    full = "full"


class Method(StrEnum):
    """How the kernel of a JAX network is computed."""

    auto = "auto"
    structured = "structured"
    jacobian = "jacobian"
    products = "products"


METHODS = {"auto": "auto", "structured": ntkit.Structured(), "jacobian": ntkit.ByJacobian(),
           "products": ntkit.ByVectorProducts()}  # fmt: skip


class Engine(abc.ABC):
    """The kernel of one network for one set of examples."""

    names: list[str]
    dtype: str
    notes: tuple[str, ...] = ()

    @abc.abstractmethod
    def try_once(self) -> None:
        """Runs the network on an example; raises whatever it raises."""

    @abc.abstractmethod
    def plan(self) -> tuple[str, dict[str, Any]]:
        """As a table, and as a dictionary."""

    @abc.abstractmethod
    def write(self, places: dict[str, Path], *, progress: bool, overwrite: bool) -> dict[str, Any]:
        """The kernel at the place "", and by name what each parameter adds, if there are such places; as written."""


def engine_of(
    network: Network, x: np.ndarray, *, tokens: bool, dtype: str | None, outputs: str, only: list[str], method: str,
    memory: str,
) -> Engine:  # fmt: skip
    """Refuses networks that do not take such examples."""
    which = tuple(only) or None
    if network.library == "torch":
        if method != "auto":
            raise InputError("`--method` is for networks of JAX; of torch each parameter has its own (see the plan).")
        found: Engine = OfTorch(network, x, tokens, dtype, outputs, which, memory)
    else:
        found = OfJax(network, x, tokens, dtype, outputs, which, METHODS[method], memory)
    try:
        found.try_once()
    except NtkitError:
        raise
    except Exception as error:
        kind = "whole numbers" if tokens else found.dtype
        raise InputError(
            f"The network cannot take these examples, which reach it as {kind} of shape {(1, *x.shape[1:])}: "
            f"{told(error)}. `--channels` says how images are laid out, `--tokens` that the inputs are whole numbers."
        ) from error
    return found


class OfJax(Engine):
    """Through the tiles of `ntkit.gram`, which resume."""

    def __init__(self, network: Network, x: np.ndarray, tokens: bool, dtype: str | None, outputs: str, only: Any,
                 method: Any, memory: str):  # fmt: skip
        leaves = [a for a in jax.tree.leaves(network.params) if hasattr(a, "dtype")]
        wide = any(leaf.dtype == np.float64 for leaf in leaves)
        self.dtype = dtype or ("float64" if wide else "float32")
        self.memory = memory
        self.x = np.asarray(x, self.dtype)
        # Tiles are of floats; no kernel differentiates by its inputs.
        self.fn = _OfTokens(network.function) if tokens else network.function
        self.params = network.params
        options: Any = {"outputs": outputs, "method": method, "only": only}
        with jax.enable_x64(self.dtype == "float64"):
            self.kernel = ntkit.EmpiricalNTK(self.fn, self.params, **options)
            self.names = self.kernel.wanted

    def try_once(self) -> None:
        with jax.enable_x64(self.dtype == "float64"):
            jax.eval_shape(self.fn, self.params, jnp.asarray(self.x[:1]))
            self.kernel.check_examples(jnp.asarray(self.x[:3]))

    def plan(self) -> tuple[str, dict[str, Any]]:
        with jax.enable_x64(self.dtype == "float64"):
            plan = self.kernel.plan(self.x)
        lines = [
            {"parameter": line.name, "shape": list(line.shape), "method": line.rule, "operations": line.operations,
             "bytes": line.bytes}
            for line in plan.lines
        ]  # fmt: skip
        method = type(plan.method).__name__
        return str(plan), {"method": method, "operations": plan.operations, "bytes": plan.bytes, "parameters": lines}

    def write(self, places: dict[str, Path], *, progress: bool, overwrite: bool) -> dict[str, Any]:
        options: dict[str, Any] = {"memory": self.memory, "progress": progress, "overwrite": overwrite}
        if list(places) == [""]:
            return {"": ntkit.gram(self.kernel, self.x, out=places[""], **options)}
        fields = _fields(places)
        apart = _Apart(self.kernel, _parts(fields))
        found = ntkit.gram(apart, self.x, out={fields[name]: path for name, path in places.items()}, **options)
        return dict(zip(places, found, strict=True))


class _OfTokens(eqx.Module):
    """A function of whole numbers, handed over as floats."""

    fn: Callable[[Any, Any], Any]

    def __call__(self, params: Any, x: Any) -> Any:
        return self.fn(params, x.astype(jnp.int32))


class _Apart(eqx.Module):
    """The kernel, and what each parameter adds, in one pass."""

    kernel: ntkit.EmpiricalNTK
    parts: type = eqx.field(static=True)

    def __call__(self, x1: Any, x2: Any = None) -> Any:
        found = self.kernel.by_layer(x1, x2)
        return self.parts(jnp.asarray(sum(found.values())), *found.values())


class OfTorch(Engine):
    """Through `ntkit.gram` as well: a tile is a block of the module's own."""

    def __init__(self, network: Network, x: np.ndarray, tokens: bool, dtype: str | None, outputs: str, only: Any,
                 memory: str):  # fmt: skip
        from ntkit.torch import OnArrays

        options: Any = {"outputs": outputs, "only": only, "memory": memory, "dtype": dtype, "whole": tokens}
        self.kernel = OnArrays(network.function, network.params, **options)
        self.dtype, self.names = self.kernel.dtype, self.kernel.wanted
        self.x = np.asarray(x, self.dtype)
        if self.kernel.predicts:
            self.notes = (
                "The network is in training mode; its kernel is that of the network as it predicts, `eval()`.",
            )

    def try_once(self) -> None:
        self.kernel.check_examples(self.x[:1])

    @cached_property
    def _plan(self) -> Any:
        return self.kernel.plan(self.x)

    def plan(self) -> tuple[str, dict[str, Any]]:
        lines = [
            {"parameter": step.parameter, "entries": self.kernel.sizes[step.parameter], "method": step.method,
             "operations": step.operations, "bytes": step.size, "why": step.why}
            for step in self._plan.steps
        ]  # fmt: skip
        found = {"method": "structured", "operations": self._plan.operations, "blocks": self._plan.blocks}
        return str(self._plan), found | {"jacobian_bytes": self._plan.jacobian, "parameters": lines}

    def write(self, places: dict[str, Path], *, progress: bool, overwrite: bool) -> dict[str, Any]:
        # The kernel keeps to the budget itself.
        options: dict[str, Any] = {"memory": None, "progress": progress, "overwrite": overwrite}
        if list(places) == [""]:
            return {"": ntkit.gram(self.kernel, self.x, out=places[""], **options)}
        fields = _fields(places)
        apart = _ApartOnHost(self.kernel, fields)
        found = ntkit.gram(apart, self.x, out={fields[name]: path for name, path in places.items()}, **options)
        return dict(zip(places, found, strict=True))


class _ApartOnHost:
    """As `_Apart`, of a torch network: see `ntkit.gram.host`."""

    on_host = True

    def __init__(self, kernel: Any, fields: dict[str, str]):
        self._kernel, self._fields = kernel, fields
        self.side, self.check_examples, self.program = kernel.side, kernel.check_examples, kernel.program

    def __repr__(self) -> str:
        return f"each parameter of {self._kernel!r}"

    def __call__(self, x1: Any, x2: Any = None, *, told: Any = None) -> Any:
        found = self._kernel.by_layer(x1, x2, told=told)
        return _parts(self._fields)(sum(found.values()), *found.values())


def _fields(places: dict[str, Path]) -> dict[str, str]:
    """A word for each place: what a tuple of kernels names its fields by."""
    return dict(zip(places, ["whole", *(f"layer{i}" for i in range(len(places) - 1))], strict=True))


def _parts(fields: dict[str, str]) -> Any:
    return collections.namedtuple("Parts", fields.values())
