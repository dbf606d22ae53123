"""Completions by plain batches, as the engine makes them, and by transformers' continuous batching.

Speed: the same prompts of mixed lengths in both ways, in turn, by the clock and in processor seconds: once with
completions that all go to the limit, which fills plain batches best, and once as a chat, where each ends when the model
ends it. Equality: tiny models of every architecture, greedy, against `generate` of one prompt at a time.
No stop strings: continuous batching has none.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT / "tests"))  # the tests' models

import torch  # noqa: E402
from common import arguments, positive_int, publish, run_study, table, verdict  # noqa: E402
from tiny_models import PACKED, VOCAB, tiny_model  # noqa: E402

from bench.completer import GenerationSettings  # noqa: E402
from bench.config import EngineSpec, ModelSpec, TaskSpec  # noqa: E402
from bench.engine.codec import TextGenerator  # noqa: E402
from bench.engine.continuous import ContinuousGenerator  # noqa: E402
from bench.engine.generate import Generator  # noqa: E402
from bench.engine.pack import Budget  # noqa: E402
from bench.hf import GenerationConfig  # noqa: E402
from bench.local_model import LocalModel, open_session  # noqa: E402
from bench.records import Completion, PromptedSample  # noqa: E402
from bench.session import Session  # noqa: E402
from bench.tasks.prepare import prepare_job  # noqa: E402
from bench.telemetry.machine import num_threads  # noqa: E402

_BUDGET = Budget(16384, 64)  # what a session gives a batch on a CPU
_BLOCK = 32  # tokens of a page of the cache
_BATCH_TOKENS = 256  # that a step of continuous batching reads at most
_LENGTHS = (5, 17, 3, 40, 29, 8)  # of the prompts of tiny models
_NUM_WRITTEN = 12


def continuous(
    model: Any, prompts: Sequence[Sequence[int]], num_tokens: int, end_ids: Sequence[int]
) -> list[list[int]] | str:
    """Greedy completions by continuous batching; or what it says where it fails."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    num_blocks = sum(-(-(len(ids) + num_tokens) // _BLOCK) for ids in prompts)
    made = model.generate_batch(
        [list(ids) for ids in prompts],
        generation_config=GenerationConfig(
            max_new_tokens=num_tokens, do_sample=False, eos_token_id=list(end_ids), pad_token_id=0
        ),
        # without a number of pages it would take nine tenths of the machine's memory
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=num_blocks, block_size=_BLOCK, max_batch_tokens=_BATCH_TOKENS
        ),
    )
    errors = [one.error for one in made.values() if one.error]
    return errors[0] if errors else [list(one.generated_tokens) for one in made.values()]


@torch.inference_mode()
def alone(model: Any, prompts: Sequence[Sequence[int]], num_tokens: int, end_id: int) -> list[list[int]]:
    """The same by `generate`, one prompt at a time."""
    made = []
    for ids in prompts:
        inputs = torch.tensor([list(ids)])
        mask = torch.ones_like(inputs)
        output = model.generate(
            inputs,
            attention_mask=mask,
            max_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=end_id,
            pad_token_id=0,
        )
        made.append(output[0, len(ids) :].tolist())
    return made


def architectures() -> Iterator[tuple[str, str]]:
    """Each architecture, and what continuous batching makes of it."""
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in _LENGTHS]
    for name in PACKED:
        model = tiny_model(name)
        if getattr(model.config, "attn_logit_softcapping", None) is not None:
            model.set_attn_implementation("eager")  # as it is loaded: transformers' sdpa leaves soft caps out
        expected = alone(model, prompts, _NUM_WRITTEN, 2)
        found = continuous(model, prompts, _NUM_WRITTEN, [2])
        if isinstance(found, str):
            yield name, f"fails: {' '.join(found.split())[:60]}"
            continue
        num_equal = sum(one == other for one, other in zip(found, expected, strict=True))
        yield name, "equal" if num_equal == len(prompts) else f"{num_equal} of {len(prompts)} equal, and no error"


def texts(num: int) -> list[str]:
    """Prompts of `pocket` with no shot to five, in turn: what a small model goes on and on after."""
    by_shots = [_prompts(num, num_fewshot=shots) for shots in range(6)]
    return [by_shots[place % 6][place].prompt.text for place in range(num)]


def chats(session: Session, num: int) -> list[str]:
    """Prompts of `pocket` by the model's chat template."""
    job = prepare_job(_task(num, num_fewshot=0, chat_template=True))
    return [sample.prompt.text for sample in LocalModel(session).put(job).samples]


