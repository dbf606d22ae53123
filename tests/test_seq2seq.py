from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_seq2seq import START, make_request, one_by_one, some_requests
from runs import Bench, only_run, read_info, read_lines, write_plan
from tiny_kinds import SEQ2SEQ, VOCAB, bart_tokenizer, t5_tokenizer, tiny, write_folder
from torch.utils.flop_counter import FlopCounterMode

from bench.engine.kinds import SEQ2SEQ as KIND
from bench.engine.pack import Budget, Plan
from bench.engine.scorer import Outcome, Scorer
from bench.engine.selfcheck import check_forward, choose_requests
from bench.engine.seq2seq.encode import decoder_start
from bench.engine.seq2seq.estimate import seq2seq_cost
from bench.engine.seq2seq.forward import Seq2SeqForward
from bench.engine.seq2seq.pack import Seq2SeqPack, Seq2SeqRequest, plan_seq2seq
from bench.engine.seq2seq.plain import score_alone
from bench.records import Loglikelihood

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
EXACT = 1e-4
BUDGETS = [Budget(10_000, 1000), Budget(64, 16), Budget(1, 1)]


def score(
    forward: Seq2SeqForward, requests: Sequence[Seq2SeqRequest], budget: Budget
) -> tuple[list[Outcome], Plan[Seq2SeqPack]]:
    plan = plan_seq2seq(requests, budget)
    outcomes: dict[int, Outcome] = {}
    for scored in Scorer(forward, budget, plan_seq2seq).score(requests, plan, set(range(len(requests)))):
        assert outcomes.keys().isdisjoint(scored.outcomes)
        outcomes.update(scored.outcomes)
    return [outcomes[index] for index in range(len(requests))], plan


def check_equal(found: Sequence[Outcome], expected: Sequence[tuple[float, bool]]) -> None:
    for outcome, (value, is_greedy) in zip(found, expected, strict=True):
        assert isinstance(outcome, Loglikelihood)
        assert outcome.value == pytest.approx(value, abs=EXACT)
        assert outcome.is_greedy == is_greedy


# --- scores ---


@pytest.mark.parametrize("name", sorted(set(SEQ2SEQ) - {"mbart", "plbart", "t5gemma"}))
def test_scores_are_those_of_one_request_at_a_time(name: str) -> None:
    model = tiny("seq2seq", name)
    requests = some_requests(decoder_start(model.config))
    expected = one_by_one(model, requests)
    assert np.std([value for value, _ in expected]) > 3
    for budget in BUDGETS:
        forward = Seq2SeqForward(model)
        outcomes, plan = score(forward, requests, budget)
        check_equal(outcomes, expected)
        assert forward.num_forwarded == sum(pack.num_forwarded for pack in plan.packs) >= plan.num_distinct


@pytest.mark.parametrize("name", ["mbart", "plbart", "t5gemma"])
def test_where_transformers_shift_differs_the_decoder_begins_with_the_start_token(name: str) -> None:
    """mBART's shift begins with the last token of what is asked; T5Gemma's configuration has another name for it."""
    model = tiny("seq2seq", name)
    requests = some_requests(decoder_start(model.config))
    assert decoder_start(model.config) == 2
    expected = score_alone(copy.deepcopy(model), requests)
    outcomes, _ = score(Seq2SeqForward(model), requests, BUDGETS[1])
    check_equal(outcomes, [(value, outcome.is_greedy) for value, outcome in zip(expected, outcomes, strict=True)])  # type: ignore[union-attr]


def test_plain_scores_are_plain() -> None:
    model = tiny("seq2seq", "t5")
    expected = [value for value, _ in one_by_one(model, some_requests())]
    assert score_alone(model, some_requests()) == pytest.approx(expected, abs=1e-5)


