"""Tiles on several devices: the CPU plays two."""

import os
import subprocess
import sys

SCRIPT = """
import jax, numpy as np, ntkit
from ntkit import nn
from ntkit.gram import program
used = set()
run = program.Program.__call__
program.Program.__call__ = lambda self, kind, x1, x2: used.add((self.device, *x1.devices())) or run(self, kind, x1, x2)
x = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)
theta = ntkit.NTK(nn.mlp(2, 64, nn.Relu()))
matrix = ntkit.gram(theta, x, tile=8, progress=False)
print(len(jax.devices()), sorted(d.id for pair in used for d in set(pair)), all(a == b for a, b in used))
used.clear()
alone = ntkit.gram(theta, jax.device_put(x, jax.devices()[1]), tile=8, progress=False)
print({d.id for pair in used for d in pair}, np.array_equal(matrix, alone))
"""


def test_each_device_takes_its_tiles():
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Both devices work, each on its own copy of the rows; an array on a device is left to that device.
    assert done.stdout.splitlines() == ["2 [0, 1] True", "{1} True"]