def _prompts(num: int, **more: Any) -> Sequence[PromptedSample]:
    return prepare_job(_task(num, **more)).samples


def _task(num: int, **more: Any) -> TaskSpec:
    return TaskSpec.model_validate({"task": "pocket", "scoring": "written", "limit": num, **more})


def texts_of(generator: TextGenerator, prompts: Sequence[str], num_tokens: int) -> list[str]:
    """What is written after each prompt, or why nothing is."""
    made = dict(generator.generate(prompts, GenerationSettings(num_tokens)))
    return [one.text if isinstance(one, Completion) else one for one in (made[place] for place in range(len(prompts)))]


@dataclass
class Timed:
    """A set of prompts in both ways: seconds by the clock and of processors, of each repeat."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"batched": [], "continuous": []})
    cpu_s: dict[str, list[float]] = field(default_factory=lambda: {"batched": [], "continuous": []})
    num_equal: int = 0

    def time(self, way: str, action: Callable[[], Any]) -> Any:
        """Run `action`, and keep what it took."""
        began, began_cpu = time.perf_counter(), time.process_time()
        made = action()
        self.cpu_s[way].append(time.process_time() - began_cpu)
        self.seconds[way].append(time.perf_counter() - began)
        return made

    @property
    def ratio(self) -> float:
        """Processor seconds of continuous batching, in those of plain batches."""
        return min(self.cpu_s["continuous"]) / min(self.cpu_s["batched"])


def in_both_ways(session: Session, prompts: Sequence[str], num_tokens: int, repeats: int) -> Timed:
    """Complete prompts by plain batches and by continuous batching, in turn."""
    timed = Timed()
    with session.generator() as plain:
        assert isinstance(plain, Generator)
        generators: dict[str, TextGenerator] = {"batched": plain}
        generators["continuous"] = other = ContinuousGenerator(session.model, plain, _BUDGET, session.dtype_name)
        for _ in other.generate(prompts[:1], GenerationSettings(1)):  # which is checked first, once
            pass
        for _ in range(repeats):
            made = {
                way: timed.time(way, partial(texts_of, generator, prompts, num_tokens))
                for way, generator in generators.items()
            }
    timed.num_equal = sum(map(str.__eq__, made["batched"], made["continuous"]))
    return timed


def study(options: argparse.Namespace) -> int:
    """Time both ways in turn, compare all architectures, publish."""
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
    session = open_session(ModelSpec(source=options.model, dtype="float32", device="cpu"), EngineSpec())
    session.load()
    torch.set_num_threads(num_threads())
    sets = {"all to the limit": texts(options.prompts), "as the model ends them": chats(session, options.prompts)}
    timed = {name: in_both_ways(session, prompts, options.tokens, options.repeats) for name, prompts in sets.items()}
    found = dict(architectures())
    unequal = [name for name, what in found.items() if what != "equal"]
    goals = {
        "the completions are the same in both ways": all(one.num_equal == options.prompts for one in timed.values())
    }
    lines = [
        f"Model {options.model}, float32, on a CPU, threads: {torch.get_num_threads()}. {options.prompts} prompts, "
        f"at most {options.tokens} tokens written; the fastest of {options.repeats}.",
        "",
        *table(
            ["completions", "plain batches, s (CPU s)", "continuous, s (CPU s)", "CPU s, ratio", "equal"],
            [
                [
                    name,
                    *(f"{min(one.seconds[way]):.1f} ({min(one.cpu_s[way]):.1f})" for way in one.seconds),
                    f"{one.ratio:.2f}",
                    f"{one.num_equal} of {options.prompts}",
                ]
                for name, one in timed.items()
            ],
        ),
        "",
        f"Of {len(found)} architectures it equals `generate` of one prompt in {len(found) - len(unequal)}; not in:",
        "",
        *table(["architecture", "continuous batching"], [[name, found[name]] for name in unequal]),
        "",
        *verdict(goals),
    ]
    result = {"sets": {name: asdict(one) for name, one in timed.items()}, "architectures": found}
    publish(options, "generation", result, lines)
    return 0 if all(goals.values()) else 1


if __name__ == "__main__":
    parser = arguments("plain batches beside transformers' continuous batching")
    parser.add_argument("--prompts", type=positive_int, default=24, metavar="N", help="to complete")
    parser.add_argument("--tokens", type=positive_int, default=24, metavar="N", help="of a completion at most")
    parser.add_argument("--repeats", type=positive_int, default=2, metavar="N", help="of each way")
    sys.exit(run_study(study, parser))
