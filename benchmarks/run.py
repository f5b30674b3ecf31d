"""`make bench`: ntkit against its peers, interleaved in one run; writes docs/benchmarks/dense.md and dense.json.

Each system runs in a process and an environment of its own. A row's systems take turns, one each per round, so that
whatever else the machine does hits them alike; medians and their ratio are reported. A turn is half a second of runs,
or one run that is longer. neural-tangents needs old releases of everything and gets a virtual environment of its own,
made on the first run.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from rich.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
WORKERS = Path(__file__).resolve().parent / "workers"
PEER_ENV = ROOT / ".venv-neural-tangents"
PEER_NEEDS = ["jax==0.4.24", "jaxlib==0.4.24", "numpy<2", "scipy<1.13", "ml_dtypes<0.5", "frozendict"]


@dataclasses.dataclass
class Row:
    """One line of the table: our job, the peer and its job, and the target as a ratio peer / ours (or ours / peer)."""

    title: str
    ours: str
    peer: str
    theirs: str
    target: float
    at_most: bool = False  # the target bounds ours / peer from above, rather than peer / ours from below
    rounds: int = 9
    memory: float | None = None  # what a run holds is measured; the target as a ratio peer / ours, 0 for none


ROWS = [
    Row("ReLU, depth 3, n = 4096, d = 784", "relu-3", "neural-tangents", "relu-3", 8),
    Row("the same, in units of jitted `x @ x.T`", "relu-3", "product", "product", 1.5, at_most=True),
    Row("the same", "relu-3", "scikit-ntk", "scikit-ntk-3", 1, rounds=5),
    Row("ReLU, depth 10, n = 4096", "relu-10", "neural-tangents", "relu-10", 12),
    Row("ReLU with biases, depth 10, n = 4096", "relu-10-bias", "neural-tangents", "relu-10", 1),
    Row("tanh, depth 3, n = 1024 (peer: quadrature, deg 25)", "tanh-3", "neural-tangents", "tanh-3", 300, rounds=3),
    Row("Elu, depth 3, n = 1024 (peer: quadrature, deg 25)", "elu-3", "neural-tangents", "elu-3", 100, rounds=3),
]


class Worker:
    """A system in its own process, which prepares a job and runs it on demand."""

    def __init__(self, python: Path | str, script: str, **environment: str):
        self.process = subprocess.Popen(
            [str(python), str(WORKERS / script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=WORKERS,
            env=os.environ | environment,
        )  # fmt: skip
        self.versions = self._read()["ready"]

    def prepare(self, job: str) -> dict:
        return self._ask({"job": job})

    def run(self) -> float:
        return self._ask({"run": True})["seconds"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, request: dict) -> dict:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"A worker stopped: {self.process.args}. Its message stands above.")
        return json.loads(line)


def peer_python() -> Path:
    """The interpreter of the peer's environment, which is made if it is not there."""
    python = PEER_ENV / "bin" / "python"
    if not (PEER_ENV / ".ready").exists():
        print(f"Making {PEER_ENV.name} for neural-tangents 0.6.5 (once)")
        subprocess.run([sys.executable, "-m", "venv", "--clear", PEER_ENV], check=True)
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*install, *PEER_NEEDS], check=True)
        subprocess.run([*install, "--no-deps", "neural-tangents==0.6.5", "tf2jax"], check=True)
        (PEER_ENV / ".ready").touch()
    return python


def memory(python: Path | str, script: str, job: str) -> float:
    """MiB that a run holds, in a process whose large arrays go back to the system as soon as they are freed."""
    worker = Worker(python, script, MALLOC_MMAP_THRESHOLD_="65536")
    worker.prepare(job)
    found = worker._ask({"memory": True})["mib"]
    worker.close()
    return found


