"""One request of a load: sent, heard piece by piece, paid for. It is never sent again: that would be another load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from bench.api.contract import Answer, Client
from bench.api.failures import AccessFailure, ApiFailure, PromptFiltered, RequestFailure, ServiceFailure
from bench.api.ledger import CapReached, Ledger
from bench.api.pool import Chat
from bench.completer import GenerationSettings
from bench.speed.figures import Taken

_WHY_CHARS = 160


@dataclass(slots=True)
class _Heard:
    """The moments of one answer's pieces, and of its end."""

    clock: Callable[[], float]
    moments: list[float] = field(default_factory=list)
    num_thoughts: int = 0
    ended: float = 0.0

    def __call__(self, text: str, *, is_thought: bool = False) -> None:  # noqa: ARG002
        self.moments.append(self.clock())
        self.num_thoughts += is_thought


class Asker:
    """Asks one provider's model.

    Args:
        client: of the event loop that this is used in.
        settings: the same for all.
        ledger: what it costs.
        timeout_s: of one request.
        count: tokens of a text, where the server does not say; None: nobody does.
    """

    def __init__(
        self,
        client: Client,
        settings: GenerationSettings,
        ledger: Ledger,
        timeout_s: float,
        count: Callable[[str], int] | None = None,
    ) -> None:
        self._client = client
        self._settings = settings
        self._ledger = ledger
        self._timeout_s = timeout_s
        self._count = count
        self._uncounted: dict[Taken, str] = {}

    async def ask(self, chat: Chat, due: float, began: float) -> Taken:
        """Send a request.

        Args:
            chat: the prompt.
            due: when it was to be sent, by the event loop's clock.
            began: the moment, by that clock, from which all others are counted.

        Raises:
            AccessFailure: no other request can do better.
            CapReached: it may cost more than is left.
        """
        clock = asyncio.get_running_loop().time
        most_usd = self._ledger.most_usd(chat, self._settings)
        if not self._ledger.fits(most_usd):  # waiting for others would make this another load
            raise CapReached
        heard = _Heard(clock)
        sent = clock()
        answer, failure, cost_usd = None, None, None
        try:
            async with self._ledger.spending(most_usd) as bill:
                answer = await self._stream(chat, heard)
                bill.cost_usd = cost_usd = self._ledger.cost_usd(answer.usage)
                self._ledger.tally.num_answers += 1
            failure = _fault_of(answer, heard)
        except AccessFailure:
            raise
        except ApiFailure as problem:
            failure = (_kind_of(problem), str(problem)[:_WHY_CHARS])
        taken = Taken(
            due - began,
            sent - began,
            tuple(moment - began for moment in heard.moments),
            heard.ended - began,
            heard.num_thoughts,
            cost_usd=cost_usd,
            failure=failure[0] if failure else None,
            why=failure[1] if failure else None,
        )
        return self._counted(taken, answer)

    async def _stream(self, chat: Chat, heard: _Heard) -> Answer:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._client.stream(chat, self._settings, heard)
        except TimeoutError:
            raise _TooSlow(f"no whole answer within {self._timeout_s:g} s", is_billed=True) from None
        finally:
            heard.ended = heard.clock()  # before its cost is reckoned, which takes time

    def _counted(self, taken: Taken, answer: Answer | None) -> Taken:
        """With the tokens, as the server counts them; others are counted later, when nothing is timed."""
        usage = answer.usage if answer else None
        if usage is not None:
            return replace(
                taken,
                num_prompt_tokens=usage.num_prompt_tokens,
                num_completion_tokens=usage.num_completion_tokens,
                num_cached_tokens=usage.num_cached_tokens,
                num_reasoning_tokens=usage.num_reasoning_tokens,
            )
        if answer is not None and self._count is not None and not taken.num_thoughts:
            self._uncounted[taken] = answer.text
        return taken

    def count_rest(self, taken: Taken) -> Taken:
        """The same request, its completion counted by the tokenizer if the server did not."""
        text = self._uncounted.pop(taken, None)
        if text is None or self._count is None:
            return taken
        return replace(taken, num_completion_tokens=self._count(text))


class _TooSlow(ServiceFailure):
    """It took longer than the plan allows."""


def _kind_of(problem: ApiFailure) -> str:
    """What a failure is called in a point's counts."""
    if isinstance(problem, PromptFiltered):
        return "filtered"
    if isinstance(problem, RequestFailure):
        return "refused"
    if isinstance(problem, _TooSlow):
        return "timeout"
    assert isinstance(problem, ServiceFailure)
    if problem.is_throttle:
        return "throttled"
    return "lost" if problem.is_billed else "service"


def _fault_of(answer: Answer, heard: _Heard) -> tuple[str, str] | None:
    """Why an answer is none that a load is made of; None if it is one."""
    if answer.finish_reason in ("refusal", "filtered"):
        return answer.finish_reason, "the provider held it back" if answer.finish_reason == "filtered" else "refused"
    return None if heard.moments else ("empty", "no text came")
