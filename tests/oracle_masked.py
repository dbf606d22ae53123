"""Requests to masked language models, and what plain transformers says of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tiny_kinds import VOCAB

from bench.engine.masked.pack import MaskedRequest

MASK = 4


def make_request(context: Sequence[int], targets: Sequence[int], words: Sequence[int] | None = None) -> MaskedRequest:
    """A request between [2] and [3]; `words` are the lengths of the continuation's words, of one token by default."""
    first = len(context) + 1
    ends: list[int] = []
    for length in words or [1] * len(targets):
        stop = first + len(ends) + length
        ends += [stop] * length
    return MaskedRequest(
        np.array([2, *context, *targets, 3], dtype=np.uint32), tuple(targets), first, tuple(ends), MASK
    )


def some_requests(lengths: Sequence[int] = (37, 30, 30, 12, 80, 5, 23)) -> list[MaskedRequest]:
    generator = np.random.default_rng(0)
    requests = []
    for length in lengths:
        context = generator.integers(5, VOCAB, length).tolist()
        for words in ([1], [1], [1, 1], [3], [2, 3], [1, 2]):
            requests.append(make_request(context, generator.integers(5, VOCAB, sum(words)).tolist(), words))
    return [*requests, requests[3]]


def one_by_one(model: Any, requests: Sequence[MaskedRequest]) -> list[tuple[float, bool]]:
    """Value and greediness by a forward pass for each token."""
    model = copy.deepcopy(model)
    found = []
    with torch.inference_mode():
        for request in requests:
            total, is_greedy = 0.0, True
            for number, target in enumerate(request.targets):
                place = request.first + number
                ids = request.inputs.tolist()
                for hidden in range(place, request.ends[number]):
                    ids[hidden] = MASK
                logits = model(input_ids=torch.tensor([ids])).logits[0, place].double()
                total += float(torch.log_softmax(logits, dim=-1)[target])
                is_greedy = is_greedy and int(logits.argmax()) == target
            found.append((total, is_greedy))
    return found
