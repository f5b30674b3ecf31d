"""Empirical NTK of torch modules: the tutorial of torch.func against `ntkit.torch`, speed and peak memory.

    python benchmarks/empirical_torch.py [--only NAME] [--rounds 3] [--device cpu]
    python benchmarks/empirical_torch.py --only spectrum     # minutes: eigenpairs of ResNet-18 without its kernel

float32, 2 threads, interleaved in one process, medians. Peak memory (beside what is resident before the call) in a
process of its
own for each method. The tutorial contracts `vmap(jacrev)` parameter by parameter, on the full batch, as it stands in
torch's
documentation.
"""

import argparse
import importlib.metadata
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "torch"))
from torch_modules import GPT, resnet18

import ntkit
from ntkit.torch import EmpiricalNTK


def mlp():
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def cnn():
    layers = [layer for c in (3, 32, 32) for layer in (nn.Conv2d(c, 32, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


# The module, the first and the second batch, and what is asked of them in the issue: speed, and a part of the memory.
WORK = {
    "mlp": (mlp, lambda: (torch.randn(128, 784), torch.randn(128, 784)), "200 times the tutorial's speed"),
    "cnn": (cnn, lambda: (torch.randn(32, 3, 32, 32), None), "the best peer's speed, 1/5 of the Jacobian's memory"),
    "resnet18": (
        lambda: resnet18(64, 10),
        lambda: (torch.randn(16, 3, 32, 32), None),
        "3 times the speed, 1/5 of the peak memory",
    ),
    "gpt": (
        lambda: GPT(words=1000, width=256, layers=12, heads=4, length=64, logits=1),
        lambda: (torch.randint(1000, (32, 64)), None),
        "the tutorial's speed, 1/5 of the peak memory",
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
    make, inputs, _ = WORK[name]
    module = make().eval().to(device)
    x1, x2 = inputs()
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


def spectrum(device: str) -> None:
    """Top 20 eigenpairs of ResNet-18 on 64 images, 10 outputs, by products. Alone in its process for the peak."""
    torch.manual_seed(0)
    module, x = resnet18(64, 10).eval().to(device), torch.randn(64, 3, 32, 32, device=device)
    with torch.no_grad():
        module(x[:1])
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    start, cpu = time.perf_counter(), time.process_time()
    found = ntkit.top_eigenpairs(EmpiricalNTK(module).to_scipy(x), 20)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    most = (resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()) / 2**30
    print(
        f"spectrum  {found}\n          {seconds:.0f} s ({cpu:.0f} s of processor time), whole process at most "
        f"{most:.2f} GiB | asked: fits in 4 GiB, residuals below 1e-4"
    )


def compare(name: str, rounds: int, device: str) -> None:
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
    print(
        f"{name:9} tutorial {median['tutorial']:9.1f} ms {memory['tutorial']:7.0f} MiB | "
        f"ntkit {median['ntkit']:8.1f} ms (first {first * 1e3:.0f}) {memory['ntkit']:6.0f} MiB | "
        f"speed x{median['tutorial'] / median['ntkit']:.1f}, memory 1/{memory['tutorial'] / memory['ntkit']:.1f}, "
        f"apart {apart:.0e} | asked: {WORK[name][2]}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[*WORK, "spectrum"], nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", choices=["tutorial", "ntkit"])
    args = parser.parse_args()
    torch.set_num_threads(2)
    names = args.only or list(WORK)
    if args.peak:
        peak(names[0], args.peak, args.device)
        return
    print(f"torch {importlib.metadata.version('torch')}, {args.device}, float32, {torch.get_num_threads()} threads")
    for name in names:
        if name == "spectrum":
            spectrum(args.device)
            continue
        compare(name, args.rounds, args.device)


if __name__ == "__main__":
    main()