def measure(rows: list[Row], peer: Path, script: str = "ntkit_worker.py") -> tuple[list[dict], dict]:
    ours, theirs = Worker(sys.executable, script), Worker(peer, "neural_tangents_worker.py")
    local = Worker(sys.executable, script)  # peers that live in our environment
    results = []
    with Progress() as progress:
        task = progress.add_task("rows", total=sum(row.rounds for row in rows))
        for row in rows:
            other = theirs if row.peer == "neural-tangents" else local
            first, first_peer = ours.prepare(row.ours), other.prepare(row.theirs)
            times: list[tuple[float, float]] = []
            for _ in range(row.rounds):
                times.append((ours.run(), other.run()))
                progress.advance(task)
            held = {}
            if row.memory is not None:
                there = (peer, "neural_tangents_worker.py") if other is theirs else (sys.executable, script)
                held = {"mib": memory(sys.executable, script, row.ours), "peer_mib": memory(*there, row.theirs)}
            mine, peers = (statistics.median(column) for column in zip(*times, strict=True))
            results.append(
                dataclasses.asdict(row)
                | {"seconds": mine, "peer_seconds": peers, "all": times, "ours_check": first["check"]}
                | {"first": first["first"], "peer_first": first_peer["first"], "peer_check": first_peer["check"]}
                | held
            )
    versions = {"ntkit side": ours.versions, "neural-tangents side": theirs.versions}
    for worker in (ours, theirs, local):
        worker.close()
    return results, versions


