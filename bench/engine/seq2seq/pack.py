"""Packs of an encoder-decoder: contexts of about equal length, each with all that is asked of it. Ints only.

The encoder looks both ways, so contexts share nothing until they are equal; equal ones are one. The decoder of every
option starts from the same token over the same context, and that place alone predicts an option of one token. So a
pack is three kinds of forward passes:

1. the encoder over its contexts, padded to the longest;
2. the decoder over one token a context: the start;
3. the decoder over what follows in options of several tokens, in small batches. The keys and values that the decoder
   makes of a context in step 2, a sixth of the encoder's own work, are kept and shared by all options of that context.
   An option whose tokens another one starts with is read from that one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from bench.engine.batches import gather, pad
from bench.engine.pack import Budget, Ints, Plan, TokenRequest, cut_out_middle, index_targets
from bench.engine.tree import Ids

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Seq2SeqRequest(TokenRequest):
    """A request to an encoder-decoder in token ids.

    Attributes:
        inputs: the context, which the encoder reads, (L,).
        targets: the continuation's tokens; the decoder reads `start` and all of them but the last.
        start: the token the decoder begins with.
    """

    start: int

    @property
    def forwarded(self) -> Hashable:
        """Context and decoder's input."""
        return self.inputs.tobytes(), self.start, self.targets[:-1]

    def shortened(self, head: int, tail: int) -> Seq2SeqRequest:
        """The request with less of its context; long contexts of different lengths keep different lengths."""
        return Seq2SeqRequest(cut_out_middle(self.inputs, head - len(self.inputs) % 5, tail), self.targets, self.start)


@dataclass(frozen=True, slots=True)
class DecoderBatch:
    """Options' tokens between the start and the last one, padded: a forward pass of the decoder.

    Attributes:
        contexts: for each row its context's place in the pack, (B,).
        tokens: token ids, (B, T).
    """

    contexts: Ints
    tokens: Ints


@dataclass(frozen=True, slots=True)
class Seq2SeqPack:
    """C contexts and what is asked of them.

    The places of its logits are numbered through: C for the starts, then B × T for each of `batches`.

    Attributes:
        tokens: the contexts' token ids, padded, (C, L).
        lengths: tokens of each context, (C,).
        starts: the token each context's decoder begins with, (C,).
        batches: the rest of the decoder's work.
        num_decoder_tokens: distinct tokens of the decoder, the starts among them.
        num_pairs: query-key pairs that attention has to look at: in the encoder, and in the decoder's two attentions.
        rows, target_rows, target_tokens, target_requests: as in `Pack`.
    """

    tokens: Ints
    lengths: Ints
    starts: Ints
    batches: tuple[DecoderBatch, ...]
    num_decoder_tokens: int
    num_pairs: tuple[int, int]
    rows: Ints
    target_rows: Ints
    target_tokens: Ints
    target_requests: Ints

    @property
    def parent(self) -> int:
        """It hangs from no other pack."""
        return -1

    @property
    def num_encoder_tokens(self) -> int:
        """Tokens of its contexts, padding not counted."""
        return int(self.lengths.sum())

    @property
    def num_tokens(self) -> int:
        """Distinct tokens of encoder and decoder."""
        return self.num_encoder_tokens + self.num_decoder_tokens

    @property
    def num_forwarded(self) -> int:
        """Tokens sent through the model, padding and repetitions included."""
        return self.tokens.size + len(self.starts) + sum(batch.tokens.size for batch in self.batches)

    def rows_between(self, start: int, stop: int) -> Ints:
        """Those of `rows` that lie in a range."""
        return self.rows[(self.rows >= start) & (self.rows < stop)]


def plan_seq2seq(requests: Sequence[Seq2SeqRequest], budget: Budget) -> Plan[Seq2SeqPack]:
    """Gather the contexts of `requests` into packs within `budget`."""
    found: dict[tuple[bytes, int], _Context] = {}
    for index, request in enumerate(requests):
        key = (request.inputs.tobytes(), request.start)
        found.setdefault(key, _Context(request.inputs, request.start)).targets.append((index, request.targets))
    contexts = list(found.values())
    groups = gather([len(one.ids) for one in contexts], [len(one.nodes) for one in contexts], budget)
    packs = tuple(_pack([contexts[place] for place in group], budget) for group in groups)
    return Plan(
        packs=packs,
        num_logical=sum(len(request.inputs) + len(request.targets) for request in requests),
        num_distinct=sum(pack.num_tokens for pack in packs),
    )


@dataclass(slots=True)
class _Context:
    """One distinct context, and the targets asked of it with their requests."""

    ids: Ids
    start: int
    targets: list[tuple[int, Path]] = field(default_factory=list)

    @property
    def nodes(self) -> set[Path]:
        """What the decoder has read, after the start, wherever logits are needed."""
        return {targets[:length] for _, targets in self.targets for length in range(len(targets))}

    @property
    def paths(self) -> list[Path]:
        """The longest of `nodes`: those that no other one starts with."""
        ordered = sorted(self.nodes)  # what starts with a path comes right after it
        return [a for a, b in pairwise([*ordered, (-1,)]) if a and b[: len(a)] != a]


def _pack(contexts: Sequence[_Context], budget: Budget) -> Seq2SeqPack:
    nodes = [one.nodes for one in contexts]
    places: dict[tuple[int, Path], int] = {(number, ()): number for number in range(len(contexts))}
    batches = []
    offset = len(contexts)
    for rows in _batches(contexts, budget):
        batch = DecoderBatch(np.array([number for number, _ in rows]), pad([path for _, path in rows]))
        width = batch.tokens.shape[1]
        for row, (number, path) in enumerate(rows):
            for depth in range(len(path)):
                places.setdefault((number, path[: depth + 1]), offset + row * width + depth)
        offset += batch.tokens.size
        batches.append(batch)
    lengths = np.array([len(one.ids) for one in contexts])
    return Seq2SeqPack(
        tokens=pad([one.ids for one in contexts]),
        lengths=lengths,
        starts=np.array([one.start for one in contexts]),
        batches=tuple(batches),
        num_decoder_tokens=sum(map(len, nodes)),
        num_pairs=(
            int((lengths**2).sum()),
            sum(len(path) + 1 + len(one.ids) for one, own in zip(contexts, nodes, strict=True) for path in own),
        ),
        **index_targets(
            [
                (places[number, targets[:depth]], token, request)
                for number, one in enumerate(contexts)
                for request, targets in one.targets
                for depth, token in enumerate(targets)
            ]
        ),
    )


def _batches(contexts: Sequence[_Context], budget: Budget) -> Iterator[list[tuple[int, Path]]]:
    """Batches of (context, path), the longest paths first; each row holds keys and values of a whole context."""
    rows = [(number, path) for number, one in enumerate(contexts) for path in one.paths]
    longest = max([len(one.ids) for one in contexts] + [len(path) for _, path in rows])
    most = Budget(budget.tokens, rows=max(1, budget.tokens // longest))
    for group in gather([len(path) for _, path in rows], [1] * len(rows), most):
        yield [rows[place] for place in group]
