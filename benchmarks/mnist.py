"""NTK and NNGP regression on 10 000 training images of MNIST: accuracy and seconds, into docs/benchmarks/mnist.md.

The ridge is chosen by leave-one-out accuracy on the first 2000 training images; the other choices are fixed: depth 3,
ReLU, w_std = sqrt(2), b_std = 0.1, images of unit norm. The test set is MNIST's own, seen once.
"""

import argparse
import datetime
import os
import time
from pathlib import Path

import numpy as np

import ntkit.data
import ntkit.predict
from ntkit import nn

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist", help="mnist, or the path of an mnist.npz")
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "mnist.md")
    arguments = parser.parse_args()
    data = ntkit.data.unit_sphere(ntkit.data.load(arguments.data), radius=28.0)
    x, labels = data.x[: arguments.train], data.y[: arguments.train]
    x_test, labels_test = data.x_test, data.y_test
    assert x_test is not None
    assert labels_test is not None
    net = nn.mlp(depth=3, width=512, activation=nn.Relu(), w_std=2**0.5, b_std=0.1)
    y, classes = ntkit.predict.one_hot(labels)
    start = time.perf_counter()
    both = ntkit.gram(ntkit.Both(net), x.astype(np.float32), memory="2GiB")
    cross = ntkit.gram(ntkit.Both(net), x_test.astype(np.float32), x.astype(np.float32), memory="2GiB")
    kernels_seconds = time.perf_counter() - start
    rows = []
    for name, kernel in (("NTK", ntkit.NTK(net)), ("NNGP", ntkit.NNGP(net))):
        start = time.perf_counter()
        matrix = getattr(both, name.lower()).astype(np.float64)
        chosen = ntkit.tune([kernel], x[:2000], y[:2000], relative=True, criterion="leave-one-out-accuracy")
        model = ntkit.ridge(kernel, x, y, alpha=chosen.noise, matrix=matrix)
        scores = getattr(cross, name.lower()) @ np.asarray(model.weights)
        accuracy = float(np.mean(classes[scores.argmax(axis=1)] == labels_test))
        rows.append(f"| {name} | {100 * accuracy:.2f} % | {chosen.noise:.1e} | {time.perf_counter() - start:.0f} s |")
    text = "\n".join(
        [
            "# MNIST, 10 000 training images",
            "",
            f"Measured on {datetime.date.today()} by `python benchmarks/mnist.py`, {len(os.sched_getaffinity(0))} CPU "
            f"cores. Data: {data.source}. ReLU network of depth 3, w_std = sqrt(2), b_std = 0.1, images of one norm; "
            "ridge by leave-one-out accuracy on 2000 training images; all 10 000 test images.",
            "",
            f"Both kernels of {len(x)} x {len(x)} and {len(x_test)} x {len(x)} images in one pass, float32: "
            f"{kernels_seconds:.0f} s.",
            "",
            "| kernel | test accuracy | ridge | choosing the ridge and solving, float64 |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )
    print(text)
    arguments.out.write_text(text)


if __name__ == "__main__":
    main()
