"""How much time does an API's completions take beyond the service's own? A server on the loopback interface tells.

1,000 requests, each answered after 200 ms, 64 at once, through each official SDK. The ideal is requests × latency ÷
concurrency. Threads, memory and the core's time are this process's; the server is another one. Goals: at most 1.2 times
the ideal, few threads, and memory that does not grow with the number of requests. What no client could avoid on the
machine at hand is measured by one that does nothing but post and read.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from common import positive_int, publish, run_study, table, verdict
from loopback import KEY, ApiServer, hear, loopback

from bench.api.completer import ApiCompleter
from bench.api.connect import connect, find_access, settle_tariff
from bench.api.contract import Access
from bench.api.pool import Chat, Patience
from bench.api.presets import load_preset
from bench.api.spec import ApiSpec
from bench.completer import GenerationSettings
from bench.errors import ScoringError
from bench.records import Completion, Message

_MODELS = {"openai": "gpt-4o", "anthropic": "claude-sonnet-5", "gemini": "gemini-2.5-flash"}
_SETTINGS = GenerationSettings(max_tokens=16)
_TEXT = "What is the answer to this question? " * 30
_WARM_UP = 200  # requests before memory is looked at: code and connections that are there to stay
_COLUMNS = (
    "SDK",
    "seconds",
    "× ideal",
    "alone",
    "bare",
    "core, ms a request",
    "most at once",
    "threads",
    "growth, MiB",
)
_RATIO_GOAL = 1.2
_THREADS_GOAL = 4
_GROWTH_GOAL_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Lane:
    """What one SDK took.

    Attributes:
        bare_s: what as many coroutines take that post and read the answer's JSON, and nothing else.
        alone_s: what the SDK takes with as many coroutines and nothing of ours around it, measured just before.
        core_s: this process's time on a core.
        num_threads: the most this process had, all of them.
        growth_bytes: resident memory after all requests over that after the first `_WARM_UP`.
    """

    provider: str
    num_requests: int
    ideal_s: float
    took_s: float
    bare_s: float
    alone_s: float
    core_s: float
    most_at_once: int
    num_threads: int
    growth_bytes: int

    @property
    def ratio(self) -> float:
        """Time over ideal time."""
        return self.took_s / self.ideal_s


def _be_slow(latency_s: float, server: ApiServer) -> None:
    server.latency_s = latency_s


def _measure(provider: str, options: argparse.Namespace) -> Lane:
    """Ask one SDK for completions, all the same but for their number."""
    preset, latency_s = load_preset(provider), options.latency_ms / 1000
    with loopback(partial(_be_slow, latency_s)) as pipe:
        os.environ[str(preset.key)] = KEY
        base_url = hear(pipe) + ("/v1" if preset.client == "openai" else "")
        bare_s = asyncio.run(_post_plainly(base_url.removesuffix("/v1"), options.requests, options.concurrency))
        spec = ApiSpec(base_url=base_url, concurrency=options.concurrency)
        access = find_access(provider, preset, _MODELS[provider], spec)
        tariff = settle_tariff(provider, preset, access.model, spec)
        completer = ApiCompleter(lambda: connect(access, preset.client), Patience(options.concurrency), tariff)
        importlib.import_module({"gemini": "google.genai"}.get(provider, provider))  # is not what is measured
        chats = [(Message("user", f"{number}: {_TEXT}"),) for number in range(options.requests)]
        alone_s = asyncio.run(_ask_plainly(access, preset.client, chats, options.concurrency))
        num_threads = warm_bytes = num_answers = 0
        began, core_s = time.perf_counter(), time.process_time()
        for _, completion in completer.complete(chats, _SETTINGS):
            num_answers += isinstance(completion, Completion)
            num_threads = max(num_threads, threading.active_count())
            if num_answers == _WARM_UP:
                warm_bytes = _resident_bytes()
        took_s, core_s = time.perf_counter() - began, time.process_time() - core_s
        pipe.send(None)
        most_at_once = hear(pipe)
    if num_answers != options.requests:
        raise ScoringError(f"{provider}: {num_answers} of {options.requests} requests were answered")
    ideal_s = options.requests * latency_s / options.concurrency
    growth = _resident_bytes() - warm_bytes
    return Lane(provider, options.requests, ideal_s, took_s, bare_s, alone_s, core_s, most_at_once, num_threads, growth)


async def _post_plainly(address: str, num_requests: int, concurrency: int) -> float:
    """Seconds that the server and the event loop take by themselves."""
    import aiohttp

    body = {"model": "m", "messages": [{"role": "user", "content": _TEXT}], "max_completion_tokens": 16}
    waiting = iter(range(num_requests))

    async def work(session: aiohttp.ClientSession) -> None:
        for _ in waiting:
            async with session.post(f"{address}/v1/chat/completions", json=body) as response:
                await response.json()

    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:
        began = time.perf_counter()
        await asyncio.gather(*[work(session) for _ in range(concurrency)])
        return time.perf_counter() - began


async def _ask_plainly(access: Access, client_name: str, chats: Sequence[Chat], concurrency: int) -> float:
    """Seconds that the SDK takes by itself."""
    client, waiting = connect(access, client_name), iter(chats)

    async def work() -> None:
        for chat in waiting:
            await client.complete(chat, _SETTINGS)

    began = time.perf_counter()
    await asyncio.gather(*[work() for _ in range(concurrency)])
    took_s = time.perf_counter() - began
    await client.close()
    return took_s


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def study(options: argparse.Namespace) -> int:
    """Measure each SDK and publish."""
    lanes = [_measure(provider, options) for provider in _MODELS]
    rows = [
        [
            lane.provider,
            f"{lane.took_s:.2f}",
            f"{lane.ratio:.2f}",
            f"{lane.alone_s / lane.ideal_s:.2f}",
            f"{lane.bare_s / lane.ideal_s:.2f}",
            f"{1000 * lane.core_s / lane.num_requests:.1f}",
            lane.most_at_once,
            lane.num_threads,
            f"{lane.growth_bytes / 2**20:.1f}",
        ]
        for lane in lanes
    ]
    goals = {
        f"at most {_RATIO_GOAL} times the ideal time": all(lane.ratio <= _RATIO_GOAL for lane in lanes),
        f"at most {_THREADS_GOAL} threads": all(lane.num_threads <= _THREADS_GOAL for lane in lanes),
        f"memory grows by less than {_GROWTH_GOAL_BYTES >> 20} MiB": all(
            lane.growth_bytes < _GROWTH_GOAL_BYTES for lane in lanes
        ),
    }
    lines = [
        "# APIs: time beyond the service's own",
        "",
        f"{options.requests:,} requests, each answered after {options.latency_ms} ms, {options.concurrency} at once; "
        f"ideal {lanes[0].ideal_s:.2f} s. Over HTTP to a server in another process of the same machine.",
        "",
        *table([*_COLUMNS], rows),
        "",
        "Alone is the SDK with as many coroutines and nothing around it, just before; bare are coroutines that post "
        "and read, and nothing else. Core is this process's time on one, most of it the SDK's. "
        f"Growth is of resident memory, from {_WARM_UP} answers to all. The start is slow on purpose: 32 at once, and "
        "one more for each answer until the provider refuses.",
        "",
        *verdict(goals),
    ]
    publish(options, "api_lane", {"lanes": [asdict(lane) for lane in lanes], "goals": goals}, lines)
    return 0 if all(goals.values()) else 1


def main() -> int:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=positive_int, default=1000, metavar="N")
    parser.add_argument("--concurrency", type=positive_int, default=64, metavar="N")
    parser.add_argument("--latency-ms", type=positive_int, default=200, metavar="MS")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results", metavar="DIR")
    return run_study(study, parser)


if __name__ == "__main__":
    sys.exit(main())
