"""Tiles cover the result, once."""

import itertools

import numpy as np
import pytest

from ntkit.gram.plan import Plan, pairs_within, plan_for, side


@pytest.mark.parametrize("symmetric", [True, False])
def test_every_entry_is_written_exactly_once(symmetric):
    for n, m, height, width in itertools.product(range(1, 9), range(1, 9), range(1, 10), range(1, 10)):
        if symmetric and (n != m or height != width):
            continue
        plan = Plan(n, m, (height, width), symmetric)
        written = np.zeros((n, m), int)
        tiles = plan.tiles()
        for tile in tiles:
            written[tile.rows, tile.columns] += 1
            assert written[tile.rows, tile.columns].shape == tile.shape
            if tile.kind == "mirrored":
                written[tile.columns, tile.rows] += 1
        assert (written == 1).all()
        assert len(tiles) == len(plan) == len({tile.index for tile in tiles})
        assert {tile.kind for tile in tiles} == set(plan.kinds)
        assert all(plan.at(*tile.index) == tile for tile in tiles)


def test_at_most_an_eighth_of_a_side_is_padding():
    for n in range(1, 3000):
        length = side(n, 512)
        pieces = -(-n // length)
        assert length <= 512
        assert pieces == -(-n // 512)  # no more tiles than the limit asks for
        assert length * pieces - n <= pieces * max(1, length / 8)


def test_inputs_of_similar_length_share_programs():
    assert len({side(n, 512) for n in range(1, 100_000)}) < 64


@pytest.mark.parametrize("pairs", [1, 7, 100, 512 * 512])
def test_tiles_hold_no_more_pairs_than_asked(pairs):
    for n, m in itertools.product([1, 3, 100, 5000], repeat=2):
        assert np.prod(plan_for(n, m, False, pairs).tile) <= pairs
    for n in (1, 3, 100, 5000):
        assert np.prod(plan_for(n, n, True, pairs).tile) <= pairs


def test_a_short_axis_gets_long_tiles():
    height, width = plan_for(10, 20_000, False, 512 * 512).tile
    assert height == 10
    assert width > 4096
    assert plan_for(20_000, 10, False, 512 * 512).tile == (width, height)


def test_a_small_budget_makes_small_tiles():
    assert pairs_within(float("inf"), 4 * 784, 4, 512 * 512) == 512 * 512
    edges = [pairs_within(budget, 4 * 784, 4, 512 * 512) ** 0.5 for budget in (1e7, 1e6, 1e5, 1)]
    assert edges == sorted(edges, reverse=True)
    for edge, budget in zip(edges, (1e7, 1e6, 1e5)):
        assert 4 * edge * 4 * 784 + 4 * edge * edge * 4 <= budget
    assert edges[-1] == 1


def test_a_symmetric_plan_is_square():
    with pytest.raises(ValueError, match="square"):
        Plan(3, 4, (2, 2), True)
