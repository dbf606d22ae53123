"""Which architectures are scored, how, and how exactly? Writes docs/models.md.

Each architecture is tried as a tiny model with random weights, on requests that share a start, passages and questions,
some of which were cut on the left, with options of one to three tokens: packed, in one pack and in many small ones,
against plain transformers, one request at a time, in fp32; decoders also with their weights quantised on load, in each
way that runs on a CPU. Exit code 1 if one differs by more than 1e-4 or flips.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.runs.disk import write_atomically

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT / "tests"))  # the tests' models and requests

import oracle_masked  # noqa: E402
import oracle_seq2seq  # noqa: E402
from common import table, verdict  # noqa: E402
from helpers import few_shot_requests, make_request  # noqa: E402
from tiny_kinds import MASKED, SEQ2SEQ, tiny  # noqa: E402
from tiny_models import PACKED, VOCAB, plain_loglikelihoods, score, tiny_model  # noqa: E402
from tokenizer_kinds import tokenizer_of  # noqa: E402

from bench.config import EngineSpec, ModelSpec  # noqa: E402
from bench.engine.families import PACKED_MODEL_TYPES, WITH_REPLACEMENTS  # noqa: E402
from bench.engine.forward import PackedForward  # noqa: E402
from bench.engine.kinds import KINDS  # noqa: E402
from bench.engine.pack import Budget, TokenRequest  # noqa: E402
from bench.engine.scorer import Outcome, Scorer  # noqa: E402
from bench.engine.seq2seq.encode import decoder_start  # noqa: E402
from bench.errors import ModelInputError, ModelLoadError  # noqa: E402
from bench.models.gguf import ARCHITECTURES as GGUF_ARCHITECTURES  # noqa: E402
from bench.models.local import resolve_max_length  # noqa: E402
from bench.records import Loglikelihood  # noqa: E402
from bench.session import Session  # noqa: E402

_LARGEST_DIFFERENCE = 1e-4
_BUDGETS = (Budget(4000, 1000), Budget(40, 8))
_NUM_OPTIONS = 4

_NAMES = {
    "bloom": "BLOOM, BLOOMZ",
    "codegen": "CodeGen",
    "cohere": "Command R",
    "falcon": "Falcon (7B)",
    "falcon-alibi": "Falcon RW (ALiBi)",
    "falcon-new": "Falcon (40B, 180B)",
    "gemma": "Gemma 1",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3",
    "gpt2": "GPT-2",
    "gpt_bigcode": "StarCoder, SantaCoder",
    "gpt_neo": "GPT-Neo",
    "gpt_neox": "GPT-NeoX, Pythia",
    "gptj": "GPT-J",
    "granite": "Granite",
    "llama": "LLaMA 1 and 2, SmolLM 1 and 2",
    "llama-3": "LLaMA 3.x (scaled rotary embedding)",
    "mistral": "Mistral",
    "mixtral": "Mixtral",
    "mpt": "MPT",
    "olmo": "OLMo 1",
    "olmo2": "OLMo 2",
    "olmo3": "OLMo 3",
    "opt": "OPT",
    "phi": "Phi 1 and 2",
    "phi3": "Phi 3 and 4",
    "qwen2": "Qwen 1.5, 2 and 2.5",
    "qwen2_moe": "Qwen 1.5 and 2, mixtures of experts",
    "qwen3": "Qwen 3",
    "qwen3_moe": "Qwen 3, mixtures of experts",
    "smollm3": "SmolLM 3",
    "stablelm": "StableLM",
    "starcoder2": "StarCoder 2",
}
_LEARNED = {"gpt2", "gpt_neo", "opt", "gpt_bigcode"}
_ALIBI = {"bloom", "mpt", "falcon-alibi"}
_OTHERS = {"seq2seq": SEQ2SEQ, "masked": MASKED}
_OTHER_HEADER = ["model type", "attention", "largest \\|Δ\\|", "flips"]
_HEADER = [
    "architecture",
    "model type",
    "attention reached",
    "positions",
    "context*",
    "largest \\|Δ\\|",
    "flips",
    "quantised on load†",
    "GGUF‡",
]
_QUANTIZATIONS = ("bnb-8bit", "bnb-4bit", "torchao-int8", "torchao-fp8")
"""Those that run without a GPU, but for torchao-int4, for which these models' layers are too narrow."""
_GGUF_NAMES = {
    "gemma3_text": "gemma3",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}


@dataclass(frozen=True, slots=True)
class _Tried:
    """What came of one architecture: the largest difference, and questions whose best option is another one."""

    name: str
    difference: float
    num_flips: int
    num_requests: int
    attention: str = ""
    quantizations: tuple[str, ...] = ()


