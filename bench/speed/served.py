"""A sweep over loads of a model behind an API, or on a server of one's own."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from bench.api.connect import connect
from bench.api.contract import Client
from bench.api.failures import AccessFailure
from bench.api.ledger import CapReached, Ledger, Tally
from bench.api.model import ApiModel, usd
from bench.api.pool import Chat, Patience
from bench.catalog.prices import BilledTokens, Tariff
from bench.completer import GenerationSettings
from bench.config import ModelSpec, RunPlan
from bench.errors import ApiError
from bench.runs.folder import RunFolder
from bench.speed.asking import Asker
from bench.speed.driving import drive, watched_lag
from bench.speed.figures import Taken, describe_load
from bench.speed.folder import NotMeasured
from bench.speed.load import Load, Words, plan_loads
from bench.speed.repeating import percentiles
from bench.speed.spec import ServedSpec

log = logging.getLogger(__name__)

_OF_THE_MACHINE = ("cpu", "num_cpus")
_SWEEP = {"concurrencies", "request_rates", "objective"}
_PENDING = "pending_usd"
_PROBE_TRIES = 4
_HOPELESS = 10  # requests of a point in a row without any answered before them: it is not the load


class ServedSweep:
    """See `bench.speed.runner.Sweep`."""

    def __init__(self, spec: ModelSpec, plan: RunPlan) -> None:
        self._model = ApiModel(spec)
        self._spec: ServedSpec = plan.speed.served
        self.points: Sequence[Load] = list(plan_loads(self._spec))

    @property
    def label(self) -> str:
        """What the run is of, beside the model's name."""
        return self._model.provider

    def describe(self) -> dict[str, Any]:
        """The part `model` of run.json."""
        return self._model.describe()

    def identity(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """What figures depend on; which points there are is not part of it, so a sweep can grow."""
        access = self._model.access
        return {
            "model": [self._model.spec.source, access.base_url],
            "told": {"omit": sorted(access.omit), "extra_body": dict(access.extra_body), "timeout_s": access.timeout_s},
            "machine": [environment[name] for name in _OF_THE_MACHINE],
            "speed": self._spec.model_dump(mode="json", exclude=_SWEEP),
        }

    def estimate(self, num_points: int) -> str | None:
        """What so many points may cost, and what that goes by."""
        model, spec = self._model, self._spec
        num = num_points * _num_requests(spec)
        if model.tariff is None:
            return f"{num:,} requests to {model.preset.title}; no price is known, so neither is the cost"
        if model.preset.is_free:
            return None
        most, cap = num_points * _usual_usd(model.tariff, spec), model.spec.api.max_cost_usd
        return (
            f"{num:,} requests, up to {usd(most)}: about {spec.prompt_tokens:,} tokens of prompt and up to "
            f"{spec.completion_tokens:,} written for each; {f'stops at {usd(cap)}; ' if cap else ''}"
            f"price by {model.tariff.basis}"
        )

    @contextmanager
    def measuring(self, folder: RunFolder) -> Iterator[Callable[[Any], dict[str, Any]]]:
        """Connect, learn how many words make a prompt, and measure points; what is spent stands in the run folder.

        Raises:
            ApiError: the provider does not answer, or the money is spent.
        """
        tally = _tally_before(folder.info)
        ledger = Ledger(self._model.tariff, self._model.spec.api.max_cost_usd, tally)
        count = None if self._spec.tokenizer is None else _counter(self._spec.tokenizer)
        folder.update({"engine": {"path": "api", "is_streamed": True}})
        with asyncio.Runner() as runner:
            client = runner.run(_connected(self._model))
            sitting = _Sitting(self._model, self._spec, client, ledger, count)

            def measure(load: Load) -> dict[str, Any]:
                _save(folder, tally, sitting.most_usd(load))
                try:
                    return runner.run(sitting.measure(load))
                finally:
                    _save(folder, tally, 0.0)

            try:
                _save(folder, tally, sitting.most_usd_of_probes)
                runner.run(sitting.probe())
                yield measure
            except (CapReached, AccessFailure) as why:
                raise ApiError(
                    f"stopped: {why}; what was measured is saved, and the same command goes on from there"
                ) from None
            finally:
                _save(folder, tally, 0.0)
                runner.run(client.close())

    def close(self) -> None:
        """Nothing is open between runs."""


class _Sitting:
    """One sitting with a provider's model."""

    def __init__(
        self,
        model: ApiModel,
        spec: ServedSpec,
        client: Client,
        ledger: Ledger,
        count: Callable[[str], int] | None,
    ) -> None:
        self._spec = spec
        self._tariff = model.tariff
        self._ledger = ledger
        self._settings = GenerationSettings(spec.completion_tokens)
        self._patience = Patience(timeout_s=model.spec.api.timeout_s)
        self._asker = Asker(client, self._settings, ledger, model.spec.api.timeout_s, count)
        self._words = Words(spec.seed, secrets.token_hex(4))
        self._probe_words = (spec.prompt_tokens // 4, spec.prompt_tokens // 2)

    async def probe(self) -> None:
        """Learn from two requests how many words make a prompt, and that the provider answers at all.

        Raises:
            ApiError: it does not.
        """
        counts = []
        for num_words in self._probe_words:
            taken = await self._answered(num_words)
            if taken.num_prompt_tokens is not None:
                counts.append((num_words, taken.num_prompt_tokens))
        if len(counts) == len(self._probe_words):
            self._words.calibrate(*counts)

    async def _answered(self, num_words: int) -> Taken:
        clock = asyncio.get_running_loop().time
        for attempt in range(_PROBE_TRIES):
            taken = await self._asker.ask(self._probe_chat(num_words), clock(), clock())
            if taken.failure is None:
                return taken
            if attempt + 1 < _PROBE_TRIES:
                await asyncio.sleep(self._patience.pause_s(attempt))
        raise ApiError(f"nothing can be measured: a first request has no answer: {taken.why}")

    @property
    def most_usd_of_probes(self) -> float:
        """The most that the first requests may cost."""
        return sum(self._ledger.most_usd(self._probe_chat(num), self._settings) for num in self._probe_words)

    def most_usd(self, load: Load) -> float:
        """The most that a point may cost."""
        return _num_requests(self._spec) * self._ledger.most_usd(self._chat(load, "0"), self._settings)

    def _probe_chat(self, num_words: int) -> Chat:
        return self._words.chat(f"probe {num_words}", num_words)

    def _chat(self, load: Load, name: str) -> Chat:
        return self._words.chat(f"{load.key} {name}", self._words.num_words(load.prompt_tokens))

    async def measure(self, load: Load) -> dict[str, Any]:
        """What `points.jsonl` holds of a point.

        Raises:
            CapReached: it, or one of its requests, may cost more than is left; nothing is sent that could exceed it.
            AccessFailure: the provider will answer nothing.
            NotMeasured: no request was answered.
        """
        if not self._ledger.fits(_usual_usd(self._tariff, self._spec)):
            raise CapReached
        spent_usd = self._ledger.tally.spent_usd
        await self._warm_up(load)
        gc.collect()
        gc.freeze()  # what is there stays: to look through it again and again would stop the loop for long
        try:
            async with watched_lag() as lags:
                taken = await self._drive(load)
        finally:
            gc.unfreeze()
        taken = sorted(map(self._asker.count_rest, taken), key=lambda one: one.due_s)
        if all(one.failure is not None for one in taken):
            raise _hopeless(taken)
        is_known = all(one.cost_usd is not None for one in taken if one.failure is None)
        cost_usd = self._ledger.tally.spent_usd - spent_usd if is_known else None
        figures = describe_load(load, taken, self._spec.objective)
        return {**figures, "lag_s": percentiles(lags) if lags else None, "cost_usd": cost_usd}

    async def _warm_up(self, load: Load) -> None:
        """Open connections, and have the server do once what it does only once; nothing of it counts."""
        clock = asyncio.get_running_loop().time
        num = self._spec.warm_up_requests
        warm = Load(load.concurrency or num or 1, None, load.prompt_tokens, load.completion_tokens)
        await drive(warm, lambda number, due: self._asker.ask(self._chat(load, f"warm-up {number}"), due, clock()), num)

    async def _drive(self, load: Load) -> list[Taken]:
        began = asyncio.get_running_loop().time()
        seen: list[Taken] = []

        async def ask(number: int, due: float) -> Taken:
            taken = await self._asker.ask(self._chat(load, str(number)), due, began)
            seen.append(taken)
            if len(seen) >= _HOPELESS and all(one.failure is not None for one in seen):
                raise _hopeless(seen)
            return taken

        spec = self._spec
        return await drive(load, ask, spec.num_requests, max_s=spec.max_s, seed=spec.seed)


def _num_requests(spec: ServedSpec) -> int:
    """Of a point, with those of warm-up."""
    return spec.num_requests + spec.warm_up_requests


def _usual_usd(tariff: Tariff | None, spec: ServedSpec) -> float:
    """What a point costs if prompts are as long as asked, and completions as long as they may be."""
    if tariff is None:
        return 0.0
    return _num_requests(spec) * tariff.cost_usd(BilledTokens(spec.prompt_tokens, spec.completion_tokens))


def _hopeless(taken: Sequence[Taken]) -> NotMeasured:
    return NotMeasured(f"none of {len(taken)} requests was answered: {taken[-1].why}")


async def _connected(model: ApiModel) -> Client:
    return connect(model.access, model.preset.client)


def _tally_before(info: Mapping[str, Any]) -> Tally:
    """What earlier sittings spent; of one that was killed amid a point, the most that the point may have cost."""
    tally = Tally(**info.get("api", {}))
    tally.lost_usd += info.get(_PENDING, 0.0)
    return tally


def _save(folder: RunFolder, tally: Tally, pending_usd: float) -> None:
    folder.update({"api": asdict(tally), _PENDING: pending_usd})


def _counter(source: str) -> Callable[[str], int]:
    from bench.models.local import load_tokenizer_of

    tokenizer = load_tokenizer_of(source)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
