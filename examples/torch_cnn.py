"""The NTK of a torch CNN before and after training on MNIST: spectrum and alignment with the labels.

python examples/torch_cnn.py [mnist.npz] [--out figure.png]

Without a file: `mnist.npz` in the folder that NTKIT_DATA names, in ../shared/data, or scikit-learn's digits.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import ntkit.torch
from ntkit import data, plots

TRAINED, KERNEL, EPOCHS = 10_000, 300, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="mnist.npz")
    parser.add_argument("--out", type=Path, default=Path("torch_cnn.png"))
    args = parser.parse_args()
    begun = time.perf_counter()
    torch.manual_seed(0)
    name, (x, y), (x_test, y_test) = load(args.data)
    print(f"{name}: {len(x)} training images, the NTK at {min(KERNEL, len(x_test))} test images")
    net, rows, spectra = cnn(x.shape[-1]), {}, {}
    for when in ("before training", "after training"):
        if when == "after training":
            train(net, x, y)
        clock = time.perf_counter()
        kernel = ntkit.torch.EmpiricalNTK(net)(x_test[:KERNEL]).numpy().astype(np.float64)
        seconds = time.perf_counter() - clock
        values = np.linalg.eigvalsh(kernel)[::-1]
        spectra[when] = values
        accuracy = float((net(x_test).argmax(1) == y_test).float().mean())
        rank = values.sum() ** 2 / (values**2).sum()
        labels = F.one_hot(y_test[:KERNEL]).double().numpy()
        aligned = ntkit.alignment(kernel, labels, centered=True)
        rows[when] = (accuracy, values[0], values[9], rank, aligned, seconds)
    show(rows)
    draw(spectra, rows, name, args.out)
    print(f"{args.out}; {time.perf_counter() - begun:.0f} s in all on {torch.get_num_threads()} cores")


def load(path: Path | None) -> tuple[str, tuple, tuple]:
    """MNIST if it is there, else the digits; images (n, 1, side, side)."""
    places = [os.environ.get("NTKIT_DATA", ""), "../shared/data"]
    found = [Path(place) / "mnist.npz" for place in places if place and (Path(place) / "mnist.npz").is_file()]
    path = path or (found[0] if found else None)
    if path is None:
        sets = data.split(data.load("digits"), 0.25, seed=0)
    else:
        sets = data.load("mnist", cache=path)
    assert sets.x_test is not None

    def tensors(inputs: np.ndarray, labels: np.ndarray | None) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.as_tensor(inputs.reshape(len(inputs), 1, *sets.shape[:2]), dtype=torch.float32)
        return images, torch.as_tensor(labels)

    name = "MNIST" if path else "scikit-learn's digits (no mnist.npz was found)"
    return name, tensors(sets.x[:TRAINED], sets.y[:TRAINED]), tensors(sets.x_test, sets.y_test)


def cnn(side: int) -> nn.Module:
    """Two convolutions and a dense layer."""
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32 * (side // 4) ** 2, 10))


def train(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()


HEAD = ("", "test accuracy", "largest eigenvalue", "tenth", "effective rank", "alignment", "seconds of the NTK")


def show(rows: dict[str, tuple]) -> None:
    cells = [HEAD] + [(when, *(f"{v:.3g}" for v in row)) for when, row in rows.items()]
    cells = [(a, f"{float(b):.4f}" if i else b, *c) for i, (a, b, *c) in enumerate(cells)]
    widths = [max(len(row[j]) for row in cells) for j in range(len(HEAD))]
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def draw(spectra: dict[str, np.ndarray], rows: dict[str, tuple], name: str, path: Path) -> None:
    figure, ax = plots.figure(6.2, 4.0)
    plots.spectrum(ax, {f"{when}: alignment {rows[when][4]:.2f}": values for when, values in spectra.items()})
    ax.set_title(f"NTK of a CNN at {len(next(iter(spectra.values())))} test images of {name.split(' (')[0]}")
    figure.savefig(path)


if __name__ == "__main__":
    main()