def test_sdpa_lets_umt5_see_what_follows_which_is_why_it_is_loaded_with_eager() -> None:
    """Once this fails, transformers has mended it, and `_BROKEN_SDPA` can go."""
    model = tiny("seq2seq", "umt5")
    broken = type(model)._from_config(copy.deepcopy(model.config), attn_implementation="sdpa").eval()
    first = []
    for one in (model, broken):
        for last in (7, 8):
            ids = torch.tensor([[START, 5, 6, last]])
            with torch.inference_mode():
                first.append(
                    one(input_ids=torch.tensor([[5, 6, 7]]), decoder_input_ids=ids, use_cache=False).logits[0, :3]
                )
    assert (first[0] - first[1]).abs().max() < 1e-5
    assert (first[2] - first[3]).abs().max() > 1e-2


def test_the_self_check_passes_and_sees_padding_that_is_read() -> None:
    model = tiny("seq2seq", "bart")
    chosen = choose_requests(some_requests(2), KIND.num_checked)
    assert (
        len({one.inputs.tobytes() for one in choose_requests([r for r in some_requests(2) if len(r.targets) == 1], 6)})
        == 6
    )
    assert len(chosen) == 6
    assert check_forward(Seq2SeqForward(model), chosen, "float32", KIND).is_passed

    class Unmasked(Seq2SeqForward):
        def logits(self, pack: Seq2SeqPack) -> torch.Tensor:
            object.__setattr__(pack, "lengths", np.full_like(pack.lengths, pack.tokens.shape[1]))
            return super().logits(pack)

    two = choose_requests([r for r in some_requests(2, (30, 28, 27)) if len(r.targets) == 1], 6)
    assert check_forward(Seq2SeqForward(model), two, "float32", KIND).is_passed
    assert not check_forward(Unmasked(model), two, "float32", KIND).is_passed


# --- packs ---


def asked_of(pack: Seq2SeqPack) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int, int]]:
    """(context, decoder's tokens after the start, target token, request) of each target, worked out from the arrays."""
    contexts = [tuple(row[:length].tolist()) for row, length in zip(pack.tokens, pack.lengths, strict=True)]
    places: list[tuple[tuple[int, ...], tuple[int, ...]]] = [(context, ()) for context in contexts]
    for batch in pack.batches:
        for owner, row in zip(batch.contexts.tolist(), batch.tokens.tolist(), strict=True):
            places += [(contexts[owner], tuple(row[: depth + 1])) for depth in range(len(row))]
    for row, token, request in zip(pack.target_rows, pack.target_tokens, pack.target_requests, strict=True):
        yield (*places[int(pack.rows[row])], int(token), int(request))


token = st.integers(1, 4)
requests_drawn = st.lists(
    st.builds(make_request, st.lists(token, min_size=1, max_size=4), st.lists(token, min_size=1, max_size=4)),
    min_size=1,
    max_size=14,
)
budgets_drawn = st.builds(Budget, tokens=st.sampled_from([1, 3, 8, 30, 1000]), rows=st.sampled_from([1, 4, 1000]))


@given(requests_drawn, budgets_drawn)
def test_every_target_is_read_after_what_precedes_it(requests: list[Seq2SeqRequest], budget: Budget) -> None:
    plan = plan_seq2seq(requests, budget)
    found = sorted((request, *rest) for pack in plan.packs for *rest, request in asked_of(pack))
    expected = sorted(
        (number, tuple(one.inputs.tolist()), one.targets[:depth], one.targets[depth])
        for number, one in enumerate(requests)
        for depth in range(len(one.targets))
    )
    assert found == expected


@given(requests_drawn, budgets_drawn)
def test_each_context_and_each_place_is_computed_once(requests: list[Seq2SeqRequest], budget: Budget) -> None:
    plan = plan_seq2seq(requests, budget)
    contexts = [
        tuple(row[:n].tolist()) for pack in plan.packs for row, n in zip(pack.tokens, pack.lengths, strict=True)
    ]
    assert sorted(contexts) == sorted({tuple(one.inputs.tolist()) for one in requests})
    nodes = {(tuple(one.inputs.tolist()), one.targets[:n]) for one in requests for n in range(len(one.targets))}
    assert plan.num_distinct == sum(map(len, contexts)) + len(nodes) == sum(pack.num_tokens for pack in plan.packs)
    assert sum(len(pack.rows) for pack in plan.packs) == len(nodes)
    assert plan.num_logical == sum(len(one.inputs) + len(one.targets) for one in requests)
    for pack in plan.packs:
        assert len(pack.lengths) == 1 or pack.tokens.size <= budget.tokens
        assert len(pack.lengths) == 1 or len(pack.rows) <= budget.rows
        for batch in pack.batches:
            assert len(batch.tokens) == 1 or len(batch.tokens) * pack.tokens.shape[1] <= budget.tokens


