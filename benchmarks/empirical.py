"""`make bench-empirical`: the empirical NTK of JAX functions against neural-tangents, interleaved in one run.

Writes docs/benchmarks/empirical.md and empirical.json. How a row is measured: see run.py. Torch: empirical_torch.py.
"""

import argparse
import json
from pathlib import Path

from run import ROOT, Row, measure, page, peer_python

MLP, CNN = "MLP 784-512-512-10, 128 x 128, full outputs", "CNN 3 x conv32 + pooling, 32 images 32 x 32, full outputs"
ROWS = [
    Row(f"{MLP} (peer: structured)", "empirical-mlp", "neural-tangents", "empirical-mlp", 1, rounds=9),
    Row(f"{CNN} (peer: structured)", "empirical-cnn", "neural-tangents", "empirical-cnn", 1, rounds=5),
    Row(f"{CNN} (peer: Jacobian)", "empirical-cnn", "neural-tangents", "empirical-cnn-jacobian", 1, rounds=5),
]


NOTE = (
    "`first` are the seconds of the first call, compilation included. `error` is the largest deviation from our "
    "float64 by Jacobians, relative to the largest entry."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has neural-tangents 0.6.5")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    arguments = parser.parse_args()
    results, versions = measure(ROWS, arguments.peer_python or peer_python(), "ntkit_empirical_worker.py")
    text = page("Empirical kernels: speed", "make bench-empirical", "float32, full outputs", NOTE, results, versions)
    print(text)
    (arguments.out / "empirical.md").write_text(text)
    (arguments.out / "empirical.json").write_text(json.dumps({"rows": results, "versions": versions}, indent=1) + "\n")


if __name__ == "__main__":
    main()