def page(title: str, command: str, sizes: str, note: str, results: list[dict], versions: dict) -> str:
    """The page of a comparison, a line a row."""
    cores = len(os.sched_getaffinity(0))
    lines = [
        f"# {title}",
        "",
        f"Measured on {datetime.date.today()} by `{command}`: {cores} CPU cores ({cpu_name()}), "
        f"Python {platform.python_version()}, {sizes}. The systems of a row take turns in one run; medians.",
        "",
        "; ".join(f"{side}: " + ", ".join(f"{k} {v}" for k, v in names.items()) for side, names in versions.items())
        + ".",
        "",
        note,
        "",
        "| work | ntkit | peer | time of the peer | ratio | target | first, ours and peer's | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    if any("mib" in row for row in results):
        lines[-2:] = [lines[-2] + " memory, ours and peer's |", lines[-1] + "---|"]
    for row in results:
        ratio, target = verdict(row)
        times = (1e3 * row[key] for key in ("seconds", "peer_seconds"))
        ours, theirs = (f"{time:.0f} ms" if time >= 100 else f"{time:.3g} ms" for time in times)
        lines.append(
            f"| {row['title']} | {ours} | {row['peer']} | {theirs} | {ratio} | {target} "
            f"| {row['first']:.1f}, {row['peer_first']:.1f} s | {row['ours_check']['error']:.0e} |{held(row)}"
        )
    return "\n".join([*lines, ""])


def held(row: dict) -> str:
    """The cell of the memory, where it was measured."""
    if "mib" not in row:
        return ""
    ratio = row["peer_mib"] / max(1.0, row["mib"])
    goal = f", 1/{row['memory']:g} {'met' if ratio >= row['memory'] else 'missed'}" if row["memory"] else ""
    return f" {row['mib']:.0f}, {row['peer_mib']:.0f} MiB (1/{ratio:.1f}{goal}) |"


def compare(name: str, script: str, rows: list[Row], about: tuple[str, str, str, str]) -> None:
    """Measures rows, and writes the page and the numbers; `about` is the title, command, sizes and note of `page`."""
    parser = argparse.ArgumentParser(description=about[0])
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has neural-tangents 0.6.5")
    parser.add_argument("--only", help="run only the rows of these jobs, separated by commas, and write nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    arguments = parser.parse_args()
    chosen = [row for row in rows if not arguments.only or row.ours in arguments.only.split(",")]
    results, versions = measure(chosen, arguments.peer_python or peer_python(), script)
    text = page(*about, results, versions)
    print(text)
    if not arguments.only:
        (arguments.out / f"{name}.md").write_text(text)
        record = {"rows": results, "versions": versions}
        (arguments.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def first_calls(peer: Path, repeats: int = 3) -> dict:
    """Seconds of the first call in a fresh process, compile included, depth 10."""
    columns: dict[str, list[float]] = {"ntkit": [], "neural-tangents": []}
    for _ in range(repeats):
        for name, python, script in (
            ("ntkit", sys.executable, "ntkit_worker.py"),
            ("neural-tangents", peer, "neural_tangents_worker.py"),
        ):
            worker = Worker(python, script)
            columns[name].append(worker.prepare("relu-10")["first"])
            worker.close()
    return {name: statistics.median(values) for name, values in columns.items()}


def import_seconds(repeats: int = 5) -> float:
    code = "import time; t = time.perf_counter(); import ntkit; print(time.perf_counter() - t)"
    runs = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(repeats)]
    return statistics.median(runs)


def verdict(row: dict) -> tuple[str, str]:
    ratio = row["seconds"] / row["peer_seconds"] if row["at_most"] else row["peer_seconds"] / row["seconds"]
    met = ratio <= row["target"] if row["at_most"] else ratio >= row["target"]
    target = f"at most {row['target']:g}" if row["at_most"] else f"{row['target']:g}"
    return f"{ratio:.2f}" if row["at_most"] else f"{ratio:.1f}", f"{target} ({'met' if met else 'missed'})"


def table(results: list[dict], first: dict, imported: float, versions: dict, cores: int) -> str:
    lines = [
        "# Dense networks: speed",
        "",
        f"Measured on {datetime.date.today()} by `make bench`: {cores} CPU cores ({cpu_name()}), float32, "
        f"Python {platform.python_version()}. The systems of a row take turns in one run, each of half a second or, if "
        "that is longer, one call; medians.",
        "",
        "; ".join(f"{side}: " + ", ".join(f"{k} {v}" for k, v in names.items()) for side, names in versions.items())
        + ".",
        "",
        "Ours is `ntkit.gram(theta, x)`: NumPy array out, symmetric half computed and mirrored. The networks have "
        "w_std = sqrt(2) and, unless said, no biases. `error` is the largest deviation of the first 256 x 256 entries "
        "from float64, relative to the geometric mean of the diagonal.",
        "",
        "| work | ntkit | peer | time of the peer | ratio | target | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results:
        ratio, target = verdict(row)
        peer = "`x @ x.T`" if row["peer"] == "product" else row["peer"]
        lines.append(
            f"| {row['title']} | {1e3 * row['seconds']:.1f} ms | {peer} | {1e3 * row['peer_seconds']:.1f} ms "
            f"| {ratio} | {target} | {row['ours_check']['error']:.0e} |"
        )
    met = "met" if first["ntkit"] <= first["neural-tangents"] else "missed"
    lines += [
        f"| first call in a fresh process, compile included, depth 10 | {first['ntkit']:.2f} s | neural-tangents "
        f"| {first['neural-tangents']:.2f} s | {first['neural-tangents'] / first['ntkit']:.2f} | 1 ({met}) | |",
        f"| `import ntkit` | {imported:.2f} s | | | | under 1.5 s ({'met' if imported < 1.5 else 'missed'}) | |",
        "",
    ]
    return "\n".join(lines)


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has neural-tangents 0.6.5")
    parser.add_argument("--only", help="run only the rows whose job contains this")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    arguments = parser.parse_args()
    peer = arguments.peer_python or peer_python()
    rows = [row for row in ROWS if not arguments.only or arguments.only in row.ours]
    results, versions = measure(rows, peer)
    first, imported = first_calls(peer), import_seconds()
    text = table(results, first, imported, versions, len(os.sched_getaffinity(0)))
    print(text)
    if not arguments.only:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "dense.md").write_text(text)
        record = {"rows": results, "first_call": first, "import": imported, "versions": versions}
        (arguments.out / "dense.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
