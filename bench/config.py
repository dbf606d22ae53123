"""The run plan: which models on which tasks, and how (one YAML file, `configs/`); `bench.plan` loads it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from bench.api.presets import preset_names, split_source
from bench.api.spec import ApiSpec
from bench.errors import TaskError, one_of
from bench.schema import AutoInt, FilePath, Many, StrictModel
from bench.speed.spec import SpeedSpec
from bench.tasks.task import find_task, load_task
from bench.vllm.spec import VllmSpec

LM_EVAL = "lm_eval:"
"""What the names of lm-evaluation-harness's tasks begin with in a plan."""

_LM_EVAL_SCORING = "lm_eval"
_OF_LM_EVAL = {"task", "scoring", "num_fewshot", "limit", "seed", "include_path", "skip_if_missing"}


class AdapterSpec(StrictModel):
    """A LoRA adapter; `owner/name` is short for `{source: owner/name}`.

    Attributes:
        source: a hub id, or a local folder.
        revision: the hub's commit or tag.
    """

    source: Annotated[str, Field(min_length=1)]
    revision: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, data: Any) -> Any:
        return {"source": data} if isinstance(data, str) else data


class ModelSpec(StrictModel):
    """One model of a plan.

    Attributes:
        source: `embedded`, `fake`, a hub id, a local folder, a local .gguf file, or one on the hub
            (owner/name/file.gguf); or `provider:model` of one behind an API, such as openai:gpt-4o.
        name: label in tables; by default the last part of `source`, and of the adapter's.
        kind: how its likelihoods are had; `auto`: as its configuration says.
        revision: the hub's commit or tag.
        quantization: what linear layers are turned into when they are loaded; checkpoints that are quantised
            already need nothing said.
        adapter: a LoRA adapter to merge into the weights.
        allow_pickle: load weights stored as pickles, which run code when read.
        trust_remote_code: run the model repository's own code.
        parallel: for a model too large for one GPU: `layers`: its layers over all visible GPUs, in one process;
            `tensor`: a part of every layer on each, in as many processes.
        backend: what runs it: transformers, with this project's engine for likelihoods; or vLLM, which has to be
            installed, and rates options of one token only.
        vllm: for the backend vllm: how it runs the model.
        api: for a model behind an API: how it is asked.
    """

    source: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)] = ""
    kind: Literal["auto", "causal", "seq2seq", "masked"] = "auto"
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "bnb-8bit", "bnb-4bit", "torchao-int8", "torchao-int4", "torchao-fp8"] = "none"
    adapter: AdapterSpec | None = None
    device: str = "auto"
    allow_pickle: bool = False
    trust_remote_code: bool = False
    parallel: Literal["none", "layers", "tensor"] = "none"
    backend: Literal["transformers", "vllm"] = "transformers"
    vllm: VllmSpec = VllmSpec()
    api: ApiSpec = ApiSpec()

    @model_validator(mode="before")
    @classmethod
    def _name(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("source"), str):
            adapter = data.get("adapter")
            adapter = adapter.get("source") if isinstance(adapter, dict) else adapter
            provider_and_model = split_source(data["source"])
            source = provider_and_model[1] if provider_and_model else data["source"]
            sources = [source for source in (source, adapter) if isinstance(source, str)]
            return {**data, "name": "+".join(source.rstrip("/").split("/")[-1] for source in sources)}
        return data

    @field_validator("source")
    @classmethod
    def _is_known(cls, source: str) -> str:
        found = split_source(source)
        if found and found[0] not in (names := preset_names()):
            raise ValueError(f"{found[0]!r} is no provider; {one_of(found[0], names)}")
        return source

    @model_validator(mode="after")
    def _fits_source(self) -> ModelSpec:
        """Refuse what nobody would read."""
        asked = {
            name for name in type(self).model_fields if getattr(self, name) != type(self).model_fields[name].default
        }
        if split_source(self.source) is not None:
            where, unread = "a model behind an API", asked - {"source", "name", "api"}
        elif self.backend == "vllm":
            where, unread = "a model that vLLM runs", asked & {"api", "quantization", "adapter", "device", "parallel"}
        else:
            where, unread = "a model on this machine", asked & {"api", "vllm"}
        if unread:
            raise ValueError(f"{min(unread)} means nothing for {where} ({self.source})")
        return self

    @field_validator("device")
    @classmethod
    def _is_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError(f"{device!r} is not a device (allowed: auto, cpu, cuda, cuda:0, cuda:1, ...)")
        return device


