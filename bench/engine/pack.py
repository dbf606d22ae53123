"""Packs: the prefix tree cut into forward passes under a token budget. Ints only; no tensor, no model.

A subtree that fits the budget goes into one pack, together with as many of its siblings as fit. A node whose subtree
does not fit becomes a *trunk*: it gets a pack of its own (or several, if it is longer than the budget) whose keys and
values stay in memory while everything below it is scored. So a pack is a forest that hangs from one point, the end of
the trunk path above it, and every distinct token of the tree is forwarded exactly once, whatever the budget.

The plan depends on the requests and the budget only. A resumed run rebuilds it, skips the packs it has scored and
repeats the same forward passes for the others, so that its numbers are the uninterrupted run's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from bench.engine.tree import Ids, PrefixTree, build_tree

Ints = NDArray[np.int64]

_LONG = 2  # packs of work
_FIRST_TOKENS = 256  # of a long job the first scores are to be seen soon: their pack is a small one


@dataclass(frozen=True, slots=True)
class Budget:
    """What one forward pass may hold: `tokens` forwarded, and `rows` of logits (each as wide as the vocabulary)."""

    tokens: int
    rows: int


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request in token ids.

    Attributes:
        inputs: context plus continuation without its last token, (L,). Kinds of models that read something else say so
            in a class of their own.
        targets: the continuation's tokens; the logits of the last `len(targets)` inputs predict them.
    """

    inputs: Ids
    targets: tuple[int, ...]

    @property
    def forwarded(self) -> Hashable:
        """What has to be forwarded; requests with equal ones differ only in what is read from the logits."""
        return self.inputs.tobytes()

    def shortened(self, head: int, tail: int) -> TokenRequest | None:
        """The request with at most so many tokens of its two ends; its end alone if more of them are scored.

        Other kinds of requests may give None, where what is scored is not among the ends.
        """
        inputs = cut_out_middle(self.inputs, head, tail)
        if len(self.targets) <= len(inputs):
            return TokenRequest(inputs, self.targets)
        return TokenRequest(self.inputs[-(head + tail) :], self.targets[-(head + tail) :])


class AnyPack(Protocol):
    """What is asked of a pack, whatever the kind of model that takes it; the attributes are `Pack`'s."""

    @property
    def parent(self) -> int: ...  # noqa: D102
    @property
    def num_tokens(self) -> int:
        """Distinct tokens that the pack adds; those of all packs are the plan's `num_distinct`."""

    @property
    def rows(self) -> Ints: ...  # noqa: D102
    @property
    def target_rows(self) -> Ints: ...  # noqa: D102
    @property
    def target_tokens(self) -> Ints: ...  # noqa: D102
    @property
    def target_requests(self) -> Ints: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Pack:
    """One forward pass over T tokens in depth-first order.

    Attributes:
        parent: index of the trunk pack this one hangs from, -1 for none.
        prefix_length: tokens of the trunk path above it, all visible to all of its tokens.
        is_trunk: its keys and values are kept for the packs below; it then holds a single chain of tokens.
        tokens: token ids, (T,).
        positions: depth of each token in the tree, (T,).
        subtree_end: for each token, where in the pack the subtree of its node ends, (T,). Token i sees token j
            of the pack if and only if `j <= i < subtree_end[j]`.
        rows: places in the pack whose logits are needed, ascending, (R,).
        target_rows, target_tokens, target_requests: the log-probability asked for is that of token
            `target_tokens[k]` at `rows[target_rows[k]]`; it belongs to request `target_requests[k]`, (K,).
    """

    parent: int
    prefix_length: int
    is_trunk: bool
    tokens: Ints
    positions: Ints
    subtree_end: Ints
    rows: Ints
    target_rows: Ints
    target_tokens: Ints
    target_requests: Ints

    @property
    def num_tokens(self) -> int:
        """Tokens it forwards, all of them distinct."""
        return len(self.tokens)

    @property
    def num_context(self) -> int:
        """Query-key pairs attention has to look at: the work of attention is proportional to it."""
        return int(self.positions.sum()) + len(self.positions)


P = TypeVar("P", bound=AnyPack, default=Pack)


