"""How near to one GPU's limit is MMLU scored? The real shapes of GPT-J-6B, BLOOM-7B1 and LLaMA-3.1-8B, random weights.

All 14,042 questions, 5-shot, bf16, each family through a whole run but for the loading of weights, which are made on
the device. Goals, judged on a GPU and on all questions: 70 % of the rate of matrix products measured in the same
process, and 10 times lm-evaluation-harness, which scores a slice with the same model at its best batch size; its time
for all questions is extrapolated by tokens. Without a GPU, tiny shapes and few questions: that all of it works.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from common import (
    NUM_FEWSHOT,
    SUBJECTS,
    arguments,
    mmlu_folder,
    model_folder,
    positive_int,
    publish,
    run_study,
    table,
    verdict,
)
from versus_lm_eval import count_lm_eval_tokens

from bench.config import EngineSpec, ModelSpec, TaskSpec
from bench.engine.allocator import keep_freed_memory
from bench.engine.encode import EncodedSample, Encoder, EncodingRules
from bench.engine.scorer import is_out_of_memory
from bench.errors import InputError, ScoringError, one_of
from bench.hf import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from bench.local_model import LocalModel
from bench.records import PromptedSample
from bench.runner import Silence, run_identity
from bench.runs.folder import RunFolder
from bench.scoring import score_samples
from bench.session import Session
from bench.tasks.job import Job
from bench.tasks.prepare import prepare_job
from bench.telemetry.energy import total_energy_j
from bench.telemetry.machine import num_threads, reset_peak_rss

_SHARE_GOAL = 0.70
_RATIO_GOAL = 10.0
_SEED = 0

# As their config.json files have them; what is absent is transformers' default and the same there.
SHAPES: dict[str, dict[str, Any]] = {
    "gpt-j-6b": {
        "model_type": "gptj",
        "vocab_size": 50400,
        "n_positions": 2048,
        "n_embd": 4096,
        "n_layer": 28,
        "n_head": 16,
        "rotary_dim": 64,
        "tie_word_embeddings": False,
    },
    "bloom-7b1": {
        "model_type": "bloom",
        "vocab_size": 250880,
        "hidden_size": 4096,
        "n_layer": 30,
        "n_head": 32,
        "seq_length": 2048,
    },
    "llama-3.1-8b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": False,
    },
}
_TINY: dict[str, dict[str, Any]] = {
    "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "llama": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
_TINY_LIMIT = 104  # questions: all of one subject and the first of another


class RandomSession(Session):
    """A model of random weights, made on its device; everything else is a real model's."""

    @cached_property
    def model(self) -> Any:
        """The transformers model."""
        began = time.perf_counter()
        reset_peak_rss()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            keep_freed_memory()
            torch.set_num_threads(num_threads())
        model = build_random(self.config, self.device, self.dtype)
        _synchronize(self.device)
        self.timing.load_s += time.perf_counter() - began
        return model


@dataclass(frozen=True, slots=True)
class TheirRun:
    """What lm-eval took for a slice, with one batch size.

    Attributes:
        wall_s: seconds of its `loglikelihood`, encoding included; None where memory ran out.
        energy_j: joules of the GPU meanwhile.
    """

    wall_s: float | None
    energy_j: float | None


def build_random(config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Build a model on `device` with normal weights of the configuration's spread (0.02 in all shapes here)."""
    torch.manual_seed(_SEED)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval().requires_grad_(requires_grad=False)


def write_model_folder(name: str, tokenizer: Any, folder: Path, *, is_tiny: bool) -> Path:
    """Write what a session wants of a model before its weights: configuration, tokenizer, a file of no weights."""
    from safetensors.torch import save_file

    shape = dict(SHAPES[name])
    model_type = shape.pop("model_type")
    if is_tiny:
        shape |= {"vocab_size": len(tokenizer), **_TINY[model_type]}
    if len(tokenizer) > shape["vocab_size"]:
        raise InputError(f"--model: its tokenizer has {len(tokenizer)} tokens, {name} has {shape['vocab_size']}")
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    AutoConfig.for_model(model_type, **shape, **ids, pad_token_id=None).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file({}, folder / "model.safetensors")
    return folder


def study(options: argparse.Namespace) -> int:
    """Measure every family; returns the exit code."""
    is_tiny = not torch.cuda.is_available()
    if is_tiny:
        options.subjects = options.subjects or SUBJECTS
        options.limit = options.limit or _TINY_LIMIT
    has_lm_eval = importlib.util.find_spec("lm_eval") is not None
    spec = {"task": "mmlu", "num_fewshot": NUM_FEWSHOT, "data_dir": str(mmlu_folder(options.mmlu))}
    job = prepare_job(TaskSpec.model_validate({**spec, "subjects": options.subjects, "limit": options.limit}))
    tokenizer = AutoTokenizer.from_pretrained(model_folder(options.model))
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="steelyard-study-") as scratch:
        for name in options.families:
            print(f"{name} ...", flush=True, file=sys.stderr)
            folder = write_model_folder(name, tokenizer, Path(scratch) / name, is_tiny=is_tiny)
            session = _open(folder, name, is_tiny=is_tiny)
            theirs = _measure_lm_eval(session, job, options) if has_lm_eval else None
            ours = _measure(session, job, Path(scratch) / "results")
            found[name] = {**ours, "lm_eval": theirs, "ratio": theirs and theirs["all_s"] / ours["seconds"]}
    is_judged = not is_tiny and job.spec.limit is None and job.spec.subjects is None
    goals = _judge(found) if is_judged else {}
    result = {"is_tiny": is_tiny, "num_questions": len(job.samples), "families": found, "goals": goals}
    publish(options, "gpu-small" if is_tiny else "gpu", result, _render(result, options))
    return 0 if all(goals.values()) else 1