def requests() -> list[TokenRequest]:
    """Questions of four options each, with three levels of sharing; the last ones are cut on the left."""
    shared = few_shot_requests(VOCAB, shared=50, passage=30, own=8, num_passages=4)[:-1]
    cut = [make_request(request.inputs[17:].tolist(), request.targets) for request in shared[: 2 * _NUM_OPTIONS]]
    return [*shared, *cut]


def try_family(name: str, asked: Sequence[TokenRequest]) -> _Tried:
    """Score with one architecture, packed and plainly."""
    model = tiny_model(name)
    expected = [value for value, _ in plain_loglikelihoods(model, asked)]
    forward = PackedForward(model, "sdpa")
    difference, num_flips = 0.0, 0
    for budget in _BUDGETS:
        found = _values(score(forward, asked, budget))
        difference = max(difference, *(abs(a - b) for a, b in zip(found, expected, strict=True)))
        num_flips += sum(_best(a) != _best(b) for a, b in zip(_questions(found), _questions(expected), strict=True))
    tries = {way: try_quantised(name, way, asked, expected) for way in _QUANTIZATIONS}
    quantised = {way: apart for way, apart in tries.items() if apart is not None}
    difference = max([difference, *quantised.values()])
    return _Tried(name, difference, num_flips, len(asked), quantizations=tuple(quantised))


def try_quantised(name: str, way: str, asked: Sequence[TokenRequest], unquantised: Sequence[float]) -> float | None:
    """The largest difference between packed and plain scores of one quantised model.

    None where it cannot be quantised so: the way refuses it, or leaves all of its weights as they are.
    """
    with tempfile.TemporaryDirectory() as folder:
        tiny_model(name).save_pretrained(folder)
        tokenizer_of("gpt2").save_pretrained(folder)
        spec = ModelSpec.model_validate(
            {"source": folder, "name": name, "quantization": way, "dtype": "float32", "device": "cpu"}
        )
        try:
            model = Session(spec, EngineSpec()).model
            expected = [value for value, _ in plain_loglikelihoods(model, asked)]
        except (ModelInputError, ModelLoadError, NotImplementedError) as refusal:  # the last: of a layer's own product
            print(f"  {way}: {' '.join(str(refusal).split())[:200]}", file=sys.stderr)
            return None
        if max(abs(a - b) for a, b in zip(expected, unquantised, strict=True)) < _LARGEST_DIFFERENCE:
            return None
        found = _values(score(PackedForward(model, "sdpa"), asked, _BUDGETS[1]))
        return max(abs(a - b) for a, b in zip(found, expected, strict=True))


def _values(outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome.value if isinstance(outcome, Loglikelihood) else float("nan") for outcome in outcomes]


def try_other(kind: str, name: str) -> _Tried:
    """Score with an encoder-decoder or a masked language model, in batches and one request (or token) at a time."""
    model = tiny(kind, name)
    if kind == "seq2seq":
        asked: Sequence[Any] = oracle_seq2seq.some_requests(decoder_start(model.config))
        expected = [value for value, _ in oracle_seq2seq.one_by_one(model, asked)]
    else:
        asked = oracle_masked.some_requests()
        expected = [value for value, _ in oracle_masked.one_by_one(model, asked)]
    difference, num_flips = 0.0, 0
    for budget in _BUDGETS:
        found = [float("nan")] * len(asked)
        scorer = Scorer(KINDS[kind].build_forward(model, budget.tokens), budget, KINDS[kind].plan)
        for scored in scorer.score(asked, KINDS[kind].plan(asked, budget), set(range(len(asked)))):
            for index, outcome in scored.outcomes.items():
                found[index] = outcome.value if isinstance(outcome, Loglikelihood) else float("nan")
        difference = max(difference, *(abs(a - b) for a, b in zip(found, expected, strict=True)))
        contexts = [request.inputs[:5].tobytes() for request in asked]
        for context in dict.fromkeys(contexts):
            own = [index for index, other in enumerate(contexts) if other == context]
            num_flips += _best([found[i] for i in own]) != _best([expected[i] for i in own])
    attention = str(model.config._attn_implementation)
    return _Tried(name, difference, num_flips, len(asked), attention)


def _questions(values: Sequence[float]) -> Iterator[Sequence[float]]:
    return (values[start : start + _NUM_OPTIONS] for start in range(0, len(values), _NUM_OPTIONS))


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _row(tried: _Tried) -> list[object]:
    from transformers import CONFIG_MAPPING

    model_type = tried.name.partition("-")[0]
    attention = "a class of its own" if model_type in WITH_REPLACEMENTS else "by name"
    positions = "learned" if tried.name in _LEARNED else "ALiBi" if tried.name in _ALIBI else "rotary"
    context = resolve_max_length(CONFIG_MAPPING[model_type](), None)
    return [
        _NAMES[tried.name],
        f"`{model_type}`",
        attention,
        positions,
        f"{context:,}",
        f"{tried.difference:.0e}",
        tried.num_flips,
        ", ".join(tried.quantizations) or "no",
        "yes" if _GGUF_NAMES.get(model_type, model_type) in GGUF_ARCHITECTURES else "no",
    ]