@given(requests_drawn, budgets_drawn)
def test_the_plan_follows_from_requests_and_budget(requests: list[Seq2SeqRequest], budget: Budget) -> None:
    one, other = plan_seq2seq(requests, budget), plan_seq2seq(list(requests), budget)
    for a, b in zip(one.packs, other.packs, strict=True):
        assert np.array_equal(a.tokens, b.tokens)
        assert np.array_equal(a.rows, b.rows)
        assert all(np.array_equal(x.tokens, y.tokens) for x, y in zip(a.batches, b.batches, strict=True))


def test_options_of_one_token_take_one_place_of_the_decoder() -> None:
    requests = [make_request(range(5, 45), [letter]) for letter in (7, 8, 9, 10)]
    (pack,) = plan_seq2seq(requests, Budget(100, 100)).packs
    assert pack.batches == ()
    assert pack.num_forwarded == pack.num_tokens == 40 + 1
    assert pack.rows.tolist() == [0]
    assert pack.target_tokens.tolist() == [7, 8, 9, 10]


def test_an_option_that_another_one_begins_with_is_read_from_it() -> None:
    requests = [make_request([5, 6], option) for option in ([1], [1, 2], [1, 2, 3, 4], [2, 9])]
    (pack,) = plan_seq2seq(requests, Budget(100, 100)).packs
    assert [batch.tokens.tolist() for batch in pack.batches] == [[[1, 2, 3], [2, 0, 0]]]


def test_batches_hold_contexts_of_about_equal_length() -> None:
    """Real benchmarks' contexts vary in length; no more than a few percent of what is forwarded is padding."""
    lengths = np.random.default_rng(0).integers(60, 900, 600).tolist()
    generator = np.random.default_rng(1)
    requests = [make_request(generator.integers(5, VOCAB, length), [7]) for length in lengths]
    for tokens in (2048, 16384):
        plan = plan_seq2seq(requests, Budget(tokens, 4096))
        forwarded = sum(pack.num_forwarded for pack in plan.packs)
        assert plan.num_distinct <= forwarded < 1.05 * plan.num_distinct
        longest = [pack.tokens.shape[1] for pack in plan.packs]
        assert longest == sorted(longest, reverse=True)


# --- work ---


@pytest.mark.parametrize("name", ["t5", "t5-gated", "mt5", "bart", "marian", "m2m_100"])
def test_operations_are_what_pytorch_counts(name: str) -> None:
    """Of a context and one option. PyTorch counts all pairs where ours of the decoder are causal."""
    model = tiny("seq2seq", name)
    model = type(model)._from_config(model.config, attn_implementation="eager").eval()
    cost = seq2seq_cost(model, model.config)
    length, depth = 20, 4
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        ids = torch.arange(5, 5 + length)[None]
        model(input_ids=ids, decoder_input_ids=torch.arange(5, 5 + depth)[None], use_cache=False)
    pairs = length**2 * cost.per_encoder_pair + (depth * length + depth**2) * cost.per_decoder_pair
    tokens = length * cost.per_encoder_token + depth * cost.per_decoder_token
    assert counter.get_total_flops() == tokens + pairs + depth * cost.per_row


def test_a_plan_costs_its_distinct_tokens() -> None:
    requests = [make_request(range(10), option) for option in ([1], [2], [1, 3, 4])] + [make_request(range(6), [1])]
    cost = seq2seq_cost(tiny("seq2seq", "t5"), None)
    for budget in BUDGETS:
        flops = cost.of(plan_seq2seq(requests, budget).packs)
        assert flops.weights == 16 * cost.per_encoder_token + 4 * cost.per_decoder_token
        decoder_pairs = (1 + 10) + (2 + 10) + (3 + 10) + (1 + 6)
        assert flops.attention == (100 + 36) * cost.per_encoder_pair + decoder_pairs * cost.per_decoder_pair
        assert flops.head == 4 * cost.per_row