def _open(folder: Path, name: str, *, is_tiny: bool) -> RandomSession:
    spec = ModelSpec(source=str(folder), name=name, dtype="float32" if is_tiny else "bfloat16")
    session = RandomSession(spec, EngineSpec())
    session.prepare()
    return session


# --- Steelyard ----------------------------------------------------------------------------------------------------


def _measure(session: RandomSession, job: Job, out: Path) -> dict[str, Any]:
    """Run a family as a run does, run folder and all, from prompts to metrics; its model is in memory before."""
    session.load()
    header = {"model": LocalModel(session).describe(), "task": job.describe(), "lane": "likelihood"}
    header |= {"config": {}, "started_at": ""}
    energy_j, began = _energy_j(session.device), time.perf_counter()
    with RunFolder.open(out, session.spec.name, run_identity(LocalModel(session), job), header) as folder:
        score_samples(session, job, folder, Silence())
        info = folder.info
        if folder.failed:
            raise ScoringError(f"{session.spec.name}: {next(iter(folder.failed.values())).error}")
    seconds = time.perf_counter() - began
    used_j = _difference(_energy_j(session.device), energy_j)
    session.close()
    return {
        "num_parameters": session.num_parameters,
        "seconds": seconds,
        "energy_j": used_j,
        **{key: info[key] for key in ("tokens", "packs", "timing", "floor", "engine", "peak_memory_bytes", "notes")},
    }


# --- lm-evaluation-harness ----------------------------------------------------------------------------------------


def _measure_lm_eval(session: RandomSession, job: Job, options: argparse.Namespace) -> dict[str, Any]:
    """Let lm-eval score a slice with each batch size; extrapolate the fastest by the tokens it forwards."""
    some = random.Random(_SEED).sample(job.samples, min(options.slice, len(job.samples)))
    encoder = Encoder(session.tokenizer, EncodingRules(session.max_length, session.engine.bos, "cut_left"))
    tokens_all = _forwarded(encoder.encode(job.samples))
    tokens_slice = _forwarded(encoder.encode(some))
    runs = {size: _run_lm_eval(session, some, size) for size in options.batch_sizes}
    took = {size: run.wall_s for size, run in runs.items() if run.wall_s is not None}
    if not took:
        raise InputError(f"--batch-sizes: lm-eval ran out of memory with each of them for {session.spec.name}")
    best = min(took, key=lambda size: took[size])
    factor = tokens_all / tokens_slice
    return {
        "slice_s": {str(size): run.wall_s for size, run in runs.items()},
        "batch_size": best,
        "num_questions": len(some),
        "tokens_slice": tokens_slice,
        "tokens_all": tokens_all,
        "all_s": took[best] * factor,
        "all_energy_j": None if (used := runs[best].energy_j) is None else used * factor,
    }


def _forwarded(samples: Sequence[EncodedSample]) -> int:
    return count_lm_eval_tokens(samples, 1).forwarded


def _run_lm_eval(session: RandomSession, samples: Sequence[PromptedSample], batch_size: int) -> TheirRun:
    """Give lm-eval's HF model a model object and all requests at once: its own encoding, sorting and batching.

    What it does before and after, reading tasks and computing metrics, is left out.
    """
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    requests = [
        Instance("loglikelihood", {}, (request.prompt.text, request.continuation), number)
        for sample in samples
        for number, request in enumerate(sample.requests)
    ]
    model = build_random(session.config, session.device, session.dtype)
    tokenizer = AutoTokenizer.from_pretrained(session.files.folder)  # lm-eval sets a padding token in it
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, max_length=session.max_length, batch_size=batch_size)
    _synchronize(session.device)
    energy_j, began = _energy_j(session.device), time.perf_counter()
    wall_s: float | None = None
    try:
        theirs.loglikelihood(requests, disable_tqdm=True)
        _synchronize(session.device)
        wall_s = time.perf_counter() - began
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    used_j = _difference(_energy_j(session.device), energy_j)
    del model, theirs
    if session.device.type == "cuda":
        torch.cuda.empty_cache()
    return TheirRun(wall_s, used_j)


