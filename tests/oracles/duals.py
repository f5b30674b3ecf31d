"""Writes duals.npz: the expectations behind every closed form, by mpmath quadrature. Run by hand: `python
tests/oracles/duals.py`.

Nothing here knows the formulas of `ntkit.nn.activations`. With u = a z and v = b (rho z + sqrt(1 - rho^2) w),

    E[phi(u) phi(v)] = E_z[phi(a z) M(b rho z, b^2 (1 - rho^2))],    M(m, s^2) = E_w[phi(m + s w)],

where M is a one-dimensional Gaussian integral of the textbook and E_z is done by the trapezoidal rule in log z on
each half
line (analytic in a strip of half-width pi/4 whatever the scales are, kinks at 0 included). Sinusoids, whose values
fall to e^-1000, go through the characteristic function E[cos N(0, t)] = e^(-t/2) instead.
The rule is run on two interleaved grids of step h. Its error falls like exp(-c / h), so if the two differ by e
relative, their
mean, which is the rule of step h / 2, is right to about e^2; the largest e is printed and must stay below 1e-8.
"""

import functools
import itertools
import sys
from multiprocessing import Pool
from pathlib import Path

import mpmath as mp
import numpy as np

VARIANCES = ["1e-3", "1e-2", "0.1", "1", "10", "100", "1000"]
CORRELATIONS = ["-1", "-0.999999", "-0.9", "-0.5", "-1e-3", "0", "1e-3", "0.5", "0.9", "0.999999", "1"]
SLOPE, RATE, WAVE = 0.2, 0.3, (1.3, 0.7, 0.4)
NAMES = (
    "Identity", "Relu", "LeakyRelu", "Abs", "Sign", "Erf", "Gelu", "Gaussian", "GaussianRate", "Sin", "Cos", "SinPhase",
)  # fmt: skip
STEP = mp.mpf(1) / 5
PATH = Path(__file__).with_name("duals.npz")


def density(x):
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def probability(x):
    return mp.erfc(-x / mp.sqrt(2)) / 2


def relu_mean(m, s2):
    s = mp.sqrt(s2)
    return m * probability(m / s) + s * density(m / s) if s2 else max(m, mp.mpf(0))


def step_mean(m, s2):
    return probability(m / mp.sqrt(s2)) if s2 else mp.mpf(m > 0)


def sign_mean(m, s2):
    return mp.erf(m / mp.sqrt(2 * s2)) if s2 else mp.sign(m)


def bell_mean(rate):
    """E exp(-rate v^2) for v ~ N(m, s2)."""
    return lambda m, s2: mp.exp(-rate * m * m / (1 + 2 * rate * s2)) / mp.sqrt(1 + 2 * rate * s2)


def bell_slope(rate):
    return lambda m, s2: -2 * rate * m / (1 + 2 * rate * s2) * bell_mean(rate)(m, s2)


def gelu_mean(m, s2):
    r = mp.sqrt(1 + s2)
    return m * probability(m / r) + s2 / r * density(m / r)


def gelu_slope(m, s2):
    r = mp.sqrt(1 + s2)
    return probability(m / r) + m / r**3 * density(m / r)


def functions(name):
    """E phi(v) and E phi'(v) for v ~ N(m, s2); phi and phi' themselves are the case s2 = 0."""
    slope, rate = mp.mpf(SLOPE), mp.mpf(RATE)
    return {
        "Identity": (lambda m, s2: m, lambda m, s2: mp.mpf(1)),
        "Relu": (relu_mean, step_mean),
        "LeakyRelu": (
            lambda m, s2: slope * m + (1 - slope) * relu_mean(m, s2),
            lambda m, s2: slope + (1 - slope) * step_mean(m, s2),
        ),
        "Abs": (lambda m, s2: relu_mean(m, s2) + relu_mean(-m, s2), sign_mean),
        "Sign": (sign_mean, lambda m, s2: mp.mpf(0)),
        "Erf": (
            lambda m, s2: mp.erf(m / mp.sqrt(1 + 2 * s2)),
            lambda m, s2: 2 / mp.sqrt(mp.pi) * bell_mean(mp.mpf(1))(m, s2),
        ),
        "Gelu": (gelu_mean, gelu_slope),
        "Gaussian": (bell_mean(mp.mpf(1)), bell_slope(mp.mpf(1))),
        "GaussianRate": (bell_mean(rate), bell_slope(rate)),
    }[name]


def nodes(shift):
    """Nodes z > 0 and weights density(z) dz of the trapezoidal rule in log z: every scale from e^-50 on gets its
    nodes."""
    for k in range(int(-50 / STEP), int(mp.mpf("2.6") / STEP)):
        z = mp.exp((k + shift) * STEP)
        yield z, STEP * z * density(z)


@functools.cache
def rules():
    return [list(nodes(shift)) for shift in (mp.mpf(0), mp.mpf(1) / 2)]


@functools.cache
def table(name, order, a):
    """phi (order 0) or phi' (order 1) at a z and -a z, for every node z."""
    f = functions(name)[order]
    return [[(f(a * z, mp.mpf(0)), f(-a * z, mp.mpf(0))) for z, _ in rule] for rule in rules()]