@dataclass(frozen=True, slots=True)
class Plan(Generic[P]):
    """All packs of a job, in an order in which each trunk precedes what hangs from it.

    Attributes:
        packs: depend on the requests and the budget only.
        num_logical: tokens if every request were forwarded by itself.
        num_distinct: tokens that have to be forwarded.
    """

    packs: tuple[P, ...]
    num_logical: int
    num_distinct: int

    def needed_for(self, requests: set[int]) -> list[int]:
        """Return the indices of the packs that scoring `requests` takes, trunks above them included."""
        needed = [not requests.isdisjoint(pack.target_requests.tolist()) for pack in self.packs]
        for index in reversed(range(len(self.packs))):
            if needed[index] and self.packs[index].parent >= 0:
                needed[self.packs[index].parent] = True
        return [index for index, is_needed in enumerate(needed) if is_needed]


Planner = Callable[[Sequence[Any], Budget], Plan[Any]]
"""Turns a kind of model's requests into its packs; `plan_packs` is the causal models'."""


def plan_packs(requests: Sequence[TokenRequest], budget: Budget) -> Plan:
    """Build the prefix tree of `requests` and cut it into packs within `budget`."""
    tree = build_tree([request.inputs for request in requests])
    packs = tuple(_Planner(tree, requests, budget).packs())
    return Plan(
        packs=packs,
        num_logical=sum(len(request.inputs) for request in requests),
        num_distinct=tree.num_tokens,
    )


