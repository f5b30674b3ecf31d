"""`make bench-empirical`: the empirical NTK of JAX functions against neural-tangents, interleaved in one run.

Writes docs/benchmarks/empirical.md and empirical.json. How a row is measured: see run.py. Torch: empirical_torch.py.
"""

import argparse
import datetime
import json
import os
import platform
from pathlib import Path

from run import ROOT, Row, cpu_name, measure, peer_python, verdict

MLP, CNN = "MLP 784-512-512-10, 128 x 128, full outputs", "CNN 3 x conv32 + pooling, 32 images 32 x 32, full outputs"
ROWS = [
    Row(f"{MLP} (peer: structured)", "empirical-mlp", "neural-tangents", "empirical-mlp", 1, rounds=9),
    Row(f"{CNN} (peer: structured)", "empirical-cnn", "neural-tangents", "empirical-cnn", 1, rounds=5),
    Row(f"{CNN} (peer: Jacobian)", "empirical-cnn", "neural-tangents", "empirical-cnn-jacobian", 1, rounds=5),
]


def table(results: list[dict], versions: dict, cores: int) -> str:
    lines = [
        "# Empirical kernels: speed",
        "",
        f"Measured on {datetime.date.today()} by `make bench-empirical`: {cores} CPU cores ({cpu_name()}), float32, "
        f"Python {platform.python_version()}. The systems of a row take turns in one run; medians.",
        "",
        "; ".join(f"{side}: " + ", ".join(f"{k} {v}" for k, v in names.items()) for side, names in versions.items())
        + ".",
        "",
        "`first` are the seconds of the first call, compilation included. `error` is the largest deviation from our "
        "float64 by Jacobians, relative to the largest entry.",
        "",
        "| work | ntkit | peer | time of the peer | ratio | target | first, ours and peer's | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        ratio, target = verdict(row)
        lines.append(
            f"| {row['title']} | {1e3 * row['seconds']:.1f} ms | {row['peer']} | {1e3 * row['peer_seconds']:.1f} ms "
            f"| {ratio} | {target} | {row['first']:.1f}, {row['peer_first']:.1f} s | {row['ours_check']['error']:.0e} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has neural-tangents 0.6.5")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    arguments = parser.parse_args()
    results, versions = measure(ROWS, arguments.peer_python or peer_python(), "ntkit_empirical_worker.py")
    text = table(results, versions, len(os.sched_getaffinity(0)))
    print(text)
    (arguments.out / "empirical.md").write_text(text)
    (arguments.out / "empirical.json").write_text(json.dumps({"rows": results, "versions": versions}, indent=1) + "\n")


if __name__ == "__main__":
    main()
