from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_masked import MASK, make_request, one_by_one, some_requests
from runs import Bench, only_run, read_info, read_lines, write_plan
from tiny_kinds import MASKED, bert_tokenizer, roberta_tokenizer, tiny, write_folder
from torch.utils.flop_counter import FlopCounterMode

from bench.engine.encode import EncodingRules
from bench.engine.kinds import MASKED as KIND
from bench.engine.masked.encode import MaskedEncoder
from bench.engine.masked.estimate import masked_cost
from bench.engine.masked.forward import MaskedForward
from bench.engine.masked.pack import MaskedRequest, plan_masked
from bench.engine.masked.plain import score_alone, tokenize
from bench.engine.pack import Budget
from bench.engine.scorer import Outcome, Scorer
from bench.engine.selfcheck import check_forward, choose_requests
from bench.errors import ModelLoadError
from bench.models.local import usable_positions
from bench.records import Loglikelihood, Prompt, PromptedSample, Request, Sample

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
EXACT = 1e-4
BUDGETS = [Budget(10_000, 1000), Budget(64, 16), Budget(1, 1)]


def check_equal(
    forward: MaskedForward, requests: Sequence[MaskedRequest], budget: Budget, expected: Sequence[tuple[float, bool]]
) -> None:
    plan = plan_masked(requests, budget)
    outcomes: dict[int, Outcome] = {}
    for scored in Scorer(forward, budget, plan_masked).score(requests, plan, set(range(len(requests)))):
        assert outcomes.keys().isdisjoint(scored.outcomes)
        outcomes.update(scored.outcomes)
    for index, (value, is_greedy) in enumerate(expected):
        outcome = outcomes[index]
        assert isinstance(outcome, Loglikelihood)
        assert outcome.value == pytest.approx(value, abs=EXACT)
        assert outcome.is_greedy == is_greedy
        assert outcome.num_tokens == len(requests[index].targets)


# --- scores ---


@pytest.mark.parametrize("name", sorted(MASKED))
def test_scores_are_those_of_one_token_at_a_time(name: str) -> None:
    model = tiny("masked", name)
    requests = some_requests()
    expected = one_by_one(model, requests)
    assert np.std([value for value, _ in expected]) > 3
    for budget in BUDGETS:
        forward = MaskedForward(model)
        check_equal(forward, requests, budget, expected)
        assert forward.num_forwarded >= plan_masked(requests, budget).num_distinct


def test_greedy_is_the_most_probable_at_every_masked_place() -> None:
    model = tiny("masked", "bert")
    context = [7, 8, 9]
    request = make_request(context, [5])
    with torch.inference_mode():
        best = int(model(input_ids=torch.tensor([[2, *context, MASK, 3]])).logits[0, 4].argmax())
    assert best != 5
    requests = [make_request(context, [best]), request]
    expected = one_by_one(model, requests)
    assert [is_greedy for _, is_greedy in expected] == [True, False]
    check_equal(MaskedForward(model), requests, BUDGETS[0], expected)


def test_plain_scores_are_plain() -> None:
    model = tiny("masked", "roberta")
    expected = [value for value, _ in one_by_one(model, some_requests())]
    assert score_alone(model, some_requests()) == pytest.approx(expected, abs=1e-5)


def test_the_self_check_passes_and_sees_padding_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("masked", "bert")
    letters = [request for request in some_requests((90, 77, 64, 52)) if len(request.targets) == 1]
    chosen = choose_requests(letters, KIND.num_checked)
    assert len(chosen) == 4  # of options of one token, one a question
    assert len({len(request.inputs) for request in chosen}) > 1
    assert max(len(request.inputs) for request in chosen) < 60
    assert check_forward(MaskedForward(model), chosen, "float32", KIND).is_passed
    monkeypatch.setattr(
        "bench.engine.masked.forward.mask_of", lambda lengths: np.ones((len(lengths), lengths.max()), dtype=np.int64)
    )
    assert not check_forward(MaskedForward(model), chosen, "float32", KIND).is_passed


