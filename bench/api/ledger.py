"""What a run's completions have cost, and whether the next one may be asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench.api.contract import Usage
from bench.api.failures import AccessFailure, PromptFiltered, RequestFailure, ServiceFailure
from bench.catalog.prices import BilledTokens, Tariff
from bench.completer import GenerationSettings
from bench.records import Message

_TEMPLATE_TOKENS = 16  # of a message: what chat templates put around it


class CapReached(Exception):
    """The next request might cost more than is left."""

    def __init__(self) -> None:
        super().__init__("the next request might cost more than max_cost_usd leaves; raise it to go on")


@dataclass(slots=True)
class Tally:
    """What happened, counted.

    Attributes:
        spent_usd: by the usage that came with the answers; 0 while no price is known.
        num_answers: completions that arrived, also those that were asked for again since nothing was in them.
        num_retries: requests that were sent again.
        num_throttled: of them, those that the provider had turned away for being too many.
        num_lost: requests whose answer may have been made and charged, and did not arrive.
        lost_usd: the most that those may have cost; counted where there is a cap, as part of it.
    """

    spent_usd: float = 0.0
    num_answers: int = 0
    num_retries: int = 0
    num_throttled: int = 0
    num_lost: int = 0
    lost_usd: float = 0.0


@dataclass(slots=True)
class Bill:
    """What a request did cost; None as long as that is not known."""

    cost_usd: float | None = None


class Ledger:
    """Keeps a run within its cap: before a request is sent, the most it may cost is set aside.

    Args:
        tariff: what tokens cost; None if that is not known.
        cap_usd: the most that may be spent; None: no limit.
        tally: what happened so far, and counts towards the cap; it is counted on.
    """

    def __init__(self, tariff: Tariff | None, cap_usd: float | None, tally: Tally) -> None:
        self.tariff = tariff
        self.tally = tally
        self._cap_usd = cap_usd
        self._reserved_usd = 0.0
        self._settled = asyncio.Condition()

    def most_usd(self, prompt: Sequence[Message], settings: GenerationSettings) -> float:
        """The most a completion may cost: no token is shorter than a byte. 0 where nothing limits it."""
        if self.tariff is None or self._cap_usd is None:
            return 0.0
        tokens = sum(len(message.text.encode()) + _TEMPLATE_TOKENS for message in prompt)
        return self.tariff.cost_usd(BilledTokens(tokens, settings.max_tokens))

    def cost_usd(self, usage: Usage | None) -> float | None:
        """What a completion costs; None where price or usage is not known."""
        if usage is None or self.tariff is None:
            return None
        return self.tariff.cost_usd(
            BilledTokens(
                usage.num_prompt_tokens,
                usage.num_completion_tokens,
                usage.num_cached_tokens,
                usage.num_cache_write_tokens,
            )
        )

    @asynccontextmanager
    async def spending(self, most_usd: float) -> AsyncIterator[Bill]:
        """Set aside what a request may cost while it is under way, and settle it by what becomes of it.

        Raises:
            CapReached: even with all others settled it may cost more than is left.
        """
        await self.reserve(most_usd)
        bill = Bill()
        lost_usd = most_usd  # until it is known better: a request that is cancelled may be charged
        try:
            yield bill
            lost_usd = most_usd if bill.cost_usd is None else 0.0  # answered, and nobody says for how much
        except (AccessFailure, RequestFailure, PromptFiltered):
            lost_usd = 0.0
            raise
        except ServiceFailure as failure:
            lost_usd = most_usd if failure.is_billed else 0.0
            self.tally.num_lost += failure.is_billed
            self.tally.num_throttled += failure.is_throttle
            raise
        finally:
            await self.settle(most_usd, bill.cost_usd or 0.0, lost_usd)

    async def reserve(self, most_usd: float) -> None:
        """Set aside what a request may cost, waiting for others to be settled if need be.

        Raises:
            CapReached: even with all others settled it may cost more than is left.
        """
        async with self._settled:
            await self._settled.wait_for(lambda: self.fits(most_usd) or not self._reserved_usd)
            if not self.fits(most_usd):
                raise CapReached
            self._reserved_usd += most_usd

    async def settle(self, most_usd: float, cost_usd: float = 0.0, lost_usd: float = 0.0) -> None:
        """Put what a request did cost, or may have, in place of what was set aside for it."""
        async with self._settled:
            self._reserved_usd -= most_usd
            if self._reserved_usd < most_usd * 1e-9:  # what rounding leaves must not look like a request under way
                self._reserved_usd = 0.0
            self.tally.spent_usd += cost_usd
            self.tally.lost_usd += lost_usd
            self._settled.notify_all()

    def fits(self, most_usd: float) -> bool:
        """Whether so much is left."""
        if self._cap_usd is None:
            return True
        gone = self.tally.spent_usd + self.tally.lost_usd
        return gone + self._reserved_usd + most_usd <= self._cap_usd
