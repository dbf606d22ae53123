"""What several tests of the engine need: token sequences, and what a plan's packs hold, worked out without the plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from bench.engine.pack import Budget, Pack, Plan, TokenRequest

Path = tuple[int, ...]
"""A token and all that stand before it: what a distinct token of a job is."""


def make_request(inputs: Sequence[int], targets: Sequence[int]) -> TokenRequest:
    return TokenRequest(np.array(inputs, dtype=np.uint32), tuple(targets))


@st.composite
def token_requests(draw: st.DrawFn, max_requests: int = 10) -> list[TokenRequest]:
    """Requests that share: each starts as a part of an earlier one and goes on by itself."""
    token = st.sampled_from([0, 1, 2, 255, 256, 65_536, 2**31])
    made: list[TokenRequest] = []
    for _ in range(draw(st.integers(1, max_requests))):
        start: list[int] = []
        if made:
            other = made[draw(st.integers(0, len(made) - 1))].inputs.tolist()
            start = other[: draw(st.integers(0, len(other)))]
        own = draw(st.lists(token, min_size=0 if start else 1, max_size=6))
        inputs = start + own
        num_targets = draw(st.integers(1, min(3, len(inputs))))
        last = draw(token)
        made.append(make_request(inputs, [*inputs[len(inputs) - num_targets + 1 :], last]))
    return made


budgets = st.builds(Budget, tokens=st.sampled_from([1, 2, 3, 5, 8, 20, 1000]), rows=st.sampled_from([1, 2, 4, 1000]))


def prefixes(sequences: Iterable[Sequence[int]]) -> set[Path]:
    """The distinct tokens of sequences."""
    return {tuple(sequence[: n + 1]) for sequence in sequences for n in range(len(sequence))}


def pack_paths(pack: Pack, above: Path) -> list[Path]:
    """The path of each of a pack's tokens, from depths and depth-first order alone; `above` is the trunk's path."""
    assert len(above) == pack.prefix_length
    path = list(above)
    paths = []
    for token, position in zip(pack.tokens.tolist(), pack.positions.tolist(), strict=True):
        assert pack.prefix_length <= position <= len(path)
        path = [*path[:position], token]
        paths.append(tuple(path))
    return paths


def plan_paths(plan: Plan) -> list[list[Path]]:
    """The paths of all packs' tokens."""
    paths: list[list[Path]] = []
    for index, pack in enumerate(plan.packs):
        assert pack.parent < index
        above: Path = ()
        if pack.parent >= 0:
            assert plan.packs[pack.parent].is_trunk
            above = paths[pack.parent][-1]
        paths.append(pack_paths(pack, above))
    return paths


def visible(paths: Sequence[Path]) -> np.ndarray[Any, Any]:
    """Which of a pack's tokens see which: a token sees those whose paths its own path begins with; (T, T) bool."""
    return np.array([[mine[: len(other)] == other for other in paths] for mine in paths])


def few_shot_requests(
    vocab_size: int, *, shared: int = 30, passage: int = 8, own: int = 5, num_passages: int = 2, seed: int = 0
) -> list[TokenRequest]:
    """Requests as a benchmark has them: a long shared start, passages shared by questions, options of 1 to 3 tokens.

    One question stands alone, one is the start of another, and one request comes twice.
    """
    generator = torch.Generator().manual_seed(seed)

    def tokens(num: int) -> list[int]:
        return torch.randint(3, vocab_size, (num,), generator=generator).tolist()

    start = tokens(shared)
    contexts = []
    for _ in range(num_passages):
        read = start + tokens(passage)
        contexts += [read + tokens(own + extra) for extra in range(2)]
    contexts += [tokens(own + 3), start, contexts[0][:-2]]
    requests = []
    for context in contexts:
        for num in (1, 1, 2, 3):
            continuation = tokens(num)
            requests.append(make_request(context + continuation[:-1], continuation))
    return [*requests, requests[0]]


def varlen_attn_by_contract(  # noqa: PLR0917
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> tuple[torch.Tensor, torch.Tensor]:
    """What torch documents for `varlen_attn`, without `enable_gqa`, as in torch 2.11; lse comes as (H, T)."""
    assert query.shape[1:] == key.shape[1:]
    return varlen_attn_with_groups(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, return_aux=return_aux, scale=scale, window_size=window_size
    )


def varlen_attn_with_groups(  # noqa: PLR0917
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as in torch 2.12 and later: query heads may share a key head."""
    assert enable_gqa == (query.shape[1] > key.shape[1])
    assert return_aux.lse
    assert window_size in ((-1, -1), (-1, 0))
    assert query.shape[2] == key.shape[2]
    assert query.shape[1] % key.shape[1] == 0
    assert key.shape == value.shape
    assert all(tensor.stride(-1) == 1 for tensor in (query, key, value))
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert len(cu_seq_q) == len(cu_seq_k)
    assert (cu_seq_q[[0, -1]].tolist(), cu_seq_k[[0, -1]].tolist()) == ([0, len(query)], [0, len(key)])
    lengths, key_lengths = cu_seq_q.diff(), cu_seq_k.diff()
    assert (int(lengths.max()), int(key_lengths.max())) == (max_q, max_k)
    outputs, lses = [], []
    key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for tensor in (key, value))
    pairs = zip(
        torch.split(query, lengths.tolist()),
        torch.split(key, key_lengths.tolist()),
        torch.split(value, key_lengths.tolist()),
        strict=True,
    )
    for q, k, v in pairs:
        scores = torch.einsum("qhd,khd->hqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if window_size == (-1, 0):  # causal, aligned to the lower right corner
            scores += torch.full(scores.shape[1:], -math.inf).triu(1 + len(k) - len(q))
        outputs.append(torch.einsum("hqk,khd->qhd", torch.softmax(scores, -1), v))
        lses.append(torch.logsumexp(scores, -1))
    return torch.cat(outputs), torch.cat(lses, dim=1)
