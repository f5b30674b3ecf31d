"""Where a network narrows to one tensor: all ways from the outputs to what lies before lead through it.

There the backward pass can be cut: of the examples at all uses above, gradients are contracted and let go before those
below are made, from the one tensor's cotangents and a forward pass that stops there.
"""

import dataclasses
from typing import Any

from ntkit.torch.side import Recording
from ntkit.torch.uses import Site


@dataclasses.dataclass(frozen=True)
class Cut:
    """The tensor that call number `call` of a forward pass makes, whose calls until there have the `sign`; `below`: the
    uses that reach the outputs through it alone."""

    call: int
    sign: int
    below: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Segment:
    """The part of a network between two cuts: None stands for its outputs, and for no cut before its inputs."""

    above: Cut | None
    below: Cut | None
    uses: frozenset[int]


def cuts_of(recording: Recording) -> list[Cut]:
    """All cuts, those next to the outputs first. The trail of the recording must have kept what was `made`."""
    made = recording.trail.made
    assert made is not None
    calls = {node: number for number, (node, _) in enumerate(made, 1) if node is not None}
    dominator = _dominators(recording)
    numbered, u = [], 0
    for site in recording.sites:
        numbered.append((site, range(u, u + len(site.uses))))
        u += len(site.uses)
    reached = [(site, us) for site, us in numbered if site.edge.node in dominator]
    if not reached:
        return []
    chain = _chain(reached[0][0].edge.node, dominator)
    place = {node: i for i, node in enumerate(chain)}
    found: list[Cut] = []
    for i, node in reversed(list(enumerate(chain[:-1]))):
        below = [us for site, us in reached if _lowest_in(place, site, dominator) <= i]
        cut = frozenset(u for us in below for u in us)
        if node in calls and calls[node] < len(made):
            found.append(Cut(calls[node], made[calls[node] - 1][1], cut))
    # Of cuts above the same uses the one that the forward pass comes to first.
    return list({cut.below: cut for cut in found}.values())


def _lowest_in(place: dict[Any, int], site: Site, dominator: dict[Any, Any]) -> int:
    return next(place[node] for node in _chain(site.edge.node, dominator) if node in place)


def _chain(node: Any, dominator: dict[Any, Any]) -> list[Any]:
    """The node, what dominates it, and so on up to the outputs."""
    chain = [node]
    while dominator[chain[-1]] is not None:
        chain.append(dominator[chain[-1]])
    return chain


def _dominators(recording: Recording) -> dict[Any, Any]:
    """Of each node of the graph between the outputs and the sites the nearest other that all ways lead through."""
    nodes = _from_the_outputs(recording.y.grad_fn, {site.edge.node for site in recording.sites})
    before: dict[Any, list[Any]] = {node: [] for node in nodes}
    for node in nodes:
        for after, _ in node.next_functions:
            if after in before:
                before[after].append(node)
    dominator: dict[Any, Any] = {}
    depth: dict[Any, int] = {}
    for node in nodes:
        nearest = None
        for i, other in enumerate(before[node]):
            nearest = other if i == 0 else _common(nearest, other, dominator, depth)
        dominator[node] = nearest
        depth[node] = 0 if nearest is None else depth[nearest] + 1
    return dominator


def _common(a: Any, b: Any, dominator: dict[Any, Any], depth: dict[Any, int]) -> Any:
    while a is not b:
        if depth[a] < depth[b]:
            b = dominator[b]
        else:
            a = dominator[a]
    return a


def _from_the_outputs(top: Any, wanted: set[Any]) -> list[Any]:
    """The nodes that lead to wanted ones, each behind all that lead to it."""
    if top is None:
        return []
    order: list[Any] = []
    leads: dict[Any, bool] = {}
    stack = [(top, False)]
    while stack:
        node, done = stack.pop()
        if done:
            leads[node] = node in wanted or any(leads.get(after, False) for after, _ in node.next_functions)
            order.append(node)
        elif node not in leads:
            leads[node] = False
            stack.append((node, True))
            stack.extend((after, False) for after, _ in node.next_functions if after is not None and after not in leads)
    return [node for node in reversed(order) if leads[node]]


def segments_within(cuts: list[Cut], uses: dict[str, list[int]], held: list[int], limit: float) -> list[Segment] | None:
    """The fewest segments that hold at most `limit` each (`held`, by number of the use); None if there are none.

    The upper ones are as large as that allows: each lower one costs a forward pass up to its upper end. A parameter
    with uses in several (`uses`, by its name) holds the upper ones until the lowest is passed.
    """
    left = frozenset(u for us in uses.values() for u in us)
    above: Cut | None = None
    waiting: frozenset[int] = frozenset()
    found: list[Segment] = []
    while sum(held[u] for u in left | waiting) > limit:
        ways = [(cut, left - cut.below) for cut in cuts if left - cut.below and left & cut.below]
        fitting = [(cut, taken) for cut, taken in ways if sum(held[u] for u in taken | waiting) <= limit]
        if not fitting:
            return None
        cut, taken = fitting[-1]
        found.append(Segment(above, cut, taken))
        waits = [set(us) & (taken | waiting) for us in uses.values() if cut.below.intersection(us)]
        above, left, waiting = cut, left & cut.below, frozenset().union(*waits)
    return [*found, Segment(above, None, left)]


def turns_of(segments: list[Segment], uses: dict[str, list[int]], names: list[str]) -> list[list[str]]:
    """The parameters whose turn comes behind each segment: behind that of the lowest of their uses, or, with no uses,
    behind the last."""
    turns: list[list[str]] = [[] for _ in segments]
    for name in names:
        among = [k for k, segment in enumerate(segments) if segment.uses.intersection(uses.get(name, ()))]
        turns[among[-1] if among else -1].append(name)
    return turns
