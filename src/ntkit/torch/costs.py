"""What the ways to a parameter's kernel cost, in multiply-adds, and which is the cheapest."""

import dataclasses
from typing import Literal

Method = Literal["rank one", "tokens", "gradients", "lookup", "entries", "sum of uses", "pulled back", "fallback"]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of one dense use and one example: groups, tokens, and the sides k and f of the weight in each group."""

    groups: int
    tokens: int
    k: int
    f: int


def pairs_of(n1: int, n2: int, symmetric: bool) -> int:
    return n1 * (n1 + 1) // 2 if symmetric else n1 * n2


def contraction(pairs: int, o: int, outputs: str, entries: int) -> int:
    """Inner products of gradients of `entries` numbers."""
    return pairs * (o * o if outputs == "full" else o) * entries


def dense(sizes: Sizes, n: int, pairs: int, o: int, outputs: str) -> tuple[Method, int]:
    """The cheapest of the three rules for `n` examples on both sides together and `pairs` pairs of them."""
    g, t, k, f = sizes.groups, sizes.tokens, sizes.k, sizes.f
    both = o * o if outputs == "full" else o
    by_gradients = n * o * g * t * k * f + contraction(pairs, o, outputs, g * k * f)
    if t == 1:
        by_pairs = pairs * g * (k + both * (f + 1))
        return ("rank one", by_pairs) if by_pairs <= by_gradients else ("gradients", by_gradients)
    by_pairs = pairs * g * t * (t * (k + o * f) + both * f)
    return ("tokens", by_pairs) if by_pairs <= by_gradients else ("gradients", by_gradients)
