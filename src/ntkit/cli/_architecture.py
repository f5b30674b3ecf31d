"""A network in six numbers and words: what options say, what a saved model remembers, what a table prints."""

import dataclasses
import math
from typing import Any

import ntkit
from ntkit import nn
from ntkit.errors import InputError
from ntkit.nn.activations.registry import activation

WIDTH = 512


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A multilayer perceptron, and which of its kernels is meant. Built, so checked, at once."""

    depth: int = 2
    activation: str = "relu"
    w_std: float = 2**0.5
    b_std: float = 0.1
    fixed_layers: int = 0
    kernel: str = "ntk"

    def __post_init__(self):
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
    ) -> "Architecture":
        """From the command line's options, of which `beta` excludes two."""
        if beta is not None and (w_std is not None or b_std is not None):
            raise InputError("`--beta` sets `--w-std` and `--b-std`: give either `--beta`, or these two.")
        if beta is not None:
            w_std, b_std = math.sqrt(1 - beta**2), beta
        default = Architecture()
        return Architecture(
            depth,
            activation,
            default.w_std if w_std is None else w_std,
            default.b_std if b_std is None else b_std,
            fixed,
            kernel,
        )

    def network(self, width: int = WIDTH, outputs: int = 1) -> nn.Sequential:
        return nn.mlp(
            self.depth,
            width,
            activation(self.activation),
            w_std=self.w_std,
            b_std=self.b_std,
            fixed_layers=self.fixed_layers,
            outputs=outputs,
        )

    def of_kind(self, kind: str) -> Any:
        return {"ntk": ntkit.NTK, "nngp": ntkit.NNGP, "both": ntkit.Both}[kind](self.network())

    def as_kernel(self) -> Any:
        return self.of_kind(self.kernel)

    def __str__(self) -> str:
        frozen = f", first {self.fixed_layers} frozen" if self.fixed_layers else ""
        return f"depth {self.depth}, {self.activation}, w_std {self.w_std:.3g}, b_std {self.b_std:.3g}{frozen}"
