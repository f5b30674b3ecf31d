"""`make bench-scaling`: how the time of kernels of images grows with depth, side and number of images.

Writes docs/benchmarks/scaling.md, scaling.json and scaling.png. Medians of `--rounds` calls, compilation not counted; a
slope is that of the line through the logarithms of the last three points.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from run import ROOT, cpu_name

import ntkit
from ntkit import nn

Point = tuple[int, float]  # of the abscissa, and seconds
# What grows, the exits, the values, and the network, side and numbers of images (rows, columns) for a value.
POOLED, FLAT = "GlobalAvgPool", "Flatten"
SWEEPS = {
    "depth": {POOLED: (1, 2, 5, 10, 20), FLAT: (1, 2, 5, 10, 20)},
    "side": {POOLED: (8, 16, 32, 48), FLAT: (16, 32, 64, 128)},
    "images": {POOLED: (2, 4, 8, 16), FLAT: (16, 32, 64, 128, 256)},
}
LABELS = {"depth": "convolutions", "side": "pixels per side", "images": "images"}
TITLES = {
    "depth": "depth: 32 x 32, {pooled} and {flat} images",
    "side": "side: 5 convolutions, {pooled} and {flat} images",
    "images": "number: 5 convolutions, 32 x 32",
}
IMAGES = {POOLED: 4, FLAT: 64}


def network(depth: int, end: str) -> nn.Sequential:
    layers = [layer for _ in range(depth) for layer in (nn.Conv(512, (3, 3), 2**0.5), nn.Relu())]
    return nn.Sequential(*layers, getattr(nn, end)(), nn.Dense(1))


def seconds(end: str, *, depth: int = 5, side: int = 32, images: int | None = None, rounds: int) -> float:
    """The symmetric kernel of so many images."""
    count = IMAGES[end] if images is None else images
    x = np.random.default_rng(0).standard_normal((count, side, side, 3)).astype(np.float32)
    theta, taken = ntkit.NTK(network(depth, end)), []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        ntkit.gram(theta, x, progress=False)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def slope(points: list[Point]) -> float:
    values, times = np.log(np.array(points[-3:], float)).T
    return float(np.polyfit(values, times, 1)[0])


def drawn(results: dict[str, dict[str, list[Point]]], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for axis, (what, by_end) in zip(axes, results.items(), strict=True):
        for (end, points), marker, color in zip(by_end.items(), "os", ("#0072B2", "#D55E00"), strict=True):
            values, times = zip(*points, strict=True)
            label = f"{end}, slope {slope(points):.1f}"
            axis.loglog(values, 1e3 * np.array(times), marker=marker, color=color, label=label)
        axis.set(xlabel=LABELS[what], title=TITLES[what].format(pooled=IMAGES[POOLED], flat=IMAGES[FLAT]))
        axis.title.set_fontsize(10)
        axis.set_xticks(sorted({value for points in by_end.values() for value, _ in points}))
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.yaxis.set_major_formatter("{x:g}")
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_minor_formatter("")
        axis.grid(True, alpha=0.3)
        low, high = axis.get_ylim()
        axis.set_ylim(low, high * (high / low) ** 0.25)  # room for the legend above the curves
        axis.legend(frameon=False, loc="upper left")
    axes[0].set_ylabel("milliseconds")
    figure.savefig(path, dpi=130, facecolor="white")


def table(results: dict[str, dict[str, list[Point]]]) -> str:
    lines = [
        "# Networks of images: how the time grows",
        "",
        f"Measured on {datetime.date.today()} by `make bench-scaling`: {len(os.sched_getaffinity(0))} CPU cores "
        f"({cpu_name()}), float32, Python {platform.python_version()}. `ntkit.gram(theta, x)` of 3 x 3 filters and "
        f"Relu; where not stated otherwise 5 of them, 32 x 32 pixels, {IMAGES[POOLED]} images under global pooling, "
        f"{IMAGES[FLAT]} with Flatten. Medians, compilation not counted.",
        "",
        "![Time against depth, side and number of images, on logarithmic axes](scaling.png)",
        "",
        "| what grows | way out | milliseconds | slope of the last three | expected |",
        "|---|---|---|---|---|",
    ]
    expected = {"depth": (1, 1), "side": (4, 2), "images": (2, 2)}
    for what, by_end in results.items():
        for (end, points), power in zip(by_end.items(), expected[what], strict=True):
            times = ", ".join(f"{value}: {1e3 * taken:.3g}" for value, taken in points)
            lines.append(f"| {LABELS[what]} | {end} | {times} | {slope(points):.2f} | {power} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    arguments = parser.parse_args()
    results: dict[str, dict[str, list[Point]]] = {}
    for what, by_end in SWEEPS.items():
        for end, values in by_end.items():
            points = [(v, seconds(end, **{what: v}, rounds=arguments.rounds)) for v in values]
            results.setdefault(what, {})[end] = points
            print(what, end, points, flush=True)
    drawn(results, arguments.out / "scaling.png")
    (arguments.out / "scaling.md").write_text(table(results))
    (arguments.out / "scaling.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
