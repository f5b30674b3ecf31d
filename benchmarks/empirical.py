"""`make bench-empirical`: the empirical NTK of JAX functions against neural-tangents, interleaved in one run.

Writes docs/benchmarks/empirical.md and empirical.json. How a row is measured: see run.py. Torch: empirical_torch.py.
"""

from run import Row, compare

MLP, CNN = "MLP 784-512-512-10, 128 x 128, full outputs", "CNN 3 x conv32 + pooling, 32 images 32 x 32, full outputs"
ROWS = [
    Row(f"{MLP} (peer: structured)", "empirical-mlp", "neural-tangents", "empirical-mlp", 1, rounds=9, memory=0),
    Row(f"{CNN} (peer: structured)", "empirical-cnn", "neural-tangents", "empirical-cnn", 1, rounds=5, memory=0),
    Row(f"{CNN} (peer: Jacobian)", "empirical-cnn", "neural-tangents", "empirical-cnn-jacobian", 1, rounds=5, memory=5),
    Row(f"{CNN} (peer: `jax.jacrev`)", "empirical-cnn", "JAX", "cnn-by-jacobians", 1, rounds=5, memory=5),
]


NOTE = (
    "`first` are the seconds of the first call, compilation included. `error` is the largest deviation from our "
    "float64 by Jacobians, relative to the largest entry. `memory` is what a later call holds at most beside what was "
    "held before it."
)
ABOUT = ("Empirical kernels: speed", "make bench-empirical", "float32, full outputs", NOTE)

if __name__ == "__main__":
    compare("empirical", "ntkit_empirical_worker.py", ROWS, ABOUT)
