"""`make bench-images`: kernels of images against neural-tangents, interleaved in one run.

Writes docs/benchmarks/images.md and images.json. How a row is measured: see run.py.
"""

import argparse
import json
from pathlib import Path

from run import ROOT, Row, measure, page, peer_python

ROWS = [
    Row("5 conv layers + global pooling, 16 pairs", "cnn-5", "neural-tangents", "cnn-5", 60, rounds=5),
    Row("20 conv layers + global pooling, 4 pairs", "cnn-20", "neural-tangents", "cnn-20", 60, rounds=3),
    Row("Myrtle-5, 16 pairs", "myrtle-5", "neural-tangents", "myrtle-5", 40, rounds=5),
    Row("5 conv layers + Flatten, 64 x 64 images", "flatten-5", "neural-tangents", "flatten-5", 5, rounds=9),
    Row("ResNet-18-like, 4 pairs", "resnet-18", "neural-tangents", "resnet-18", 30, rounds=3),
    Row("gelu in place of relu, 5 conv + global pooling", "cnn-5-gelu", "ntkit", "cnn-5", 4, at_most=True, rounds=5),
    Row("tanh in place of relu, 5 conv + global pooling", "cnn-5-tanh", "ntkit", "cnn-5", 4, at_most=True, rounds=1),
]


INTRODUCTION = "images of 32 x 32 x 3"
NOTE = (
    "Ours is `ntkit.gram(theta, x1, x2)`: NumPy array out. `first` are the seconds of the first call, compilation "
    "included. `error` is the largest deviation from our float64, relative."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has neural-tangents 0.6.5")
    parser.add_argument("--only", help="run only the rows of these jobs, separated by commas")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    arguments = parser.parse_args()
    rows = [row for row in ROWS if not arguments.only or row.ours in arguments.only.split(",")]
    results, versions = measure(rows, arguments.peer_python or peer_python(), "ntkit_images_worker.py")
    text = page("Networks of images: speed", "make bench-images", INTRODUCTION, NOTE, results, versions)
    print(text)
    if not arguments.only:
        (arguments.out / "images.md").write_text(text)
        record = {"rows": results, "versions": versions}
        (arguments.out / "images.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
