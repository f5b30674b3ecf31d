"""A network of the user's own where a command takes an architecture: by name, with the way examples reach it."""

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import equinox as eqx
import jax
import numpy as np

import ntkit
from ntkit.cli._architecture import image_of
from ntkit.cli._console import Context
from ntkit.cli._network import Network, importable_here, load_network, told
from ntkit.errors import InputError, NtkitError
from ntkit.gram.identity import array_digest, digest
from ntkit.kernels import Kernel


class Channels(StrEnum):
    """How a network wants images."""

    first = "first"
    last = "last"
    rows = "rows"
    none = "none"


@dataclasses.dataclass(frozen=True)
class Layout:
    """From rows (n, features) to what a network is given: examples of a shape, the last axis moved to the front, or as
    whole numbers."""

    shape: tuple[int, ...]
    first: bool = False
    whole: bool = False

    @staticmethod
    def of(shape: tuple[int, ...], source: str, channels: Channels, image: str | None, whole: bool = False) -> "Layout":
        """As the options say, for examples that have a shape in their source."""
        if channels in ("none", "rows"):
            if image is not None:
                raise InputError("`--image` says how rows are images: give `--channels first` or `last` with it.")
            return Layout(shape if channels == "none" else (int(np.prod(shape)),), False, whole)
        return Layout(image_of(shape, source, image, f"`--channels {channels}`"), channels == "first", whole)

    def __call__(self, x: Any) -> Any:
        """Of NumPy's arrays and JAX's; whole numbers are left to who runs the network."""
        x = x.reshape(len(x), *self.shape)
        return x.transpose(0, x.ndim - 1, *range(1, x.ndim - 1)) if self.first else x


class OfRows(Kernel):
    """A kernel of a network of JAX, of examples that come as rows."""

    inner: ntkit.EmpiricalNTK
    layout: Layout = eqx.field(static=True)

    def __call__(self, x1: Any, x2: Any = None) -> Any:
        return self.inner(self._laid(x1), None if x2 is None else self._laid(x2))

    def diagonal(self, x: Any) -> Any:
        return self.inner.diagonal(self._laid(x))

    def check_examples(self, x: Any) -> None:
        self.inner.check_examples(self._laid(x))

    def program(self, x: Any) -> list[Any]:
        return self.inner.program(self._laid(x))

    def _laid(self, x: Any) -> Any:
        laid = self.layout(x)
        return laid.astype("int32") if self.layout.whole else laid


def is_own(network: str) -> bool:
    """Whether `--network` names a network of the user's own."""
    return ":" in network


def refuse_given(ctx: Context, names: tuple[str, ...], why: str) -> None:
    """Refuses options that were given though they say nothing here."""
    for name in names:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise InputError(f"`--{name.replace('_', '-')}` {why}")


# What makes an `Architecture`, and what a network of one's own has by itself; and the reverse.
OF_ARCHITECTURES = ("pooling", "depth", "activation", "w_std", "b_std", "beta", "fixed_layers")
OF_OWN = ("channels", "tokens")


def check_options(ctx: Context, network: str) -> None:
    """Refuses options of the other kind of network."""
    if is_own(network):
        refuse_given(ctx, OF_ARCHITECTURES, f"is for networks that ntkit makes; `{network}` is as it is.")
    else:
        refuse_given(ctx, OF_OWN, "is for a network of your own: give `--network module:attribute` with it.")


