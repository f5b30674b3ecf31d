"""From a memory budget to tiles. A tile is an independent task with a stable identity: any scheduler may run it."""

import dataclasses
import math
from typing import Literal

Kind = Literal["plain", "diagonal", "mirrored"]

# Pairs in a tile when memory does not bind. Measured with the dense ReLU kernel, float32, 784 features, on 2 cores with
# 1 MiB of L2 each: sides of 512 and 1024 take 0.7 of the time of one side-4096 tile, 256 loses in the matrix product,
# 2048 in the cache and in the half of the diagonal tiles that is computed for nothing.
PAIRS = 512 * 512
# Pairs of pixels: so many times as many pass through a tile's loops, which keep to the cache by themselves.
MORE = 256
# An accelerator wants larger pieces; not measured.
PAIRS_ON_ACCELERATOR = 4096 * 4096
# Tiles across a symmetric result: a tile on the diagonal is computed in full, half of it for nothing, so that one tile
# costs twice the triangle, four times four 1.25 times it. Below SMALLEST rows a tile costs more to start than to run.
ACROSS = 4
SMALLEST = 128
# Rows of a tile that has few columns, and the reverse.
LONGEST = 8192


@dataclasses.dataclass(frozen=True)
class Tile:
    """One block of the result: rows `rows`, columns `columns`.

    `kind` says how it is computed and where it goes: `"diagonal"` is `kernel(x_i)`, `"mirrored"` is `kernel(x_i, x_j)`,
    which is also written, transposed, to (j, i); `"plain"` is `kernel(x1_i, x2_j)`. `index` (i, j) is its name.
    """

    index: tuple[int, int]
    rows: slice
    columns: slice
    kind: Kind

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns inside the result; the last tile of an axis may be cut short."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


@dataclasses.dataclass(frozen=True)
class Plan:
    """An (n, m) result cut into tiles of one shape; `symmetric`: only the upper triangle is computed."""

    n: int
    m: int
    tile: tuple[int, int]
    symmetric: bool

    def __post_init__(self):
        if self.symmetric and (self.n != self.m or self.tile[0] != self.tile[1]):
            raise ValueError(f"A symmetric plan is square, and so are its tiles: {self}")

    @property
    def grid(self) -> tuple[int, int]:
        """Number of tiles along each axis."""
        return -(-self.n // self.tile[0]), -(-self.m // self.tile[1])

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of tile that occur: one compilation each."""
        if not self.symmetric:
            return ("plain",)
        return ("diagonal",) if self.grid == (1, 1) else ("diagonal", "mirrored")

    def __len__(self) -> int:
        rows, columns = self.grid
        return rows * (rows + 1) // 2 if self.symmetric else rows * columns

    def tiles(self) -> list[Tile]:
        """All tiles, row by row."""
        rows, columns = self.grid
        return [self.at(i, j) for i in range(rows) for j in range(i if self.symmetric else 0, columns)]

    def at(self, i: int, j: int) -> Tile:
        kind: Kind = "plain" if not self.symmetric else "diagonal" if i == j else "mirrored"
        height, width = self.tile
        rows = slice(i * height, min(self.n, (i + 1) * height))
        return Tile((i, j), rows, slice(j * width, min(self.m, (j + 1) * width)), kind)


def side(n: int, limit: int) -> int:
    """Length of the pieces, at most about `limit`, into which n rows are cut so that the last is nearly full.

    Rounded up to a multiple of a power of two, at most an eighth of it: inputs of similar length then share one
    compiled program, and at most an eighth of a side is padding. Never above `limit`.
    """
    even = math.ceil(n / math.ceil(n / limit))
    grain = 1 << max(0, (even // 8).bit_length() - 1)
    return min(limit, -(-even // grain) * grain)


def plan_for(n: int, m: int, symmetric: bool, pairs: int) -> Plan:
    """The plan with tiles of about `pairs` pairs: square, or longer where the other axis is short."""
    edge = max(1, math.isqrt(pairs))
    if symmetric:
        length = side(n, max(1, min(edge, max(n // ACROSS, SMALLEST))))
        return Plan(n, n, (length, length), True)
    # Rather tall than wide: of images a column's is laid out for all displacements.
    height = side(n, pairs // edge if m >= edge else min(LONGEST, max(1, pairs // m)))
    return Plan(n, m, (height, side(m, min(max(edge, LONGEST), max(1, pairs // height)))), False)


def pairs_within(budget: float, features_bytes: int, pair_bytes: int, most: int) -> int:
    """A first guess, before anything is compiled, of how many pairs fit: a side s needs 4 s features + 4 s^2 values.

    The factors 4: both inputs on the host and on the device; tile, transposed tile, and two temporaries.
    """
    whole = edge = math.isqrt(most)
    while edge > 1 and 4 * edge * features_bytes + 4 * edge * edge * pair_bytes > budget:
        edge = edge * 3 // 4 if edge > 3 else edge - 1
    return most if edge == whole else edge * edge
