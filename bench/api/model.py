"""Models behind an API, as a run knows them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from bench.answering import answer_samples
from bench.api.batched import BatchCompleter, BatchPlan
from bench.api.book import Book
from bench.api.completer import ApiCompleter
from bench.api.connect import connect, connect_batches, find_access, settle_tariff
from bench.api.contract import Access
from bench.api.ledger import Ledger, Tally
from bench.api.likelihoods import Echo, Letters, Rater
from bench.api.pool import Patience
from bench.api.presets import BatchTerms, Preset, load_preset, preset_names, split_source
from bench.catalog.prices import BilledTokens, Tariff
from bench.completer import Completer, Decoding, GenerationSettings
from bench.config import EngineSpec, ModelSpec
from bench.engine.pipeline import Progress
from bench.errors import ModelInputError
from bench.records import Message
from bench.runs.folder import RunShare
from bench.tasks.job import Job
from bench.team import ALONE, Team
from bench.writing.generating import complete_samples

_BYTES_PER_TOKEN = 4  # of English text, roughly; an estimate needs no better


class ApiModel:
    """A provider's model."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self.provider, self.model, self.preset = _settle(spec)
        self.access: Access = find_access(self.provider, self.preset, self.model, spec.api)
        self.terms = _batch_terms(self.preset, spec)
        self.tariff: Tariff | None = settle_tariff(self.provider, self.preset, self.model, spec.api)

    @property
    def spec(self) -> ModelSpec:
        """The model as the plan has it."""
        return self._spec

    def refusal(self, job: Job) -> str | None:
        """Why a job cannot be put to this model; None if it can."""
        if job.lane == "generate":
            asked = job.settings
            is_cut = isinstance(asked, Decoding) and (asked.top_p < 1 or asked.top_k > 0)
            return f"{job.title} samples by top_p or top_k, which are not asked for over an API" if is_cut else None
        way, title = self.spec.api.likelihoods, self.preset.title
        if way == "none":
            return f"{job.title} asks for likelihoods; use a form that generates, or see api.likelihoods"
        if way == "letters" and not self.preset.max_top_logprobs:
            return f"api.likelihoods letters: {title} returns no probabilities of tokens"
        if way == "letters" and not job.asks_for_labels:
            return f"api.likelihoods letters: {job.title} does not ask for letters"
        if way == "echo" and not self.preset.echoes:
            return f"api.likelihoods echo: {title} does not say prompts back"
        return None

    def identity(self, job: Job) -> dict[str, object]:
        """What of this model can change an answer: whom is asked for what, and what else is said."""
        access = self.access
        told: dict[str, object] = {"omit": sorted(access.omit), "extra_body": dict(access.extra_body)}
        way = {} if job.lane == "generate" else {"likelihoods": self.spec.api.likelihoods}
        return {"model": [self.spec.source, access.base_url], "told": told, **way}

    def describe(self) -> dict[str, object]:
        """The part `model` of run.json."""
        return {
            "name": self.spec.name,
            "source": self.spec.source,
            "revision": None,
            "kind": "api",
            "provider": self.preset.title,
            "base_url": self.access.base_url,
            "price": self.tariff.basis if self.tariff else None,
        }

    def describe_likelihood(self, job: Job) -> str | None:
        """`letters`: of first tokens only, `exact`, or None where none are asked for."""
        if job.lane == "generate":
            return None
        return "exact" if self.spec.api.likelihoods == "echo" else "letters"

    def estimate(self, job: Job) -> str | None:
        """What a job may cost, and what that goes by."""
        chats = [job.conversation(sample.prompt) for sample in job.samples]
        num_bytes = sum(len(message.text.encode()) for chat in chats for message in chat)
        max_tokens = job.settings.max_tokens if job.lane == "generate" else 1
        prompt, most = num_bytes // _BYTES_PER_TOKEN, len(chats) * max_tokens
        if self.tariff is None:
            return f"{len(chats):,} requests to {self.preset.title}; no price is known, so neither is the cost"
        if self.preset.is_free:
            return None
        least_usd = self.tariff.cost_usd(BilledTokens(prompt, 0))
        most_usd = self.tariff.cost_usd(BilledTokens(prompt, most))
        cap = self.spec.api.max_cost_usd
        how = "requests in batches" if self.terms else "requests"
        return (
            f"{len(chats):,} {how}, {usd(least_usd)} to {usd(most_usd)}: about {prompt:,} tokens of prompts "
            f"({_BYTES_PER_TOKEN} bytes a token), and up to {max_tokens:,} written for each; "
            f"{'stops at ' + usd(cap) + '; ' if cap else ''}price by {self.tariff.basis}"
        )

    def score(self, job: Job, folder: RunShare, progress: Progress, team: Team = ALONE) -> None:
        """Score what the run folder does not hold yet, and finish it."""
        book = Book(folder.path)
        if book.open and self.terms is None:
            raise ModelInputError(
                f"model {self.spec.name}: {book.path(book.open[0])}: a batch is still to be collected, with api.batch"
            )
        writer = ApiWriter(self, folder, book)
        if job.lane == "generate":
            complete_samples(writer, job, folder, progress, team)
        else:
            way = Echo() if self.spec.api.likelihoods == "echo" else Letters()
            folder.update(writer.measured())
            answer_samples(Rater(way, writer.completer(way), job, writer.measured), job, folder, progress, team)

    def close(self) -> None:
        """Nothing is open between runs."""


