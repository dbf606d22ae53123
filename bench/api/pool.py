"""Many requests to one provider, in one event loop: as many at once as go, each until it has an answer or a reason.

Clients ask once; all patience is here. An answer is handed on as soon as it arrives, and a place for another request
is free only when it has been taken, so that a process that is killed has paid for no more unseen answers than it may
have requests under way.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.api.contract import Answer, Client
from bench.api.failures import AccessFailure, PromptFiltered, RequestFailure, ServiceFailure
from bench.api.ledger import CapReached, Ledger
from bench.api.pace import Halted, Pace
from bench.completer import GenerationSettings
from bench.errors import ApiError
from bench.records import Completion, Message

log = logging.getLogger(__name__)

Chat = tuple[Message, ...]
Result = tuple[int, "Answered | str"]

FILTERED = Answer("", "filtered", None, "")

_LONGEST_BACKOFF_S = 60.0
LONGEST_PAUSE_S = 600.0  # asked to wait for longer, a run had better be continued later
_THROTTLES_PER_ATTEMPT = 4  # being turned away for too many requests is the expected way to find the limit
_HOPELESS = 10  # samples in a row that got no answer: it is not the samples


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try.

    Attributes:
        concurrency: most requests under way.
        timeout_s: of one request.
        max_attempts: requests for one sample.
        backoff_s: the first pause between two of them, which doubles each time.
    """

    concurrency: int = 16
    timeout_s: float = 120.0
    max_attempts: int = 8
    backoff_s: float = 0.5

    def pause_s(self, num_before: int = 0) -> float:
        """How long to pause after so many pauses: ever longer, and never the same."""
        return min(_LONGEST_BACKOFF_S, self.backoff_s * 2.0**num_before) * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer as the pool hands it on: what the client made of it, how long that took, and what it cost."""

    answer: Answer
    latency_s: float | None
    cost_usd: float | None

    def completion(self) -> Completion:
        """The record of it."""
        usage = self.answer.usage
        return Completion(
            text=self.answer.text,
            finish_reason=self.answer.finish_reason,
            num_prompt_tokens=usage.num_prompt_tokens if usage else None,
            num_completion_tokens=usage.num_completion_tokens if usage else None,
            num_cached_tokens=usage.num_cached_tokens if usage else 0,
            num_reasoning_tokens=usage.num_reasoning_tokens if usage else 0,
            latency_s=self.latency_s,
            cost_usd=self.cost_usd,
            model=self.answer.model,
        )


class Pool:
    """Asks one provider for many completions; made and used in one event loop."""

    def __init__(self, client: Client, settings: GenerationSettings, patience: Patience, ledger: Ledger) -> None:
        self._client = client
        self._settings = settings
        self._patience = patience
        self._ledger = ledger
        self._pace = Pace(patience.concurrency)
        self._num_taken = asyncio.Semaphore(0)
        self._num_hopeless = 0
        self._end: ApiError | None = None

    def taken(self) -> None:
        """A result was taken: another request may take its place."""
        self._num_taken.release()

    async def run(self, chats: Iterator[tuple[int, Chat]], emit: Callable[[Result], None]) -> None:
        """Ask for a completion of each prompt; results come in any order.

        Args:
            chats: prompts with their numbers; drawn as places become free.
            emit: is given each result; `taken` is to be called once it has been dealt with.

        Raises:
            ApiError: the provider will not go on, or the money is spent. What was under way has ended and been given.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(self._patience.concurrency):
                group.create_task(self._work(chats, emit))
        if self._end is not None:
            raise self._end

    async def _work(self, chats: Iterator[tuple[int, Chat]], emit: Callable[[Result], None]) -> None:
        """See one prompt after the other through to its result, until there are no more or all is over."""
        for number, chat in chats:
            try:
                emit((number, await self._answer(chat)))
            except Halted:
                return
            except (CapReached, AccessFailure) as why:
                await self._halt(str(why))
                return
            await self._num_taken.acquire()

    async def _answer(self, chat: Chat) -> Answered | str:
        """Ask until there is an answer, or a reason why there is none."""
        num_faults = num_throttles = 0
        while True:
            try:
                answered = await self._ask(chat)
                self._num_hopeless = 0
                return answered
            except RequestFailure as failure:
                return await self._give_up(str(failure))
            except ServiceFailure as failure:
                num_throttles += failure.is_throttle
                num_faults += not failure.is_throttle
                most = self._patience.max_attempts
                if num_faults >= most or num_throttles >= most * _THROTTLES_PER_ATTEMPT:
                    return await self._give_up(f"{failure} (given up after {num_faults + num_throttles} attempts)")
                log.debug("asking again: %s", failure)
                await self._wait(failure, num_faults + num_throttles - 1)
            self._ledger.tally.num_retries += 1

    async def _ask(self, chat: Chat) -> Answered:
        """Send one request and settle what it cost."""
        most_usd = self._ledger.most_usd(chat, self._settings)
        generation = await self._pace.enter()
        is_answered = is_throttled = False
        try:
            async with self._ledger.spending(most_usd) as bill:
                answered = await self._send(chat)
                bill.cost_usd = answered.cost_usd
            is_answered = True
        except ServiceFailure as failure:
            is_throttled = failure.is_throttle
            raise
        finally:
            await self._pace.leave(generation, is_answered=is_answered, is_throttled=is_throttled)
        return something(answered)

    async def _send(self, chat: Chat) -> Answered:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self._patience.timeout_s):
                answer = await self._client.complete(chat, self._settings)
        except TimeoutError:
            raise ServiceFailure(f"no answer within {self._patience.timeout_s:g} s", is_billed=True) from None
        except PromptFiltered:
            return Answered(FILTERED, clock() - began, 0.0)
        self._ledger.tally.num_answers += 1
        return Answered(answer, clock() - began, self._ledger.cost_usd(answer.usage))

    async def _wait(self, failure: ServiceFailure, num_before: int) -> None:
        """Wait as long as the provider asks for, or ever longer, never all at the same moment."""
        if failure.retry_after_s is None:
            await self._pace.sleep(self._patience.pause_s(num_before))
            return
        if failure.retry_after_s > LONGEST_PAUSE_S:
            raise AccessFailure(f"{failure} (it asks to be left alone for {failure.retry_after_s:.0f} s)")
        if failure.is_throttle:
            self._pace.pause(failure.retry_after_s)
        await self._pace.sleep(failure.retry_after_s + self._patience.pause_s())

    async def _give_up(self, reason: str) -> str:
        self._num_hopeless += 1
        if self._num_hopeless >= _HOPELESS:
            await self._halt(f"none of the last {_HOPELESS} requests was answered: {reason}")
        return reason

    async def _halt(self, reason: str) -> None:
        """Send nothing more; answers that are under way are still awaited, since they will be charged."""
        if self._end is None:
            self._end = stopped(reason)
        await self._pace.halt()


def stopped(reason: str) -> ApiError:
    """The end of a run that may go on."""
    return ApiError(f"stopped: {reason}; what was answered is saved, and the same command goes on from there")


def something(answered: Answered) -> Answered:
    """Refuse an answer in which nothing was generated: that is a fault of the service, not an answer."""
    answer = answered.answer
    if answer.finish_reason == "stop" and not answer.text and not (answer.usage and answer.usage.num_completion_tokens):
        raise ServiceFailure("the answer is empty: no token was generated")
    return answered