class _Planner:
    """Walks the tree once, from the root, and emits packs."""

    def __init__(self, tree: PrefixTree, requests: Sequence[TokenRequest], budget: Budget) -> None:
        self.tree = tree
        self.budget = budget
        self.targets = _targets_by_node(tree, requests)
        size = len(tree.end)
        self.stop = list(range(1, size + 1))  # nodes are numbered depth first: a subtree is nodes [node, stop[node])
        self.num_tokens = [tree.end[node] - tree.start(node) for node in range(size)]
        self.num_rows = [len({depth for depth, _, _ in self.targets.get(node, ())}) for node in range(size)]
        for node in range(size - 1, 0, -1):
            parent = tree.parent[node]
            self.stop[parent] = max(self.stop[parent], self.stop[node])
            self.num_tokens[parent] += self.num_tokens[node]
            self.num_rows[parent] += self.num_rows[node]
        self.num_emitted = 0
        is_long = tree.num_tokens > _LONG * budget.tokens
        self.first_tokens = min(_FIRST_TOKENS, budget.tokens) if is_long else budget.tokens
        self.first_path = set(_first_path(tree))

    def packs(self) -> Iterator[Pack]:
        work = [([0], -1, False)]
        while work:
            nodes, parent, is_forest = work.pop()
            if is_forest:
                yield self._forest_pack(nodes, parent)
                self.num_emitted += 1
                continue
            (node,) = nodes
            for start, stop in self._chunks(node):
                yield self._chunk_pack(node, start, stop, parent)
                parent = self.num_emitted
                self.num_emitted += 1
            children = self.tree.children[node]
            below = [([child], parent, False) for child in children if not self._fits(child)]
            below += [
                (group, parent, True) for group in self._groups([child for child in children if self._fits(child)])
            ]
            work.extend(reversed(below))

    def _fits(self, node: int) -> bool:
        tokens = self.first_tokens if node in self.first_path else self.budget.tokens
        return self.num_tokens[node] <= tokens and self.num_rows[node] <= self.budget.rows

    def _chunks(self, node: int) -> Iterator[tuple[int, int]]:
        """Cut a trunk's own tokens into depth ranges that fit the budget."""
        start, end = self.tree.start(node), self.tree.end[node]
        rows = sorted({depth for depth, _, _ in self.targets.get(node, ())})
        while start < end:
            stop = min(end, start + self.budget.tokens)
            inside = [depth for depth in rows if start <= depth < stop]
            if len(inside) > self.budget.rows:
                stop = inside[self.budget.rows]
            yield start, stop
            start = stop

    def _groups(self, units: Sequence[int]) -> Iterator[list[int]]:
        """Gather subtrees into packs of nearly equal size within the budget; a long job's first is a small one."""
        most = self.first_tokens if self.first_path.intersection(units) else self.budget.tokens
        total = sum(self.num_tokens[unit] for unit in units)
        num_packs = -(-total // self.budget.tokens)
        group: list[int] = []
        tokens = rows = 0
        for unit in units:
            is_over = tokens + self.num_tokens[unit] > most
            if group and (is_over or rows + self.num_rows[unit] > self.budget.rows or tokens * num_packs >= total):
                yield group
                group, tokens, rows, most = [], 0, 0, self.budget.tokens
            group.append(unit)
            tokens += self.num_tokens[unit]
            rows += self.num_rows[unit]
        if group:
            yield group

    def _chunk_pack(self, node: int, start: int, stop: int, parent: int) -> Pack:
        length = stop - start
        offset = start - self.tree.start(node)
        places = [
            (depth - start, token, req) for depth, token, req in self.targets.get(node, ()) if start <= depth < stop
        ]
        return _pack(
            parent=parent,
            prefix_length=start,
            is_trunk=stop < self.tree.end[node] or bool(self.tree.children[node]),
            tokens=self.tree.tokens(node)[offset : offset + length].astype(np.int64),
            positions=np.arange(start, stop, dtype=np.int64),
            subtree_end=np.full(length, length, dtype=np.int64),
            places=places,
        )

    def _forest_pack(self, units: Sequence[int], parent: int) -> Pack:
        tree = self.tree
        nodes = [node for unit in units for node in range(unit, self.stop[unit])]
        starts = np.array([tree.start(node) for node in nodes], dtype=np.int64)
        lengths = np.array([tree.end[node] for node in nodes], dtype=np.int64) - starts
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        ends = offsets[[index + self.stop[node] - node for index, node in enumerate(nodes)]]
        places = [
            (int(offsets[index]) + depth - int(starts[index]), token, request)
            for index, node in enumerate(nodes)
            for depth, token, request in self.targets.get(node, ())
        ]
        return _pack(
            parent=parent,
            prefix_length=int(starts[0]),
            is_trunk=False,
            tokens=np.concatenate([tree.tokens(node) for node in nodes]).astype(np.int64),
            positions=np.arange(offsets[-1], dtype=np.int64) + np.repeat(starts - offsets[:-1], lengths),
            subtree_end=np.repeat(ends, lengths),
            places=places,
        )


def _first_path(tree: PrefixTree) -> Iterator[int]:
    """Yield the nodes from the root down to the first leaf."""
    children = [0]
    while children:
        yield children[0]
        children = tree.children[children[0]]


def _targets_by_node(tree: PrefixTree, requests: Sequence[TokenRequest]) -> dict[int, list[tuple[int, int, int]]]:
    """For each node, the (depth, target token, request) triples whose logits lie on it."""
    targets: dict[int, list[tuple[int, int, int]]] = {}
    for index, request in enumerate(requests):
        node = tree.terminal[index]
        depth = len(request.inputs)
        for token in reversed(request.targets):
            depth -= 1
            while depth < tree.start(node):
                node = tree.parent[node]
            targets.setdefault(node, []).append((depth, token, index))
    return targets


def _pack(*, places: Sequence[tuple[int, int, int]], **arrays: object) -> Pack:
    return Pack(**arrays, **index_targets(places))  # type: ignore[arg-type]


def index_targets(places: Sequence[tuple[int, int, int]]) -> dict[str, Ints]:
    """A pack's rows and targets from (place in the pack, target token, request) triples."""
    table = np.array(places, dtype=np.int64).reshape(-1, 3)
    rows, target_rows = np.unique(table[:, 0], return_inverse=True)
    return {
        "rows": rows,
        "target_rows": target_rows.reshape(-1),
        "target_tokens": table[:, 1],
        "target_requests": table[:, 2],
    }


def cut_out_middle(ids: Ids, head: int, tail: int) -> Ids:
    """The first `head` and the last `tail` tokens, or all if there are no more."""
    return ids if len(ids) <= head + tail else np.concatenate((ids[:head], ids[-tail:]))