def expectation(name, order, a, m, s2):
    """E_z[f(a z) M(m z, s2)] for f = phi or phi', and the difference of the two rules."""
    f = functions(name)[order]
    sums = [
        mp.fsum(w * (up * f(m * z, s2) + down * f(-m * z, s2)) for (z, w), (up, down) in zip(rule, values, strict=True))
        for rule, values in zip(rules(), table(name, order, a), strict=True)
    ]
    return (sums[0] + sums[1]) / 2, abs(sums[0] - sums[1])


def wave_pair(scale, frequency, phase, q1, c, q2):
    """E[sin sin] and E[sin' sin'] by sin x sin y = (cos(x - y) - cos(x + y)) / 2 and E cos(N(0, t) + p) = e^(-t/2)
    cos p."""
    minus = mp.exp(-(frequency**2) * (q1 + q2 - 2 * c) / 2)
    plus = mp.exp(-(frequency**2) * (q1 + q2 + 2 * c) / 2) * mp.cos(2 * phase)
    return scale**2 * (minus - plus) / 2, (scale * frequency) ** 2 * (minus + plus) / 2


def wave_of(name):
    one = mp.mpf(1)
    return {"Sin": (one, one, 0 * one), "Cos": (one, one, mp.pi / 2), "SinPhase": tuple(map(mp.mpf, WAVE))}[name]


def case(task):
    """(value, derivative, error) of one entry, as floats; the quadrature's error is relative."""
    name, i, j, k = task
    mp.mp.dps = 25
    q1, q2 = (mp.mpf(float(VARIANCES[n])) for n in (i, j))
    rho = mp.mpf(CORRELATIONS[k])
    if name in ("Sin", "Cos", "SinPhase"):
        mp.mp.dps = 60
        scale, frequency, phase = wave_of(name)
        value, slope = wave_pair(scale, frequency, phase, q1, rho * mp.sqrt(q1 * q2), q2)
        return float(value), float(slope), 0.0
    a, b = mp.sqrt(q1), mp.sqrt(q2)
    pairs = [expectation(name, order, a, b * rho, q2 * (1 - rho * rho)) for order in (0, 1)]
    errors = [float(e / abs(v)) if abs(v) > mp.mpf("1e-22") else 0.0 for v, e in pairs]
    return (*(float(v) if abs(v) > mp.mpf("1e-22") else 0.0 for v, _ in pairs), max(errors))


def mean_and_diagonal(task):
    """E phi, E phi^2, E phi'^2 at one variance."""
    name, i = task
    mp.mp.dps = 25 if name not in ("Sin", "Cos", "SinPhase") else 60
    q = mp.mpf(float(VARIANCES[i]))
    if name in ("Sin", "Cos", "SinPhase"):
        scale, frequency, phase = wave_of(name)
        mean = scale * mp.sin(phase) * mp.exp(-frequency * frequency * q / 2) if name != "Sin" else mp.mpf(0)
        return (float(mean), *map(float, wave_pair(scale, frequency, phase, q, q, q)))
    mean = functions(name)[0](mp.mpf(0), q)
    squares = [expectation(name, order, mp.sqrt(q), mp.sqrt(q), mp.mpf(0))[0] for order in (0, 1)]
    return float(mean), float(squares[0]), float(squares[1])


def tasks():
    pairs = [(i, j) for i in range(len(VARIANCES)) for j in range(i, len(VARIANCES))]
    return [(name, i, j, k) for name, (i, j), k in itertools.product(NAMES, pairs, range(len(CORRELATIONS)))]


def laws():
    """xx, xy, yy, gap of the grid, rounded once from their exact values."""
    mp.mp.dps = 40
    grid = np.zeros((4, len(VARIANCES), len(VARIANCES), len(CORRELATIONS)))
    for (i, a), (j, b), (k, r) in itertools.product(*map(enumerate, (VARIANCES, VARIANCES, CORRELATIONS))):
        s = mp.sqrt(mp.mpf(float(a)) * mp.mpf(float(b)))
        grid[:, i, j, k] = float(a), float(mp.mpf(r) * s), float(b), float((1 - abs(mp.mpf(r))) * s)
    return grid


def main():
    everything = tasks()
    with Pool() as pool:
        answers = pool.map(case, everything, chunksize=20)
        single = [(name, i) for name in NAMES for i in range(len(VARIANCES))]
        points = pool.map(mean_and_diagonal, single, chunksize=5)
    n, m = len(VARIANCES), len(CORRELATIONS)
    grid = np.zeros((len(NAMES), 3, n, n, m))
    for (name, i, j, k), answer in zip(everything, answers, strict=True):
        grid[NAMES.index(name), :, i, j, k] = grid[NAMES.index(name), :, j, i, k] = answer
    print(
        "largest relative difference of the two rules:",
        {name: grid[t, 2].max() for t, name in enumerate(NAMES)},
        file=sys.stderr,
    )
    assert grid[:, 2].max() < 1e-8
    np.savez_compressed(
        PATH, names=np.array(NAMES), law=laws(), value=grid[:, 0], derivative=grid[:, 1],
        points=np.array(points).reshape(len(NAMES), n, 3),
    )  # fmt: skip


if __name__ == "__main__":
    main()