def study(options: argparse.Namespace) -> int:
    """Try every architecture and write the page; returns the exit code."""
    asked = requests()
    tried = []
    for name in sorted(PACKED, key=lambda name: _NAMES[name].lower()):
        print(name, file=sys.stderr)
        tried.append(try_family(name, asked))
    assert {one.name.partition("-")[0] for one in tried} == PACKED_MODEL_TYPES
    others = {kind: [try_other(kind, name) for name in sorted(names)] for kind, names in _OTHERS.items()}
    everything = [*tried, *others["seq2seq"], *others["masked"]]
    goals = {
        f"largest |Δ| ≤ {_LARGEST_DIFFERENCE:g}": max(t.difference for t in everything) <= _LARGEST_DIFFERENCE,
        "no flip": not any(one.num_flips for one in everything),
    }
    write_atomically(options.page, "\n".join([*_render(tried), "", *_render_others(others), ""]).encode())
    print("\n".join(verdict(goals)))
    return 0 if all(goals.values()) else 1


def _render(tried: Sequence[_Tried]) -> list[str]:
    largest = max(one.difference for one in tried)
    return [
        "# Models",
        "",
        "Written by `python studies/models.py` from what it measured; do not edit by hand.",
        "",
        "## Decoders, scored packed",
        "",
        "Each architecture was built small, with random weights and every feature of its that touches attention",
        f"(windows, soft caps, biases, experts), and given {tried[0].num_requests} requests: a shared start, passages",
        "shared by questions, options of one to three tokens, some questions cut on the left. *Largest |Δ|* is the",
        "largest absolute difference of a loglikelihood, in fp32, between packed scoring (in one pack, and in many",
        f"small ones) and plain transformers, one request at a time; {largest:.0e} over all. A *flip* is a question",
        "with another best option.",
        "",
        *table(_HEADER, [_row(one) for one in tried]),
        "",
        "*By name*: through transformers' attention interface. *A class of its own*: see `bench/engine/families`.",
        "",
        "\\* What transformers' configuration of the architecture says if a checkpoint's own says nothing; where",
        "neither does, 2,048 as in lm-evaluation-harness. Longer prompts lose whole shots first; tables count them.",
        "",
        "† Loaded so, and scored packed, within the same largest |Δ| of plain transformers with the same quantised",
        "weights; only the ways that run without a GPU were tried. `bnb-8bit`, `bnb-4bit`, … are values of a model's",
        "`quantization` in a plan. A way that leaves all weights of an architecture as they are is not listed.",
        "`torchao-int4` takes layers of 128 inputs and more; `tests/test_quantize.py` tries it with LLaMA's.",
        "Checkpoints that are stored in GPTQ or AWQ are tried by `tests/test_gptq.py`, with most of these.",
        "",
        "‡ transformers reads its GGUF files. Of real files, SmolLM2's has been run.",
        "",
        "Layers whose sliding window is shorter than a prompt, or whose scores are soft-capped, take an attention",
        "backend that can do that; see [architecture.md](architecture.md). Any other causal model of transformers is",
        "scored with a shared prefix cache and padding, which is slower and as exact; a model for which it is not",
        "exact is refused.",
    ]


def _render_others(others: Mapping[str, Sequence[_Tried]]) -> list[str]:
    seq2seq, masked = (
        table(_OTHER_HEADER, [[f"`{t.name}`", t.attention, f"{t.difference:.0e}", t.num_flips] for t in others[kind]])
        for kind in _OTHERS
    )
    return [
        "## Encoder-decoders",
        "",
        f"Likewise, {others['seq2seq'][0].num_requests} requests each: contexts of several lengths, options of one to",
        "five tokens of which some begin alike; in padded batches that share a context's encoder, against plain",
        "transformers, one request at a time, the decoder's input made from labels. Attention is transformers' own.",
        "A name with something after a hyphen may be a variant.",
        "",
        *seq2seq,
        "",
        "## Masked language models",
        "",
        f"Likewise, {others['masked'][0].num_requests} requests each, with words of several tokens: the",
        "pseudo-log-likelihoods in padded batches, against plain transformers, one token at a time.",
        "",
        *masked,
    ]


def main() -> int:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--page", type=Path, default=_ROOT / "docs" / "models.md", metavar="FILE", help="what to write")
    return study(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
