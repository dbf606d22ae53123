"""Whether what vLLM says of tokens is what it claims to be: the same tokens, had in another of its ways."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.completer import GenerationSettings
from bench.engine.pack import TokenRequest
from bench.vllm.engine import VllmEngine

_NUM_CHECKED = 4
_HEAD, _TAIL = 140, 20  # tokens kept of a checked prompt's ends: a block of the prefix cache, and more
_NUM_WRITTEN = 8


def next_token_difference(engine: VllmEngine, requests: Sequence[TokenRequest]) -> float:
    """How far what is said of options differs from what is said of them as the last token of a prompt that is read.

    A few requests are asked twice, so that the second time comes from the prefix cache, side by side; they are read
    with nothing cached. Log-probabilities of other tokens, or over the letters alone, come up as differences.
    """
    some = [one for request in requests[:_NUM_CHECKED] if (one := request.shortened(_HEAD, _TAIL))]
    prompts = [(request.inputs.tolist(), request.targets) for request in some]
    read = [rows[-1].logprob for rows in engine.read([[*ids, targets[0]] for ids, targets in prompts])]
    differences = [0.0]
    for _ in range(2):
        for place, found in engine.next_tokens(prompts):
            differences.append(abs(found.logprobs[prompts[place][1][0]] - read[place]))
    return _largest(differences)


def written_difference(engine: VllmEngine, prompts: Sequence[Sequence[int]]) -> float:
    """How far below the most probable token a greedily written one is, when prompt and completion are read together."""
    some = [[*ids[:_HEAD], *ids[_HEAD:][-_TAIL:]] for ids in prompts[:_NUM_CHECKED]]
    settings = GenerationSettings(_NUM_WRITTEN)
    written = {place: own.ids for place, own in engine.write(some, [0] * len(some), settings, ())}
    whole = [[*ids, *written[place]] for place, ids in enumerate(some)]
    tokens = [one for place, rows in enumerate(engine.read(whole)) for one in rows[-len(written[place]) :]]
    return _largest([0.0, *(one.most - one.logprob for one in tokens)])


def _largest(differences: Sequence[float]) -> float:
    return max(differences) if all(map(math.isfinite, differences)) else math.inf
