"""Packs of a masked language model: inputs of about equal length, in each a token hidden that is to be told. Ints only.

A masked language model gives no likelihood, but the probability of a token from everything around it. The sum of its
logarithm over a continuation's tokens is the pseudo-log-likelihood, PLL (Salazar et al. 2020, "Masked Language Model
Scoring"). Of a word of several tokens it is too high: the first is told from the last. So, unless the plan says
`original`, whenever a token is hidden, those after it in its word are hidden as well (PLL-word-l2r of Kauf & Ivanova
2023, "A Better Way to Do Masked Language Model Scoring").

Each token of a continuation takes a forward pass of its own over the whole text; equal inputs are one. Options of one
token differ only in what is hidden, so all of a question's letters are read from one pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.engine.batches import gather, pad
from bench.engine.pack import Budget, Ints, Plan, TokenRequest, cut_out_middle, index_targets
from bench.engine.tree import Ids


@dataclass(frozen=True, slots=True)
class MaskedInput:
    """A text with a range of tokens hidden.

    Attributes:
        ids: the text's token ids, none of them hidden; shared by all inputs of a request.
        start, stop: the range.
        mask: the token that stands for a hidden one.
    """

    ids: Ids
    start: int
    stop: int
    mask: int

    @property
    def tokens(self) -> Ids:
        """Token ids with the range hidden."""
        tokens = self.ids.copy()
        tokens[self.start : self.stop] = self.mask
        return tokens

    @property
    def key(self) -> bytes:
        """Equal for equal tokens; a hash, since a job has more of these than fit in memory."""
        return hashlib.blake2b(self.tokens.tobytes(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class MaskedRequest(TokenRequest):
    """A request to a masked language model in token ids.

    Attributes:
        inputs: the whole text, special tokens included, nothing hidden, (L,).
        targets: the continuation's tokens.
        first: place of the first of them in `inputs`.
        ends: for each of them, where the range ends that is hidden when it is asked for.
        mask: the token that stands for a hidden one.
    """

    first: int
    ends: tuple[int, ...]
    mask: int

    @property
    def masked(self) -> Iterator[MaskedInput]:
        """The input for each target; the target stood where its range starts."""
        for offset, end in enumerate(self.ends):
            yield MaskedInput(self.inputs, self.first + offset, end, self.mask)

    @property
    def forwarded(self) -> Hashable:
        """All of its inputs."""
        return tuple(one.key for one in self.masked)

    def shortened(self, head: int, tail: int) -> MaskedRequest | None:
        """The request with less of its context; long texts of different lengths keep different lengths."""
        inputs = cut_out_middle(self.inputs, head - len(self.inputs) % 5, tail)
        cut = len(self.inputs) - len(inputs)
        if cut and len(self.inputs) - self.first > tail:
            return None
        return MaskedRequest(inputs, self.targets, self.first - cut, tuple(end - cut for end in self.ends), self.mask)


@dataclass(frozen=True, slots=True)
class MaskedPack:
    """N inputs, padded to the longest of them, L.

    Attributes:
        inputs: the inputs; token ids are made of them when they are needed, for memory's sake.
        rows: flat places in (N, L) whose logits are needed, ascending.
        target_rows, target_tokens, target_requests: as in `Pack`.
    """

    inputs: tuple[MaskedInput, ...]
    rows: Ints
    target_rows: Ints
    target_tokens: Ints
    target_requests: Ints

    @property
    def parent(self) -> int:
        """It hangs from no other pack."""
        return -1

    @property
    def lengths(self) -> Ints:
        """Tokens of each input, (N,)."""
        return np.array([len(one.ids) for one in self.inputs], dtype=np.int64)

    @property
    def tokens(self) -> Ints:
        """Token ids, (N, L)."""
        return pad([one.tokens for one in self.inputs])

    @property
    def num_tokens(self) -> int:
        """Tokens of its inputs, padding not counted."""
        return int(self.lengths.sum())

    @property
    def num_pairs(self) -> int:
        """Query-key pairs attention has to look at."""
        return int((self.lengths**2).sum())


def plan_masked(requests: Sequence[MaskedRequest], budget: Budget) -> Plan[MaskedPack]:
    """Gather what has to be forwarded for `requests` into packs within `budget`."""
    found: dict[bytes, _Asked] = {}
    num_logical = 0
    for index, request in enumerate(requests):
        for one, token in zip(request.masked, request.targets, strict=True):
            num_logical += len(one.ids)
            found.setdefault(one.key, _Asked(one)).targets.append((one.start, token, index))
    asked = list(found.values())
    groups = gather([len(one.input.ids) for one in asked], [one.num_rows for one in asked], budget)
    return Plan(
        packs=tuple(_pack([asked[place] for place in group]) for group in groups),
        num_logical=num_logical,
        num_distinct=sum(len(one.input.ids) for one in asked),
    )


@dataclass(slots=True)
class _Asked:
    """A distinct input, and what is asked of it: (place, token, request)."""

    input: MaskedInput
    targets: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        return len({place for place, _, _ in self.targets})


def _pack(asked: Sequence[_Asked]) -> MaskedPack:
    longest = len(asked[0].input.ids)
    places = [
        (number * longest + place, token, request)
        for number, one in enumerate(asked)
        for place, token, request in one.targets
    ]
    return MaskedPack(tuple(one.input for one in asked), **index_targets(places))
