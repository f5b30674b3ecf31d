"""Empirical NTK of torch modules: the tutorial of torch.func against `ntkit.torch`, speed and peak memory.

    python benchmarks/empirical_torch.py [--only NAME ...] [--rounds 3] [--device cpu] [--out docs/benchmarks]
    python benchmarks/empirical_torch.py --only spectrum     # minutes: eigenpairs of ResNet-18 without its kernel

float32, 2 threads, interleaved in one process, medians. Peak memory (beside what is resident before the call) in a
process of its own for each method. The tutorial contracts `vmap(jacrev)` parameter by parameter, on the full batch, as
it stands in torch's documentation. Rows of an earlier run are kept where this one does not measure them anew.
"""

import argparse
import datetime
import importlib.metadata
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "torch"), str(ROOT / "benchmarks")]

from run import cpu_name  # noqa: E402
from torch_modules import GPT, resnet18  # noqa: E402

import ntkit  # noqa: E402
from ntkit.torch import EmpiricalNTK  # noqa: E402


def mlp():
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def cnn():
    layers = [layer for c in (3, 32, 32) for layer in (nn.Conv2d(c, 32, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class Work(NamedTuple):
    """A module, its two batches, and how many times the tutorial's speed and what part of its memory is asked for."""

    title: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[torch.Tensor, torch.Tensor | None]]
    speed: float
    memory: float | None


WORK = {
    "mlp": Work(
        "MLP 784-512-512-10, 128 x 128, full outputs",
        mlp,
        lambda: (torch.randn(128, 784), torch.randn(128, 784)),
        200,
        None,
    ),
    "cnn": Work(
        "CNN 3 x conv32 + pooling, 32 images 32 x 32, full outputs",
        cnn,
        lambda: (torch.randn(32, 3, 32, 32), None),
        1,
        5,
    ),
    "resnet18": Work(
        "ResNet-18 shape, 16 images 32 x 32, 10 outputs",
        lambda: resnet18(64, 10),
        lambda: (torch.randn(16, 3, 32, 32), None),
        3,
        5,
    ),
    "gpt": Work(
        "GPT-2 shape, 12 layers x 256, 32 sequences of 64 tokens, one logit",
        lambda: GPT(words=1000, width=256, layers=12, heads=4, length=64, logits=1),
        lambda: (torch.randint(1000, (32, 64)), None),
        1,
        5,
    ),
}


def tutorial(module, x1, x2):
    """https://docs.pytorch.org/tutorials/intermediate/neural_tangent_kernels.html, method 1, all outputs."""
    params = {name: p.detach() for name, p in module.named_parameters()}

    def output(values, example):
        return torch.func.functional_call(module, values, (example[None],)).squeeze(0)

    def rows(x):
        jacobian = torch.func.vmap(torch.func.jacrev(output), (None, 0))(params, x)
        return [j.flatten(2) for j in jacobian.values()]

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        one = rows(x1)
        other = one if x2 is None else rows(x2)
        return sum(torch.einsum("Naf,Mbf->NMab", a, b) for a, b in zip(one, other))


def methods(module):
    kernel = EmpiricalNTK(module, outputs="full")
    return {"tutorial": lambda x1, x2: tutorial(module, x1, x2), "ntkit": lambda x1, x2: kernel(x1, x2)}


def case(name: str, device: str):
    torch.manual_seed(0)
    module = WORK[name].make().eval().to(device)
    x1, x2 = WORK[name].inputs()
    return module, x1.to(device), None if x2 is None else x2.to(device)


def timed(call, x1, x2, device: str):
    start = time.perf_counter()
    result = call(x1, x2)
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def resident(field: str) -> int:
    """Bytes: VmRSS now, VmHWM at most so far. `getrusage` would hand on what the parent process held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak(name: str, method: str, device: str) -> None:
    """Prints what one call holds at most beside what was there: run in a process of its own."""
    module, x1, x2 = case(name, device)
    call = methods(module)[method]
    with torch.no_grad():
        module(x1[:1])  # libraries are loaded
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    before = resident("VmRSS") if device == "cpu" else torch.cuda.memory_allocated()
    call(x1, x2)
    print((resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()) - before)


def measured_peak(name: str, method: str, device: str) -> float:
    command = [sys.executable, __file__, "--only", name, "--peak", method, "--device", device]
    done = subprocess.run(command, capture_output=True, text=True)
    return int(done.stdout) / 2**20 if done.returncode == 0 else float("nan")


def spectrum(device: str) -> dict[str, Any]:
    """Top 20 eigenpairs of ResNet-18 on 64 images, 10 outputs, by products. Alone in its process for the peak."""
    torch.manual_seed(0)
    module, x = resnet18(64, 10).eval().to(device), torch.randn(64, 3, 32, 32, device=device)
    with torch.no_grad():
        module(x[:1])
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    start, cpu = time.perf_counter(), time.process_time()
    found = ntkit.top_eigenpairs(EmpiricalNTK(module).to_scipy(x), 20, tol=1e-4)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    most = (resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()) / 2**30
    residual = float(max(found.residuals))
    print(f"spectrum  {found}\n          {seconds:.0f} s ({cpu:.0f} s of processor time), {most:.2f} GiB at most")
    return {"seconds": seconds, "products": found.products, "peak_gib": most, "residual": residual}


def compare(name: str, rounds: int, device: str) -> dict[str, Any]:
    module, x1, x2 = case(name, device)
    calls = methods(module)
    first, ours = timed(calls["ntkit"], x1, x2, device)
    times: dict[str, list[float]] = {method: [] for method in calls}
    apart = float("nan")
    try:
        for _ in range(rounds):
            for method, call in calls.items():
                seconds, result = timed(call, x1, x2, device)
                times[method].append(seconds)
                if method == "tutorial":
                    apart = float((result - ours).abs().max() / ours.abs().max())
                del result
    except (RuntimeError, MemoryError) as error:
        print(f"  the tutorial failed: {str(error).splitlines()[0]}")
    median = {method: statistics.median(t) * 1e3 if t else float("nan") for method, t in times.items()}
    memory = {method: measured_peak(name, method, device) for method in calls}
    row = {
        "tutorial_ms": median["tutorial"], "ms": median["ntkit"], "first_ms": first * 1e3,
        "tutorial_mib": memory["tutorial"], "mib": memory["ntkit"], "apart": apart,
    }  # fmt: skip
    print(name, row, flush=True)
    return row


def line(work: Work, row: dict[str, Any]) -> str:
    """Of the table; a target is judged from the figures."""
    speed, memory = row["tutorial_ms"] / row["ms"], row["tutorial_mib"] / row["mib"]
    asked = [(f"{work.speed:g} x the speed", speed >= work.speed)]
    asked += [] if work.memory is None else [(f"1/{work.memory:g} of the memory", memory >= work.memory)]
    verdicts = ", ".join(what + (" (met)" if met else " (missed)") for what, met in asked)
    return (
        f"| {work.title} | {row['ms']:.0f} ms, {row['mib']:.0f} MiB | {row['tutorial_ms']:.0f} ms, "
        f"{row['tutorial_mib']:.0f} MiB | {speed:.1f} | 1/{memory:.1f} | {verdicts} | {row['first_ms']:.0f} ms "
        f"| {row['apart']:.0e} | {row['date']} |"
    )


def page(found: dict[str, Any], device: str) -> str:
    lines = [
        "# Empirical kernels of torch modules: speed and memory",
        "",
        f"Measured by `make bench-torch`: {device}, torch {found['torch']}, float32. The "
        "peer is the tutorial of torch.func, Jacobian contraction over the whole batch; both take turns in one run; "
        "medians. Memory: the peak beside what was there before the call, in a process of its own.",
        "",
        "| work | ntkit | tutorial | speed | memory | target | first call | apart | measured |",
        "|---|---|---|---|---|---|---|---|---|",
        *(line(work, found[name]) for name, work in WORK.items() if name in found),
        "",
    ]
    if row := found.get("spectrum"):
        met = row["peak_gib"] <= 4 and row["residual"] <= 1e-4
        lines += [
            "Top 20 eigenpairs of ResNet-18's kernel on 64 images x 10 outputs, by products alone: "
            f"{row['seconds']:.0f} s, {row['products']} products, {row['peak_gib']:.2f} GiB for the whole process, "
            f"largest residual {row['residual']:.0e} of the largest eigenvalue, measured on {row['date']}. "
            f"Asked: 4 GiB and 1e-4 ({'met' if met else 'missed'}).",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[*WORK, "spectrum"], nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--peak", choices=["tutorial", "ntkit"])
    args = parser.parse_args()
    torch.set_num_threads(2)
    names = args.only or list(WORK)
    if args.peak:
        peak(names[0], args.peak, args.device)
        return
    print(f"torch {importlib.metadata.version('torch')}, {args.device}, float32, {torch.get_num_threads()} threads")
    file = args.out / "empirical_torch.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    found["torch"] = importlib.metadata.version("torch")
    for name in names:
        found[name] = spectrum(args.device) if name == "spectrum" else compare(name, args.rounds, args.device)
        found[name]["date"] = str(datetime.date.today())
        file.write_text(json.dumps(found, indent=1) + "\n")
    device = f"2 CPU cores ({cpu_name()})" if args.device == "cpu" else torch.cuda.get_device_name()
    (args.out / "empirical_torch.md").write_text(page(found, device))


if __name__ == "__main__":
    main()
