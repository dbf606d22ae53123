"""Generated text against the plain way: one prompt, one token at a time, everything forwarded anew each time."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import helpers  # noqa: F401  # sets the number of threads
import pytest
import tiny_kinds
import torch
from tiny_models import tiny_model

from bench.completer import Decoding
from bench.config import EngineSpec, ModelSpec
from bench.engine.codec import Codec
from bench.engine.encode import EncodingRules
from bench.engine.generate import Generator
from bench.engine.head import NeededRowsHead
from bench.engine.pack import Budget, TokenRequest, plan_packs
from bench.engine.seq2seq.encode import decoder_start
from bench.engine.tokenwise import cut_at
from bench.errors import ModelInputError, SteelyardError
from bench.models.fake import fake_tokenizer
from bench.records import Completion
from bench.session import Session

AMPLE = Budget(4096, 64)
RULES = EncodingRules(max_length=512)
PROMPTS = ["Once", "a-much-longer-prompt-than-all-the-others", "b", "two+two=", "a-much-longer-prompt", "the-end:"]
"""Of characters that are tokens of the tiny models."""


def codec_of(model: Any, tokenizer: Any = None, rules: EncodingRules = RULES) -> Codec:
    return Codec(tokenizer or fake_tokenizer(), rules, model.config, model.generation_config)


def generator_of(model: Any, budget: Budget = AMPLE, rules: EncodingRules = RULES, tokenizer: Any = None) -> Generator:
    return Generator(model, codec_of(model, tokenizer, rules), budget)


def generate(generator: Generator, prompts: Sequence[str], **rules: Any) -> list[Completion]:
    """What becomes of each prompt, in order."""
    found = dict(generator.generate(prompts, Decoding(**{"max_tokens": 12, **rules})))
    assert len(found) == len(prompts)
    assert all(isinstance(one, Completion) for one in found.values())
    return [found[place] for place in range(len(prompts))]  # type: ignore[misc]


@torch.inference_mode()
def greedy(model: Any, prompt: str, max_tokens: int, stop: Sequence[str] = ()) -> tuple[str, int, str]:
    """Text, tokens and why it ended."""
    tokenizer, ids = fake_tokenizer(), fake_tokenizer().encode(prompt)
    ends = {model.generation_config.eos_token_id, tokenizer.eos_token_id}
    made: list[int] = []
    while len(made) < max_tokens:
        if model.config.is_encoder_decoder:
            start = [decoder_start(model.config)]
            logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([start + made])).logits
        else:
            logits = model(input_ids=torch.tensor([ids + made]), use_cache=False).logits
        made.append(int(logits[0, -1].argmax()))
        text = tokenizer.decode(made, skip_special_tokens=True)
        found = [text.index(string) for string in stop if string in text]
        if found:
            return text[: min(found)], len(made), "stop"
        if made[-1] in ends:
            return text, len(made), "stop"
    return tokenizer.decode(made, skip_special_tokens=True), len(made), "length"


CAUSAL = ["llama", "gpt2", "opt", "bloom", "mpt", "falcon-alibi", "gptj", "mistral", "gemma2", "mixtral"]
SEQ2SEQ = ["t5", "bart", "led", "t5gemma"]


@pytest.mark.parametrize("name", [*CAUSAL, *SEQ2SEQ])
def test_a_prompt_gets_what_it_would_get_alone(name: str) -> None:
    model = tiny_kinds.tiny("seq2seq", name) if name in SEQ2SEQ else tiny_model(name)
    for found, prompt in zip(generate(generator_of(model), PROMPTS), PROMPTS, strict=True):
        expected = greedy(model, prompt, 12)
        assert (found.text, found.num_completion_tokens, found.finish_reason) == expected
        assert (found.num_prompt_tokens, found.num_cut_tokens) == (len(prompt), 0)


def test_stop_strings_end_a_completion_and_are_no_part_of_it() -> None:
    model = tiny_model("llama")
    whole = [one.text for one in generate(generator_of(model), PROMPTS)]
    stop = (whole[0][3:6], whole[3][1:4])
    found = generate(generator_of(model), PROMPTS, stop=stop)
    assert {one.finish_reason for one in found} == {"stop", "length"}
    assert found[0].text == cut_at(whole[0], stop)
    for one, prompt in zip(found, PROMPTS, strict=True):
        assert (one.text, one.num_completion_tokens, one.finish_reason) == greedy(model, prompt, 12, stop)


def test_a_special_token_may_be_a_stop_string() -> None:
    tokenizer = fake_tokenizer()
    model = tiny_model("llama")
    whole = generate(generator_of(model), PROMPTS[:1])[0].text
    tokenizer.add_special_tokens({"additional_special_tokens": [whole[2]]})  # the same id, hidden when it is decoded
    generator = generator_of(model, tokenizer=tokenizer)
    decoding = Decoding(max_tokens=12, stop=(whole[2],))
    (_, found), *_ = generator.generate(PROMPTS[:1], decoding)
    assert isinstance(found, Completion)
    assert (found.finish_reason, found.text) == ("stop", whole[: whole.index(whole[2])])


def test_the_first_of_all_stop_strings_counts() -> None:
    assert cut_at("one two three", ("three", "two", "", "four")) == "one "
    assert cut_at("one two three", ("four",)) == "one two three"


def test_the_end_of_text_ends_a_completion() -> None:
    model = tiny_model("llama")
    free = generate(generator_of(model), PROMPTS)
    model.generation_config.eos_token_id = [90, fake_tokenizer().encode(free[0].text[4])[0]]
    found = generate(generator_of(model), PROMPTS)[0]
    assert found.finish_reason == "stop"
    assert found.num_completion_tokens == free[0].text.index(free[0].text[4]) + 1


def sampled(prompts: Sequence[str], budget: Budget, seed: int = 5) -> list[str]:
    found = generate(generator_of(tiny_model("llama"), budget), prompts, temperature=1.3, seed=seed)
    return [one.text for one in found]


def test_what_is_sampled_belongs_to_prompt_and_seed_and_not_to_the_batch() -> None:
    together = sampled(PROMPTS, AMPLE)
    assert sampled(PROMPTS[::-1], Budget(60, 2))[::-1] == together
    assert sampled(PROMPTS[2:4], AMPLE) == together[2:4]
    assert sampled(PROMPTS, AMPLE, seed=6) != together
    twice = sampled([PROMPTS[0], PROMPTS[0]], AMPLE)
    assert twice[0] == together[0] != twice[1]


def test_tokens_are_sampled_as_often_as_they_are_probable() -> None:
    model, num = tiny_model("llama"), 4000
    found = generate(generator_of(model, Budget(1 << 20, num)), ["x"] * num, max_tokens=1, temperature=0.7, top_k=5)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([fake_tokenizer().encode("x")])).logits[0, -1]
    best = torch.topk(logits, 5)
    probable = torch.softmax(best.values / 0.7, dim=-1)
    counts = Counter(one.text for one in found)
    names = [fake_tokenizer().decode([id_]) for id_ in best.indices.tolist()]
    assert counts.keys() <= set(names)
    expected = [num * float(p) for p in probable]
    chi_square = sum((counts[name] - e) ** 2 / e for name, e in zip(names, expected, strict=True))
    assert chi_square < 18.5  # of 4 degrees of freedom: one in a thousand is above


def test_nucleus() -> None:
    found = generate(generator_of(tiny_model("llama")), PROMPTS, temperature=1.0, top_p=1e-6)
    assert [one.text for one in found] == [one.text for one in generate(generator_of(tiny_model("llama")), PROMPTS)]


def test_when_memory_runs_out_batches_get_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    expected = generate(generator_of(model), PROMPTS)
    own, sizes = model.generate, []

    def scarce(**keys: Any) -> Any:
        sizes.append(len(keys["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(**keys)

    monkeypatch.setattr(model, "generate", scarce)
    generator = generator_of(model)
    assert generate(generator, PROMPTS) == expected
    assert generator.num_halvings == sum(size > 2 for size in sizes) > 0


def test_a_prompt_that_finds_no_memory_alone_is_an_error_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    own = model.generate

    def scarce(**keys: Any) -> Any:
        if keys["input_ids"].shape[1] > 30:
            raise MemoryError
        return own(**keys)

    monkeypatch.setattr(model, "generate", scarce)
    found = dict(generator_of(model).generate(PROMPTS, Decoding(max_tokens=3)))
    assert {place for place, one in found.items() if isinstance(one, str)} == {1}
    assert "out of memory" in str(found[1])


def test_a_defect_is_not_taken_for_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")

    def broken(**_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(model, "generate", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        list(generator_of(model).generate(PROMPTS, Decoding(max_tokens=3)))


def test_what_does_not_fit_is_cut_from_the_left() -> None:
    model = tiny_model("llama")
    rules = EncodingRules(max_length=20)
    found = generate(generator_of(model, rules=rules), PROMPTS, max_tokens=8)
    assert [one.num_cut_tokens for one in found] == [max(0, len(prompt) - 12) for prompt in PROMPTS]
    assert [one.text for one in found] == [greedy(model, prompt[-12:], 8)[0] for prompt in PROMPTS]
    with pytest.raises(SteelyardError, match="20 tokens for the completion leave none for the prompt"):
        generate(generator_of(model, rules=rules), PROMPTS, max_tokens=20)


def test_what_a_model_brings_of_its_own_is_followed_and_told() -> None:
    model = tiny_model("llama")
    assert codec_of(model).inherited == {}
    before = generate(generator_of(model), PROMPTS)
    model = copy.deepcopy(model)
    model.generation_config.repetition_penalty = 3.0
    model.generation_config.do_sample, model.generation_config.temperature = True, 2.0
    assert codec_of(model).inherited == {"repetition_penalty": 3.0}
    assert generate(generator_of(model), PROMPTS) != before
    assert generate(generator_of(model), PROMPTS) == generate(generator_of(model), PROMPTS)


def test_special_tokens_are_the_tokenizers_unless_the_text_or_the_rule_has_them() -> None:
    model, tokenizer = tiny_kinds.tiny("seq2seq", "bart", vocab_size=300), tiny_kinds.bart_tokenizer()
    codec = codec_of(model, tokenizer)
    assert codec.encode(["one", "<s>one"]) == [tokenizer.encode("one"), tokenizer.encode("<s>one")[1:-1]]
    never = codec_of(model, tokenizer, EncodingRules(max_length=512, bos="never"))
    assert never.encode(["one"]) == [tokenizer.encode("one", add_special_tokens=False)]


def test_a_session_generates_and_scores_in_turn() -> None:
    session = Session(ModelSpec(source="fake", device="cpu", dtype="bfloat16"), EngineSpec())
    with session.generator() as generator:
        before = generate(generator, PROMPTS)
    encoded = [session.tokenizer.encode(prompt) for prompt in PROMPTS]
    requests = [TokenRequest(torch.tensor(ids[:-1]).numpy(), (ids[-1],)) for ids in encoded if len(ids) > 1]
    budget = Budget(256, 64)
    scorer = session.scorer(requests, budget)

    def outcomes() -> dict[int, Any]:
        packs = scorer.score(requests, plan_packs(requests, budget), set(range(len(requests))))
        return {index: outcome for pack in packs for index, outcome in pack.outcomes.items()}

    scored = outcomes()
    with session.generator() as generator:
        assert not isinstance(session.model.get_output_embeddings(), NeededRowsHead)  # which multiplies in fp32
        assert generate(generator, PROMPTS) == before
    assert outcomes() == scored


def test_a_masked_model_generates_nothing(tmp_path: Any) -> None:
    folder = tiny_kinds.write_folder(
        tmp_path / "model", tiny_kinds.tiny("masked", "bert", vocab_size=300), tiny_kinds.bert_tokenizer()
    )
    session = Session(ModelSpec(source=str(folder), device="cpu"), EngineSpec())
    with pytest.raises(ModelInputError, match="generates no text"), session.generator():
        pass