@pytest.mark.parametrize(("name", "kept"), [("t5", 2 * 3 * 24), ("bart", 2 * 3 * 32), ("t5gemma", 2 * 2 * 32)])
def test_what_the_decoder_keeps_of_a_token_is_counted(name: str, kept: int) -> None:
    assert KIND.num_kept(tiny("seq2seq", name).config) == kept


# --- lm-evaluation-harness, and whole runs ---

TOKENIZERS: dict[str, Callable[[], Any]] = {"t5": t5_tokenizer, "bart": bart_tokenizer, "mt5": t5_tokenizer}


@pytest.fixture(scope="module", params=["t5", "bart", "mt5"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its tokenizer; the T5 says that it takes 200 tokens, as T5 checkpoints say 512."""
    tokenizer = TOKENIZERS[request.param]()
    model = tiny("seq2seq", request.param, vocab_size=len(tokenizer))
    if request.param == "t5":
        model.config.n_positions = 200
    return write_folder(tmp_path_factory.mktemp(request.param), model, tokenizer)


@contextlib.contextmanager
def foreign_code() -> Iterator[None]:
    """lm-eval and what it uses warn and log a lot; none of it is ours to mend."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def by_lm_eval(folder: Path, texts: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
    with foreign_code():
        from lm_eval.models.huggingface import HFLM

        lm = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=5)
        assert lm.backend == "seq2seq"
        found: list[tuple[float, bool]] = lm.loglikelihood(
            [SimpleNamespace(args=pair) for pair in texts], disable_tqdm=True
        )
    return found


CASES = {
    "letter": ({"task": "pocket", "scoring": "letter", "num_fewshot": 1, "limit": 10}, {}),
    "cloze": ({"task": "pocket", "scoring": "cloze", "num_fewshot": 0, "limit": 12}, {}),
    "cut": (
        {"task": "pocket", "scoring": "cloze", "num_fewshot": 2, "limit": 6},
        {"max_length": 60, "overlong": "cut_left"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_has_lm_evaluation_harnesss_loglikelihoods(folder: Path, case: str, tmp_path: Path, cli: Bench) -> None:
    from bench.plan import load_plan
    from bench.tasks.prepare import prepare_job

    task, engine = CASES[case]
    plan = write_plan(tmp_path, models=[{"source": str(folder)}], tasks=[task], **{"max_batch_tokens": 256, **engine})
    result = cli("run", plan)
    assert result.code == 0, result.err
    run = only_run(tmp_path / "results")
    lines = read_lines(run)
    samples = prepare_job(load_plan(plan).tasks[0]).samples
    texts = [
        (request.prompt.without_shots(line["num_shots_dropped"]).text, request.continuation)
        for sample, line in zip(samples, lines, strict=True)
        for request in sample.requests
    ]
    own_length = folder.joinpath("config.json").read_text().find('"n_positions"') >= 0
    limit = engine.get("max_length")
    with pytest.MonkeyPatch.context() as patch:
        if limit:
            patch.setattr("lm_eval.models.huggingface.HFLM.max_length", limit)
        expected = iter(by_lm_eval(folder, texts))
    assert any(line["truncated"] for line in lines) == (case == "cut" or (own_length and case == "letter"))
    for line in lines:
        for value, is_greedy in zip(line["loglikelihoods"], line["is_greedy"], strict=True):
            their_value, their_greedy = next(expected)
            assert value == pytest.approx(their_value, abs=EXACT)
            assert is_greedy == their_greedy
        assert line["prediction"] == int(np.argmax(line["loglikelihoods"]))
    info = read_info(run)
    assert (info["likelihood"], info["model"]["kind"], info["engine"]["path"]) == ("exact", "seq2seq", "seq2seq")
    assert info["tokens"]["distinct"] <= info["tokens"]["forwarded"] < 1.2 * info["tokens"]["distinct"]
    verified = cli("verify", run, "--samples", 4)
    assert verified.code == 0, verified.err
    assert "the run holds" in verified.out