@dataclasses.dataclass(frozen=True)
class OwnNetwork:
    """`module:attribute` of `library`; `digest` is that of its parameters. The mean over outputs of its NTK.

    As `Architecture` it makes a kernel, has a name to print, and is remembered by a saved model, but for the network
    itself: that is `bound` anew by whoever trusts its code.
    """

    name: str
    library: str
    layout: Layout
    digest: str
    network: Network | None = dataclasses.field(default=None, repr=False, compare=False)
    dtype: str = "float64"
    memory: str | None = None

    activation = ""
    image = ()
    kernel = "ntk"

    @staticmethod
    def load(
        ctx: Context, name: str, layout: Layout, dtype: str = "float64", memory: str | None = None
    ) -> "OwnNetwork":
        """**Raises:** `InputError` where there is no such network."""
        # Until the command ends, so that what the network imports when it runs is found as well.
        ctx.with_resource(importable_here())
        network = load_network(name)
        own = OwnNetwork(name, network.library, layout, "", network, dtype, memory)
        return dataclasses.replace(own, digest=own._digest())

    def bound(self, ctx: Context, name: str, memory: str | None) -> "OwnNetwork":
        """The same with the network of that name, which must have the parameters that are remembered."""
        found = OwnNetwork.load(ctx, name, self.layout, self.dtype, memory)
        if found.digest != self.digest:
            raise InputError(
                f"The parameters of `{name}` are not those of `{self.name}` that the model was fitted with: load them "
                "where the module makes the network, or fit again."
            )
        return found

    def try_on(self, x: np.ndarray) -> None:
        """Runs the network on an example. **Raises:** `InputError` where it does not take it."""
        try:
            with jax.enable_x64(self.dtype == "float64"):
                kernel, few = self.as_kernel(), np.asarray(x[:3], self.dtype)
                if isinstance(kernel, OfRows):  # whose own words know nothing of options
                    laid = jax.tree.map(jax.numpy.asarray, kernel._laid(few))
                    precise = kernel.inner._as_precise_as(laid)
                    jax.eval_shape(precise.fn, precise.params, laid)
                kernel.check_examples(few)
        except NtkitError:
            raise
        except Exception as error:
            kind = "whole numbers" if self.layout.whole else self.dtype
            shape = self.layout(np.zeros((1, int(np.prod(self.layout.shape))))).shape
            raise InputError(
                f"The network cannot take these examples, which reach it as {kind} of shape {shape}: {told(error)}. "
                "`--channels` says how images are laid out, `--tokens` that the inputs are whole numbers."
            ) from error

    def as_kernel(self) -> Any:
        """For `ntkit.gram` and the estimators. **Raises:** `InputError` where there is no network but its name."""
        if self.network is None:
            raise InputError(
                f"The model was fitted with a network of your own, `{self.name}`, which is not saved with it. Say "
                f"where it is, if you trust its code: `--network {self.name}`."
            )
        if self.network.library == "torch":
            from ntkit.torch import OnArrays

            rest: Any = {"layout": self.layout, "whole": self.layout.whole, "memory": self.memory or "1GiB"}
            return OnArrays(self.network.function, self.network.params, dtype=self.dtype, **rest)
        return OfRows(ntkit.EmpiricalNTK(self.network.function, self.network.params), self.layout)

    def of_kind(self, kind: str) -> Any:
        if kind != "ntk":
            raise InputError(
                f"`--kind {kind}` is of infinite networks; `{self.name}` is a finite one, which has an NTK."
            )
        return self.as_kernel()

    def record(self) -> dict[str, Any]:
        """What a saved model and `--json` say of it."""
        return {"own": self.name, "library": self.library, "digest": self.digest} | dataclasses.asdict(self.layout)

    @staticmethod
    def recorded(record: Mapping[str, Any]) -> "OwnNetwork":
        layout = Layout(tuple(map(int, record["shape"])), bool(record["first"]), bool(record["whole"]))
        return OwnNetwork(str(record["own"]), str(record["library"]), layout, str(record["digest"]))

    def __str__(self) -> str:
        return f"{self.name} ({self.library})"

    def _digest(self) -> str:
        kernel = self.as_kernel()
        if self.library == "torch":
            return kernel.digest
        with jax.enable_x64(True):
            leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(kernel.inner.params) if eqx.is_array_like(leaf)]
        return digest(*(array_digest(leaf).encode() for leaf in leaves))