class Shots(StrictModel):
    """Which shots stand before a question; `first` is short for `{}`.

    Attributes:
        seed: random ones, the same for all questions of a subject; another seed draws others.
        ids: these, in this order.
    """

    seed: Annotated[int, Field(ge=0)] | None = None
    ids: Many[str] = ()

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, data: Any) -> Any:
        return {} if data == "first" else data

    @model_validator(mode="after")
    def _check(self) -> Shots:
        if self.seed is not None and self.ids:
            raise ValueError("has both `seed` and `ids`; shots are drawn or named")
        return self


class TaskSpec(StrictModel):
    """One task of a plan; `pocket` is short for `{task: pocket}`.

    Attributes:
        task: name of one of the project's tasks, or path of a task file; or `lm_eval:` and the name of a task, group or
            tag of lm-evaluation-harness's.
        scoring: one of the task's forms; by default the task file's.
        num_fewshot: by default the form's, or the task file's; None: as lm-evaluation-harness's own task says.
        shots: which ones: `first`, `{seed: 1}` or `{ids: [...]}`.
        labels: what the options are called, instead of A, B, ...
        system_prompt: stands before the description; the system's turn in a conversation.
        chat_template: put prompts as conversations, by the model's chat template.
        multi_turn: each shot is a turn of the user's and one of the assistant's; without it, all is one question.
        subjects: only these; None: all.
        limit: the first n samples only, which marks the run partial.
        allow_code_execution: run the programs that a model writes, where the task's form does so (HumanEval). They run
            as you, in a process of their own with limits, which is no sandbox.
        seed: of completions that are sampled (a temperature above 0).
        data_dir: the folder of the rows, instead of the task's own sources; `${NAME}` is an environment variable.
        include_path: a folder of further task files for lm-evaluation-harness.
        skip_if_missing: rows that are not at hand are reported in one line and skipped.
    """

    task: Annotated[str, Field(min_length=1)]
    scoring: str
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    shots: Shots = Shots()
    labels: Annotated[Many[Annotated[str, Field(min_length=1)]], Field(min_length=2)] | None = None
    system_prompt: Annotated[str, Field(min_length=1)] | None = None
    chat_template: bool = False
    multi_turn: bool = True
    subjects: Annotated[Many[str], Field(min_length=1)] | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    allow_code_execution: bool = False
    data_dir: str | None = None
    include_path: str | None = None
    skip_if_missing: bool = False

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any) -> Any:
        """Fill in what the task file decides; a mistake in that file is a `TaskError` and passes through."""
        data = spelled_out(data)
        if not isinstance(data, dict) or not isinstance(data.get("task"), str):
            return data
        if data["task"].startswith(LM_EVAL):
            return {"scoring": _LM_EVAL_SCORING, **data}
        try:
            find_task(data["task"])
        except TaskError:  # `_is_known` says so, at the key itself
            return {"scoring": "", "num_fewshot": 0, **data}
        task = load_task(data["task"])
        scoring = data.get("scoring", task.scoring)
        num_fewshot = task.num_fewshot_of(scoring) if isinstance(scoring, str) else 0
        return {"scoring": scoring, "num_fewshot": num_fewshot, **data}

    @field_validator("task")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name.startswith(LM_EVAL):
            if importlib.util.find_spec("lm_eval") is None:
                raise ValueError(f"{name!r} needs a package that is not installed: pip install 'steelyard[lm-eval]'")
            return name
        try:
            find_task(name)
        except TaskError as problem:
            raise ValueError(str(problem)) from None
        return name

    @field_validator("labels")
    @classmethod
    def _are_different(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels and len(set(labels)) < len(labels):
            raise ValueError(f"two options would have the same label: {', '.join(labels)}")
        return labels

    @field_validator("scoring")
    @classmethod
    def _is_form(cls, scoring: str, info: ValidationInfo) -> str:
        if str(info.data.get("task", "")).startswith(LM_EVAL):
            if scoring != _LM_EVAL_SCORING:
                raise ValueError(f"{scoring!r}: a task of lm-evaluation-harness's has one form, {_LM_EVAL_SCORING}")
        elif "task" in info.data and scoring not in (forms := load_task(info.data["task"]).forms):
            raise ValueError(f"{scoring!r} is not a form of task {info.data['task']}; {one_of(scoring, forms)}")
        return scoring

    @model_validator(mode="after")
    def _fits_task(self) -> TaskSpec:
        """Refuse what nobody would read."""
        fields = type(self).model_fields
        asked = {name for name in fields if getattr(self, name) != fields[name].default}
        is_ours = self.lm_eval_name is None
        if is_ours and self.num_fewshot is None:
            raise ValueError("num_fewshot must be a whole number")
        unread = asked & {"include_path"} if is_ours else asked - _OF_LM_EVAL
        if unread:
            whose = "one of our tasks" if is_ours else "a task of lm-evaluation-harness's"
            raise ValueError(f"{min(unread)} means nothing for {whose} ({self.task})")
        return self

    @property
    def lm_eval_name(self) -> str | None:
        """What lm-evaluation-harness calls the task; None for one of ours."""
        return self.task.removeprefix(LM_EVAL) if self.task.startswith(LM_EVAL) else None


class EngineSpec(StrictModel):
    """How requests are scored.

    Attributes:
        max_batch_tokens: tokens of a pack.
        bos: `tokenizer`: as the tokenizer does by default (lm-evaluation-harness since 0.4.9.2); `never`: as it was
            up to 0.4.9.1.
        overlong: what gives way in a prompt longer than `max_length`: whole shots first, or the left end.
        max_length: tokens of a sequence; `auto`: what the model says.
        attention: the backend; `auto`: sdpa on a CPU; varlen on CUDA in half precision, with flex for layers with a
            sliding window or a soft cap; reference on CUDA in float32; prefix_cache for unknown architectures.
        compile: have torch.compile fuse what is not matrix products; `auto`: on CUDA, when the job is so long that it
            is expected to save more time than it takes.
        pll: pseudo-log-likelihood of masked language models: `word_l2r`: a token is predicted without the tokens after
            it in its word (Kauf & Ivanova 2023); `original`: with them (Salazar et al. 2020).
        generation: how text is generated: `batched`: in batches of about equal length; `continuous`: by transformers'
            continuous batching, where a prompt that has ended makes room for the next; causal models on its list only.
        num_processes: how many processes share the packs of a model whose device is `auto` or `cpu`; `auto`: one on
            each visible GPU, one on CPU.
        memory_check: refuse a model that is estimated not to fit in the device's free memory.
    """

    max_batch_tokens: AutoInt = "auto"
    bos: Literal["tokenizer", "never"] = "tokenizer"
    overlong: Literal["drop_shots", "cut_left"] = "drop_shots"
    max_length: AutoInt = "auto"
    attention: Literal["auto", "sdpa", "varlen", "flex", "reference", "prefix_cache"] = "auto"
    compile: Literal["auto", "never", "always"] = "auto"
    pll: Literal["word_l2r", "original"] = "word_l2r"
    generation: Literal["batched", "continuous"] = "batched"
    num_processes: AutoInt = "auto"
    memory_check: bool = True


class CostSpec(StrictModel):
    """What this machine costs; nothing is assumed where nothing is said.

    Attributes:
        machine_usd_per_hour: rent of all that a run occupies: its GPUs, or the machine.
        energy_usd_per_kwh: for the energy that was measured; it is added to the rent, so leave it out where the rent
            holds it already.
        utilisation: share of the rented hours in which the machine works; what stands idle is paid for by the rest.
    """

    machine_usd_per_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    energy_usd_per_kwh: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    utilisation: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def has_prices(self) -> bool:
        """Whether anything is said of what this machine costs."""
        return self.machine_usd_per_hour is not None or self.energy_usd_per_kwh is not None


class RunPlan(StrictModel):
    """Models × tasks, resolved.

    Attributes:
        costs: for tables; they change no answer, so that a run keeps its folder whatever they are.
        speed: what `bench speed` measures; no other command reads it.
        out: the folder of run folders.
        extends: the plan whose keys hold where this one has none; `load_plan` has merged it.
    """

    models: Annotated[Many[ModelSpec], Field(min_length=1)]
    tasks: Annotated[Many[TaskSpec], Field(min_length=1)]
    engine: EngineSpec = EngineSpec()
    costs: CostSpec = CostSpec()
    speed: SpeedSpec = SpeedSpec()
    out: FilePath = Path("results")
    extends: str | None = None

    @model_validator(mode="after")
    def _check(self) -> RunPlan:
        repeats = {
            "models": [model.name for model in self.models],
            "tasks": [task.model_dump_json() for task in self.tasks],
        }
        for key, items in repeats.items():
            for number, item in enumerate(items):
                if (first := items.index(item)) < number:
                    hint = "; give one of them another `name`" if key == "models" else ""
                    raise ValueError(f"{key}[{number}] repeats {key}[{first}]{hint}")
        return self


def spelled_out(entry: object) -> object:
    """An entry of `tasks` as a mapping."""
    return {"task": entry} if isinstance(entry, str) else entry
