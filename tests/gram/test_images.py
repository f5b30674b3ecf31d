"""`ntkit.gram` of images: what the kernel gives directly, down to one pair at a time."""

import re

import numpy as np
import pytest

import ntkit
from ntkit import nn

X = np.random.default_rng(2).standard_normal((4, 4, 4, 2)).astype(np.float32)
KERNEL = ntkit.Both(nn.Sequential(nn.Conv(8, (3, 3), 1.3, 0.1), nn.Relu(), nn.GlobalAvgPool(), nn.Dense(1)))


@pytest.mark.parametrize("args", [(X,), (X[:2], X[2:])], ids=["symmetric", "two inputs"])
def test_tiles_down_to_a_pair_are_the_kernel(args):
    with pytest.raises(ntkit.InputError, match=r"one pair takes .* Pass at least `memory=") as refused:
        ntkit.gram(KERNEL, *args, memory=1)
    least = int(re.search(r"memory=(\d+)", str(refused.value))[1])
    for got in (ntkit.gram(KERNEL, *args), ntkit.gram(KERNEL, *args, memory=least)):
        for g, w in zip(got, KERNEL(*args), strict=True):
            np.testing.assert_allclose(g, w, rtol=2e-6)