def test_a_continuation_that_is_cut_away_is_not_checked() -> None:
    assert choose_requests([make_request(range(5, 60), range(5, 60))]) == []


# --- packs ---

token = st.integers(5, 7)


@st.composite
def requests_drawn(draw: st.DrawFn) -> list[MaskedRequest]:
    made = []
    for _ in range(draw(st.integers(1, 8))):
        words = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
        targets = draw(st.lists(token, min_size=sum(words), max_size=sum(words)))
        made.append(make_request(draw(st.lists(token, max_size=4)), targets, words))
    return made


budgets_drawn = st.builds(Budget, tokens=st.sampled_from([1, 8, 30, 1000]), rows=st.sampled_from([1, 4, 1000]))


@given(requests_drawn(), budgets_drawn)
def test_every_target_is_asked_for_where_it_is_hidden(requests: list[MaskedRequest], budget: Budget) -> None:
    plan = plan_masked(requests, budget)
    found = []
    for pack in plan.packs:
        ids, width = pack.tokens, pack.tokens.shape[1]
        for row, target, request in zip(pack.target_rows, pack.target_tokens, pack.target_requests, strict=True):
            owner, place = divmod(int(pack.rows[row]), width)
            found.append((int(request), place, int(target), tuple(ids[owner, : pack.lengths[owner]].tolist())))
    expected = []
    for number, request in enumerate(requests):
        for offset, (target, end) in enumerate(zip(request.targets, request.ends, strict=True)):
            ids = request.inputs.tolist()
            start = request.first + offset
            ids[start:end] = [MASK] * (end - start)
            expected.append((number, start, target, tuple(ids)))
    assert sorted(found) == sorted(expected)
    assert plan.num_logical == sum(len(ids) for *_, ids in expected)
    assert plan.num_distinct == sum(map(len, {ids for *_, ids in expected})) == sum(p.num_tokens for p in plan.packs)
    for pack in plan.packs:
        assert len(pack.inputs) == 1 or pack.tokens.size <= budget.tokens
        assert len(pack.inputs) == 1 or len(pack.rows) <= budget.rows


@given(requests_drawn(), budgets_drawn)
def test_the_plan_follows_from_requests_and_budget(requests: list[MaskedRequest], budget: Budget) -> None:
    one, other = plan_masked(requests, budget), plan_masked(list(requests), budget)
    for a, b in zip(one.packs, other.packs, strict=True):
        assert np.array_equal(a.tokens, b.tokens)
        assert np.array_equal(a.rows, b.rows)
        assert np.array_equal(a.target_requests, b.target_requests)


def test_letters_are_read_from_one_pass() -> None:
    (pack,) = plan_masked([make_request([7, 8], [letter]) for letter in (10, 11, 12, 13)], Budget(100, 100)).packs
    assert pack.tokens.tolist() == [[2, 7, 8, MASK, 3]]
    assert pack.rows.tolist() == [3]
    assert pack.target_tokens.tolist() == [10, 11, 12, 13]


# --- work ---


@pytest.mark.parametrize(
    "name", ["bert", "roberta", "roberta-prelayernorm", "distilbert", "albert", "electra", "rembert"]
)
def test_operations_are_what_pytorch_counts(name: str) -> None:
    model = tiny("masked", name)
    model.set_attn_implementation("eager")
    cost = masked_cost(model, model.config)
    request = make_request(range(5, 24), [7])
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.from_numpy(request.inputs.astype("int64"))[None])
    num = len(request.inputs)
    flops = cost.of(plan_masked([request], BUDGETS[0]).packs)
    assert flops.weights + flops.attention == counter.get_total_flops() - num * cost.per_row
    assert flops.head == cost.per_row


@pytest.mark.parametrize(("name", "expected"), [("bert", None), ("roberta", 130), ("mpnet", 130), ("distilbert", None)])
def test_positions_that_are_never_used_are_not_counted_on(name: str, expected: int | None) -> None:
    assert usable_positions(tiny("masked", name)) == expected


# --- words ---