class ApiWriter:
    """A provider's model as the lane `generate` needs it, see `bench.writing.generating.Writer`.

    Args:
        model: the model.
        folder: its scores tell what earlier sittings spent, however those ended.
        book: the batches that they submitted.
    """

    def __init__(self, model: ApiModel, folder: RunShare, book: Book) -> None:
        self._model = model
        self._book = book
        costs = (score.completion.cost_usd for score in folder.done.values() if score.completion is not None)
        before = Tally(**folder.info.get("api", {}))
        self._tally = replace(before, spent_usd=max(before.spent_usd, sum(cost or 0.0 for cost in costs)))

    @contextlib.contextmanager
    def writing(self, info: Mapping[str, Any]) -> Iterator[Completer]:  # noqa: ARG002
        """Complete with the provider."""
        yield self.completer() if self._model.terms is None else self._batches(self._model.terms)

    @property
    def _patience(self) -> Patience:
        api = self._model.spec.api
        return Patience(api.concurrency, api.timeout_s, api.max_attempts)

    def _batches(self, terms: BatchTerms) -> BatchCompleter:
        model, api = self._model, self._model.spec.api
        ledger = Ledger(model.tariff, api.max_cost_usd, self._tally)
        plan = BatchPlan(terms, model.preset.title, self._patience, api.wait_s, api.batch_requests)
        return BatchCompleter(lambda: connect_batches(model.access, model.preset.client), plan, ledger, self._book)

    def completer(self, way: Letters | Echo | None = None) -> ApiCompleter:
        """What asks the provider; what earlier sittings spent counts towards the cap."""
        model, api, patience = self._model, self._model.spec.api, self._patience
        access, client = model.access, str(model.preset.client)
        if isinstance(way, Letters):
            access = replace(access, top_logprobs=model.preset.max_top_logprobs)
        elif way is not None:
            client = "echo"
        return ApiCompleter(lambda: connect(access, client), patience, model.tariff, api.max_cost_usd, self._tally)

    def fits(self, prompts: Sequence[tuple[Message, ...]], settings: GenerationSettings) -> list[bool]:  # noqa: ARG002
        """Only the provider can tell, and does: such a request is an error on its sample."""
        return [True] * len(prompts)

    def measured(self) -> dict[str, Any]:
        """What to record beside the completions."""
        concurrency = self._model.spec.api.concurrency if self._model.terms is None else None
        return {"engine": {"path": "api", "concurrency": concurrency}, "api": asdict(self._tally)}


def _settle(spec: ModelSpec) -> tuple[str, str, Preset]:
    found = split_source(spec.source)
    assert found is not None  # `source_of` has seen to that
    return (*found, load_preset(found[0]))


def _batch_terms(preset: Preset, spec: ModelSpec) -> BatchTerms | None:
    """The terms of batches, where the plan wants any.

    Raises:
        ModelInputError: the provider has none, or none that can say all that the plan does.
    """
    if not spec.api.batch:
        return None
    if preset.batches is None:
        have = ", ".join(name for name in preset_names() if load_preset(name).batches)
        raise ModelInputError(f"model {spec.source}: api.batch is for {have}")
    if preset.client == "gemini" and spec.api.extra_body:
        raise ModelInputError(f"model {spec.source}: api.extra_body has no place in the batches of {preset.title}")
    return preset.batches


def usd(amount: float) -> str:
    """An amount for a message."""
    return f"{amount:.2f} USD" if amount >= 1 else f"{amount:.4f} USD"


def check_model(spec: ModelSpec, engine: EngineSpec) -> None:  # noqa: ARG001
    """Refuse what can be told at once: a key that is not set, a cap without a price."""
    ApiModel(spec)


def num_processes(spec: ModelSpec, engine: EngineSpec) -> int:  # noqa: ARG001
    """One process asks."""
    return 1


def preparation(spec: ModelSpec) -> None:
    """Nothing takes long."""


def open_model(spec: ModelSpec, engine: EngineSpec, team: Team = ALONE) -> ApiModel:  # noqa: ARG001
    """A provider's model."""
    return ApiModel(spec)
