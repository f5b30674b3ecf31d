"""A network in some numbers and words: what options say, what a saved model remembers, what a table prints."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import ntkit
from ntkit import data as sets
from ntkit import nn
from ntkit.errors import InputError
from ntkit.kernels import Unflattened
from ntkit.nn.activations.registry import activation

WIDTH = 512
# Channels of a convolutional network of finite width: on a processor, 64 of them take 50 times as long.
CHANNELS = 16
POOLINGS = ("flatten", "local", "global")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A multilayer perceptron, or the convolutional network `nn.presets.cntk`, and which of its kernels is meant.

    Built, so checked, at once. `depth`: hidden layers, or of `cntk` the layers with weights; `image`: of `cntk` the
    shape of one image, (height, width, channels), which its kernels take as rows.
    """

    depth: int = 2
    activation: str = "relu"
    w_std: float = 2**0.5
    b_std: float = 0.1
    fixed_layers: int = 0
    kernel: str = "ntk"
    network_name: str = "mlp"
    pooling: str = "flatten"
    image: tuple[int, ...] = ()

    def __post_init__(self):
        if self.network_name not in ("mlp", "cntk"):
            raise InputError(f'`network` must be "mlp" or "cntk", but is {self.network_name!r}.')
        if self.network_name == "cntk" and self.fixed_layers:
            raise InputError(
                "`--fixed-layers` is for `--network mlp`: of a convolutional network all layers are trained."
            )
        if self.kernel not in ("ntk", "nngp"):
            raise InputError(f'`kernel` must be "ntk" or "nngp", but is {self.kernel!r}.')
        self.network()

    @staticmethod
    def of_options(
        depth: int,
        activation: str,
        w_std: float | None,
        b_std: float | None,
        beta: float | None,
        fixed: int,
        kernel: str,
        network: str = "mlp",
        pooling: str | None = None,
    ) -> "Architecture":
        """From the command line's options, of which `beta` excludes two, and `pooling` is for `cntk` only."""
        if pooling is not None and network != "cntk":
            raise InputError("`--pooling` is for images: give `--network cntk` with it.")
        if beta is not None and (w_std is not None or b_std is not None):
            raise InputError("`--beta` sets `--w-std` and `--b-std`: give either `--beta`, or these two.")
        if beta is not None:
            w_std, b_std = math.sqrt(1 - beta**2), beta
        default = Architecture()
        return Architecture(
            depth,
            activation,
            default.w_std if w_std is None else w_std,
            (0.0 if network == "cntk" else default.b_std) if b_std is None else b_std,
            fixed,
            kernel,
            network,
            default.pooling if pooling is None else pooling,
        )

    def on(self, shape: tuple[int, ...], source: str, image: str | None = None) -> "Architecture":
        """The same for examples of a shape: of `cntk` images, as the shape or `image`, such as "28x28x1", says."""
        if self.network_name != "cntk":
            if image is not None:
                raise InputError("`--image` is for networks of images: give `--network cntk` with it.")
            return self
        return dataclasses.replace(self, image=image_of(shape, source, image))

    @property
    def width(self) -> int:
        """Of the network at finite width."""
        return CHANNELS if self.network_name == "cntk" else WIDTH

    def network(self, width: int = WIDTH, outputs: int = 1) -> nn.Sequential:
        phi = activation(self.activation)
        if self.network_name == "cntk":
            rest: Any = {"pooling": self.pooling, "w_std": self.w_std, "b_std": self.b_std}
            return nn.presets.cntk(self.depth, width, phi, outputs=outputs, **rest)
        return nn.mlp(
            self.depth,
            width,
            phi,
            w_std=self.w_std,
            b_std=self.b_std,
            fixed_layers=self.fixed_layers,
            outputs=outputs,
        )

    def of_kind(self, kind: str) -> Any:
        kernel = {"ntk": ntkit.NTK, "nngp": ntkit.NNGP, "both": ntkit.Both}[kind](self.network())
        return Unflattened(kernel, self.image) if self.network_name == "cntk" else kernel

    def as_kernel(self) -> Any:
        return self.of_kind(self.kernel)

    def examples(self, x: Any) -> Any:
        """Rows as the network itself takes them."""
        return x.reshape(len(x), *self.image) if self.network_name == "cntk" else x

    def record(self) -> dict[str, Any]:
        """What a saved model and `--json` say of it."""
        return dataclasses.asdict(self)

    @staticmethod
    def recorded(record: Mapping[str, Any]) -> "Architecture":
        return Architecture(**{**record, "image": tuple(record.get("image", ()))})

    def __str__(self) -> str:
        if self.network_name == "cntk":
            scales = f"w_std {self.w_std:.3g}, b_std {self.b_std:.3g}"
            return f"cntk, depth {self.depth}, {self.pooling}, {self.activation}, {scales}"
        frozen = f", first {self.fixed_layers} frozen" if self.fixed_layers else ""
        return f"depth {self.depth}, {self.activation}, w_std {self.w_std:.3g}, b_std {self.b_std:.3g}{frozen}"


def image_of(shape: tuple[int, ...], source: str, asked: str | None, what: str = "`--network cntk`") -> tuple[int, ...]:
    """(height, width, channels) of examples of a shape; `what` needs them. **Raises:** `InputError`."""
    if asked is None and len(shape) == 1:
        raise InputError(
            f"{what} needs images, but the examples of {source} are rows of {shape[0]} numbers. Say what "
            "images they are, such as `--image 28x28x1`."
        )
    if asked is None:
        return sets.image_shape(shape, source)
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*(x[1-9]\d*)?", asked):
        raise InputError(
            f"`--image` must be height x width, or height x width x channels, such as 28x28, not {asked!r}."
        )
    image = sets.image_shape(tuple(map(int, asked.split("x"))), f"`--image {asked}`")
    flat = len(shape) < 2
    if (math.prod(image) != math.prod(shape)) if flat else (image != sets.image_shape(shape, source)):
        raise InputError(f"`--image {asked}` does not fit {source}, whose examples have shape {shape}.")
    return image
