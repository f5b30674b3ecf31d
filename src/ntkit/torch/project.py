"""Count sketches of each example's gradients, parameter by parameter; bucket and sign follow from the entry's index."""

import numpy as np
import torch

from ntkit._progress import Meter
from ntkit.torch.blocks import Block, gradients_by
from ntkit.torch.contract import Outputs
from ntkit.torch.descent import side_of
from ntkit.torch.structure import Structure
from ntkit.torch.target import Target

Tensor = torch.Tensor


def projected(
    target: Target,
    s: Structure,
    x: Tensor,
    blocks: list[Block],
    dimension: int,
    key: int,
    kind: Outputs,
    meter: Meter,
) -> Tensor:
    """(n, dimension) for "mean", else (n, o, dimension)."""
    shape = (len(x), dimension) if kind == "mean" else (len(x), s.outputs, dimension)
    features = torch.zeros(shape, dtype=target.like.dtype, device=target.like.device)
    for done, b in enumerate(blocks):
        meter(done)
        side = side_of(target, x[b.rows], s, b.outs, None)
        for number, (name, p) in enumerate(target.parameters.items()):
            if not s.uses.get(name) and name not in side.rows:
                continue  # it does not reach the outputs
            with torch.no_grad():
                rows = gradients_by(target, s, side, name, 1 << 62).reshape(side.n, side.o, p.numel())
                _add(features, rows, b, (key, number), kind)
    meter(len(blocks))
    return features / s.outputs**0.5 if kind == "mean" else features


def _add(features: Tensor, rows: Tensor, b: Block, key: tuple[int, int], kind: Outputs) -> None:
    """For "mean" each output has a sketch of its own, for else products of two outputs would count."""
    dimension = features.shape[-1]
    if kind == "mean":
        for a in range(rows.shape[1]):
            buckets, signs = _hashed((*key, b.outs.start + a), dimension, rows)
            features[b.rows].index_add_(1, buckets, rows[:, a] * signs)
    else:
        buckets, signs = _hashed(key, dimension, rows)
        features[b.rows, b.outs].index_add_(2, buckets, rows * signs)


def _hashed(key: tuple[int, ...], dimension: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of each entry: where it goes, and with what sign."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    generator = torch.Generator().manual_seed(seed)  # on the processor: all devices alike
    drawn = torch.randint(2 * dimension, (rows.shape[2],), generator=generator).to(rows.device)
    return drawn >> 1, 1 - 2 * (drawn & 1).to(rows.dtype)
