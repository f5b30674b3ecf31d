"""`make bench-flows`: training in function space against LAPACK and neural-tangents, interleaved in one run.

Writes docs/benchmarks/flows.md and flows.json. How a row is measured: see run.py.
"""

from run import Row, compare

FLOW = "Gradient flow on the squared loss: 10 outputs, 50 times, 1000 test points"
ROWS = [
    Row(f"{FLOW}, n = 4096", "flow-4096", "scipy.linalg.eigh", "eigh-4096", 1.2, at_most=True, rounds=3),
    Row(f"{FLOW}, n = 2048", "flow-2048", "neural-tangents", "flow-2048", 1, rounds=3),
    Row("Ensemble: mean and covariance, 5 times, n = 1024, 256 test points", "ensemble", "neural-tangents", "ensemble",
        1, rounds=5),
    Row("Gradient flow on cross-entropy: 10 classes, to t = 100, n = 512", "cross-entropy", "neural-tangents",
        "cross-entropy", 1, rounds=5),
    Row("Posterior mean and covariance, n = 2048, 512 test points", "posterior", "neural-tangents", "posterior", 1,
        rounds=5),
]  # fmt: skip


NOTE = (
    "float64 on both sides; the network has three hidden layers of ReLU. Each run starts from the training "
    "kernel's matrix (the ensemble of neural-tangents: from the examples) and ends with predictions: kernels of test "
    "points, factorisation or integration, and all times. `first`: the first call, compilation included. "
    "`error`: the largest deviation from a dense solution in NumPy, relative to the largest entry."
)
ABOUT = ("Training in function space: speed", "make bench-flows", "float64", NOTE)

if __name__ == "__main__":
    compare("flows", "ntkit_flows_worker.py", ROWS, ABOUT)
