"""Peak memory is at most the result plus the budget, and the program's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 1 << 20

# What Python, JAX and the compiler take is taken before: the same programs are compiled, and a small job is run.
MEASURE = """
import sys
import numpy as np
import ntkit
from ntkit import nn
from ntkit.gram import gram, run

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

def clear():
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here

n, d, budget, dtype, out = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5] or None
kernel = ntkit.NTK(nn.mlp(depth=3, width=512, activation=nn.Relu()))
np.lib.format.open_memmap(sys.argv[6], mode="w+", dtype=dtype, shape=(n, d))[:] = (
    np.random.default_rng(0).standard_normal((n, d), dtype=dtype)
)
x = np.load(sys.argv[6])
gram(kernel, x[:100], memory=budget)
job = run._Job(kernel, x, None, np.dtype(dtype), budget, None)
job._compiled(job._program(job._first_plan()))
clear()
before = peak()
gram(kernel, x, memory=budget, out=out)
print(peak() - before)
"""


def added(tmp_path, n, d, budget, dtype="float32", out=""):
    command = [sys.executable, "-c", MEASURE, *map(str, (n, d, budget, dtype, out, tmp_path / "x.npy"))]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)


linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads peak memory from Linux")


@linux
@pytest.mark.parametrize("n, budget, dtype", [(4000, 32 * MIB, "float32"), (3000, 128 * MIB, "float64")])
def test_peak_is_the_result_and_the_budget(tmp_path, n, budget, dtype):
    result = n * n * int(dtype[-2:]) // 8
    took = added(tmp_path, n, 784, budget, dtype)
    print(
        f"n = {n}, {dtype}: {took / MIB:.0f} MiB for a result of {result / MIB:.0f} and a budget of {budget / MIB:.0f}"
    )
    assert took <= result + budget


@linux
def test_peak_of_a_result_on_disk_is_the_budget(tmp_path):
    took = added(tmp_path, 4000, 784, 48 * MIB, out=str(tmp_path / "k.npy"))
    print(f"on disk: {took / MIB:.0f} MiB for a budget of 48 and a result of {4000**2 * 4 / MIB:.0f}")
    assert took <= 48 * MIB


@linux
@pytest.mark.slow
def test_twenty_thousand_images_within_one_gibibyte(tmp_path):
    took = added(tmp_path, 20_000, 784, 1024 * MIB)
    print(f"n = 20000: {took / MIB:.0f} MiB for a result of {20_000**2 * 4 / MIB:.0f} and a budget of 1024")
    assert took <= 20_000**2 * 4 + 1024 * MIB