# --- measuring ----------------------------------------------------------------------------------------------------


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _energy_j(device: torch.device) -> float | None:
    """What the device's counter says; None on a CPU."""
    return total_energy_j(str(torch.cuda.get_device_properties(device).uuid)) if device.type == "cuda" else None


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


# --- result -------------------------------------------------------------------------------------------------------


def _judge(found: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    goals = {}
    for name, one in found.items():
        goals[f"{name}: at least {_SHARE_GOAL:.0%} of the matrix-product rate"] = one["floor"]["share"] >= _SHARE_GOAL
        if one["ratio"] is not None:
            goals[f"{name}: at least {_RATIO_GOAL:g} times lm-eval"] = one["ratio"] >= _RATIO_GOAL
    return goals


def _render(result: Mapping[str, Any], options: argparse.Namespace) -> list[str]:
    where = "tiny shapes on a CPU, fp32: that it works, no figure to quote" if result["is_tiny"] else "bf16"
    lines = [
        "# One GPU at its limit" if not result["is_tiny"] else "# One GPU at its limit: the small mode without a GPU",
        "",
        f"Random weights in the shapes of real models, {where}; {result['num_questions']:,} questions of MMLU, "
        f"{NUM_FEWSHOT}-shot, letters scored; tokenizer of {Path(options.model).name}.",
        "",
    ]
    header = ["model", "parameters", "distinct tokens", "TFLOP", "scoring s", "in all s", "share of the matmul rate"]
    rows = [_our_row(name, one) for name, one in result["families"].items()]
    lines += table([*header, "TFLOP/s measured", "peak GiB", "kJ"], rows)
    their_rows = [_their_row(name, one) for name, one in result["families"].items() if one["lm_eval"]]
    header = [
        "model",
        "its best batch size",
        "questions timed",
        "their seconds",
        "all questions*",
        "kJ*",
        "ours faster",
    ]
    if their_rows:
        lines += ["", "lm-evaluation-harness 0.4.13, `--model hf`:", "", *table(header, their_rows), ""]
        lines += ["\\* extrapolated from the slice by the tokens that it forwards, padding left out.", ""]
    else:
        lines += ["", "lm-evaluation-harness is not installed here and was not measured.", ""]
    notes = [f"- {name}: {note}" for name, one in result["families"].items() for note in one["notes"]]
    return [*lines, *notes, *verdict(result["goals"])]


def _our_row(name: str, one: Mapping[str, Any]) -> list[object]:
    return [
        name,
        f"{one['num_parameters']:,}",
        f"{one['tokens']['distinct']:,}",
        f"{one['floor']['flops'] / 1e12:,.1f}",
        f"{one['timing']['score_s']:.1f}",
        f"{one['seconds']:.1f}",
        f"{one['floor']['share']:.0%}",
        f"{one['floor']['matmul_flops_per_s'] / 1e12:.3g}",
        f"{one['peak_memory_bytes'] / 2**30:.1f}",
        _kilojoules(one["energy_j"]),
    ]


def _their_row(name: str, one: Mapping[str, Any]) -> list[object]:
    theirs = one["lm_eval"]
    return [
        name,
        theirs["batch_size"],
        f"{theirs['num_questions']:,}",
        f"{theirs['slice_s'][str(theirs['batch_size'])]:.1f}",
        f"{theirs['all_s']:.0f} s",
        _kilojoules(theirs["all_energy_j"]),
        f"**{one['ratio']:.1f} times**",
    ]


def _kilojoules(joules: float | None) -> str:
    return "not known" if joules is None else f"{joules / 1000:.1f}"


def _families(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    for name in names:
        if name not in SHAPES:
            raise argparse.ArgumentTypeError(f"{name!r} is not a family; {one_of(name, SHAPES)}")
    return names


def main() -> int:
    """Run the study from the command line."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    parser = arguments((__doc__ or "").splitlines()[0])
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--families", type=_families, default=",".join(SHAPES), metavar="A,B")
    parser.add_argument("--subjects", type=lambda text: tuple(text.split(",")), metavar="A,B", help="only these")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="first N questions only")
    parser.add_argument("--slice", type=positive_int, default=256, metavar="N", help="random questions for lm-eval")
    parser.add_argument(
        "--batch-sizes",
        type=lambda text: tuple(positive_int(one) for one in text.split(",")),
        default="8,16,32,64" if has_gpu else "8",
        metavar="A,B",
        help="lm-eval's, of which the best is taken",
    )
    return run_study(study, parser)


if __name__ == "__main__":
    sys.exit(main())
