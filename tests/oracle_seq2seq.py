"""Requests to encoder-decoders, and what plain transformers says of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tiny_kinds import VOCAB

from bench.engine.seq2seq.pack import Seq2SeqRequest

START = 0
SHIFTED_OTHERWISE = {"mbart", "plbart", "t5gemma"}
"""mBART's shift begins with the last token of what is asked; T5Gemma's has another name for the start."""


def make_request(context: Sequence[int], targets: Sequence[int], start: int = START) -> Seq2SeqRequest:
    return Seq2SeqRequest(np.array(context, dtype=np.uint32), tuple(targets), start)


def some_requests(start: int = START, lengths: Sequence[int] = (37, 30, 30, 12, 80, 5)) -> list[Seq2SeqRequest]:
    """Options of 1 to 5 tokens of contexts of several lengths; some options start alike, one request comes twice."""
    generator = np.random.default_rng(0)
    requests = []
    for length in lengths:
        context = generator.integers(5, VOCAB, length).tolist()
        long = generator.integers(5, VOCAB, 5).tolist()
        options = [[7], [8], [long[0], 9], long[:3], long, [*long[:2], 11, 12], [13, 14]]
        requests += [make_request(context, option, start) for option in options]
    return [*requests, requests[3]]


def one_by_one(model: Any, requests: Sequence[Seq2SeqRequest]) -> list[tuple[float, bool]]:
    """Value and greediness by a forward pass each, with the decoder's input made by transformers from labels."""
    model = copy.deepcopy(model)
    found = []
    with torch.inference_mode():
        for request in requests:
            targets = torch.tensor([request.targets])
            decoder = {"labels": targets}
            if model.config.model_type in SHIFTED_OTHERWISE:
                decoder = {"decoder_input_ids": torch.tensor([[request.start, *request.targets[:-1]]])}
            logits = model(input_ids=torch.tensor([request.inputs.tolist()]), **decoder).logits[0].double()
            values = torch.log_softmax(logits, dim=-1).gather(1, targets[0][:, None])
            found.append((float(values.sum()), bool((logits.argmax(-1) == targets[0]).all())))
    return found