def prompted(context: str, *continuations: str, shots: Sequence[str] = ()) -> PromptedSample:
    prompt = Prompt("", tuple(shots), context)
    sample = Sample(id="s", subject="", choices=tuple(continuations), golds=(0,), variables={})
    return PromptedSample(sample, tuple(Request(prompt, continuation) for continuation in continuations))


TOKENIZERS: dict[str, Callable[[], Any]] = {"bert": bert_tokenizer, "roberta": roberta_tokenizer}


def words_by_hand(name: str, tokenizer: Any, text: str, start: int) -> list[list[str]]:
    """The pieces of each word from `start` on: BERT marks what goes on with a word, RoBERTa splits words up first."""
    if name == "bert":
        words: list[list[str]] = []
        for piece in tokenizer.tokenize(text[start:]):
            if piece.startswith("##"):
                words[-1].append(piece)
            else:
                words.append([piece])
        return words
    backend = tokenizer.backend_tokenizer
    return [
        [token.value for token in backend.model.tokenize(word) if begin >= start or begin + token.offsets[1] > start]
        for word, (begin, end) in backend.pre_tokenizer.pre_tokenize_str(text)
        if end > start
    ]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    "continuation", [" A", " unbelievable lighthouses, 1234 of them!", "  two", "'s", ".", " naïve"]
)
def test_a_word_is_hidden_from_each_of_its_tokens_on(name: str, continuation: str) -> None:
    tokenizer = TOKENIZERS[name]()
    sample = prompted("What floats?\nAnswer:", continuation)
    (encoded,) = MaskedEncoder(tokenizer, EncodingRules(500)).encode([sample])
    (request,) = encoded.requests
    words = words_by_hand(name, tokenizer, "What floats?\nAnswer:" + continuation, 20)
    pieces = [piece for word in words for piece in word]
    assert tokenizer.convert_ids_to_tokens(list(request.targets)) == pieces
    assert request.inputs[request.first : request.first + len(pieces)].tolist() == list(request.targets)
    assert request.inputs[-1] == tokenizer("a").input_ids[-1]
    sizes = [len(word) for word in words]
    ends = [request.first + sum(sizes[: number + 1]) for number, size in enumerate(sizes) for _ in range(size)]
    assert request.ends == tuple(ends)
    (encoded,) = MaskedEncoder(tokenizer, EncodingRules(500, pll="original")).encode([sample])
    assert encoded.requests[0].ends == tuple(range(request.first + 1, request.first + len(pieces) + 1))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_long_texts_lose_shots_then_their_left_end_but_no_special_token(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    shots = ["A shot of some length.\n\n"] * 4
    sample = prompted("What floats?\nAnswer:", " a cork", " a very long answer", shots=shots)
    (whole,) = MaskedEncoder(tokenizer, EncodingRules(500)).encode([sample])
    longest = max(len(request.inputs) for request in whole.requests)
    (shorter,) = MaskedEncoder(tokenizer, EncodingRules(longest - 1)).encode([sample])
    assert (shorter.num_shots_dropped, shorter.num_cut_tokens) == (1, 0)
    (bare,) = MaskedEncoder(tokenizer, EncodingRules(longest, overlong="cut_left")).encode([sample])
    for limit in (longest - 1, 30):
        (cut,) = MaskedEncoder(tokenizer, EncodingRules(limit, overlong="cut_left")).encode([sample])
        assert cut.num_cut_tokens == longest - limit
        for own, request in zip(cut.requests, bare.requests, strict=True):
            ids = request.inputs.tolist()
            assert own.inputs.tolist() == (ids if len(ids) <= limit else [ids[0], *ids[len(ids) - limit + 1 :]])
            assert own.targets == request.targets == tuple(own.inputs[own.first : own.first + len(own.targets)])
            moved = len(own.inputs) - len(ids)
            assert own.ends == tuple(end + moved for end in request.ends)
    assert "exceed max_length 5" in str(MaskedEncoder(tokenizer, EncodingRules(5)).encode([sample])[0].error)
    for limit in (500, 30):
        plain = tokenize(tokenizer, None, EncodingRules(limit, overlong="cut_left"), sample)
        (ours,) = MaskedEncoder(tokenizer, EncodingRules(limit, overlong="cut_left")).encode([sample])
        assert plain[1] == (limit == 30)
        for one, other in zip(plain[0], ours.requests, strict=True):
            assert one.inputs.tolist() == other.inputs.tolist()
            assert (one.targets, one.first, one.ends, one.mask) == (other.targets, other.first, other.ends, other.mask)


def test_a_text_without_a_token_to_score_is_an_error() -> None:
    (encoded,) = MaskedEncoder(bert_tokenizer(), EncodingRules(500)).encode([prompted("Answer:", " ", " a")])
    assert encoded.error == "a continuation has no token of its own"
    (encoded,) = MaskedEncoder(bert_tokenizer(), EncodingRules(500)).encode([prompted("", "a cork")])
    assert encoded.requests[0].first == 1


def test_tokenizers_that_cannot_serve_are_refused() -> None:
    tokenizer = bert_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(ModelLoadError, match="no mask token"):
        MaskedEncoder(tokenizer, EncodingRules(500))
    slow = SimpleNamespace(bos_token_id=None, eos_token_id=None, mask_token_id=4)
    with pytest.raises(ModelLoadError, match="does not tell words"):
        MaskedEncoder(slow, EncodingRules(500))


# --- whole runs ---


def naive(folder: Path, name: str, context: str, continuation: str, *, is_by_word: bool) -> tuple[float, bool]:
    """The pseudo-log-likelihood as the papers say it, by transformers alone."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    whole = tokenizer(context + continuation).input_ids
    words = words_by_hand(name, tokenizer, context + continuation, len(context))
    place = len(whole) - 1 - sum(map(len, words))
    total, is_greedy = 0.0, True
    for word in words:
        for number in range(len(word)):
            ids = list(whole)
            for other in range(number, len(word) if is_by_word else number + 1):
                ids[place + other - number] = tokenizer.mask_token_id
            with torch.inference_mode():
                logits = model(torch.tensor([ids])).logits[0, place].double()
            total += float(torch.log_softmax(logits, -1)[whole[place]])
            is_greedy = is_greedy and int(logits.argmax()) == whole[place]
            place += 1
    return total, is_greedy


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("pll", ["word_l2r", "original"])
def test_a_run_has_the_naive_scores_and_says_pll(
    name: str, pll: str, tmp_path: Path, cli: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.plan import load_plan
    from bench.tasks.prepare import prepare_job

    tokenizer = TOKENIZERS[name]()
    model = tiny("masked", name, vocab_size=len(tokenizer), max_position_embeddings=302)
    folder = write_folder(tmp_path / "model", model, tokenizer)
    task = {"task": "pocket", "scoring": "cloze", "num_fewshot": 0, "limit": 5}
    plan = write_plan(tmp_path, models=[{"source": str(folder)}], tasks=[task], pll=pll)
    result = cli("run", plan)
    assert result.code == 0, result.err
    assert "by PLL: the pseudo-log-likelihood" in " ".join(result.out.split())
    run = only_run(tmp_path / "results")
    for sample, line in zip(prepare_job(load_plan(plan).tasks[0]).samples, read_lines(run), strict=True):
        for number, request in enumerate(sample.requests):
            value, is_greedy = naive(
                folder, name, request.prompt.text, request.continuation, is_by_word=pll == "word_l2r"
            )
            assert line["loglikelihoods"][number] == pytest.approx(value, abs=EXACT)
            assert line["is_greedy"][number] == is_greedy
    info = read_info(run)
    assert (info["likelihood"], info["model"]["kind"], info["engine"]["path"]) == ("pll", "masked", "masked")
    assert info["engine"]["pll"] == pll
    assert info["engine"]["max_length"] == {"bert": 302, "roberta": 300}[name]
    shown = cli("show", run)
    assert "by PLL" in shown.out
    assert "PLL" in cli("show", run, "--sample", read_lines(run)[0]["id"]).out
    verified = cli("verify", run, "--samples", 3)
    assert verified.code == 0, verified.err
    assert "in PLL" in verified.out
