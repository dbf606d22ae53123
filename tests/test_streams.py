"""The official SDKs on streams of the tests' server: the pieces as they come, and then the answer `complete` gives."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from api_server import KEY, ApiServer, Faults, Said
from api_stream import Tempo
from test_clients import CHAT, CLIENTS, access_to, ask

from bench.api.connect import connect
from bench.api.contract import Access, Answer
from bench.api.failures import AccessFailure, ApiFailure, RequestFailure, ServiceFailure
from bench.api.presets import load_preset
from bench.completer import GenerationSettings
from bench.records import Message


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, KEY)


def listen(
    access: Access, chat: tuple[Message, ...] = CHAT, pieces: list[tuple[str, bool]] | None = None, **settings: object
) -> tuple[Answer, list[tuple[str, bool]]]:
    """The answer of a stream, and its pieces: texts, and whether they are thoughts."""
    heard = [] if pieces is None else pieces

    def hear(text: str, *, is_thought: bool = False) -> None:
        heard.append((text, is_thought))

    async def run() -> Answer:
        client = connect(access, load_preset(access.provider).client)
        try:
            return await client.stream(chat, GenerationSettings(**{"max_tokens": 7, **settings}), hear)  # type: ignore[arg-type]
        finally:
            await client.close()

    return asyncio.run(run()), heard


ANSWERS = {
    "stop": Said("one two three four five"),
    "length": Said("one two three", "length"),
    "refusal": Said("I would rather not", "refusal"),
    "filtered": Said("", "filtered"),
    "empty": Said(""),
    "letters": Said("B", first_token={"B": -0.1, "A": -2.5}),
    "cut": Said("B. Question: next", "length"),
    "long": Said("x" * 300_000),  # in one piece, longer than what an HTTP library reads at once
}


@pytest.mark.parametrize("provider", CLIENTS)
@pytest.mark.parametrize("kind", ANSWERS)
def test_the_answer_is_that_of_a_request_without_a_stream(server: ApiServer, provider: str, kind: str) -> None:
    server.answer = lambda _: ANSWERS[kind]
    access = access_to(server, provider)
    stops = ("Question:",) if kind == "cut" else ()
    answer, heard = listen(access, stop=stops)
    assert answer == ask(access, stop=stops)
    is_said = not (provider == "openai" and kind == "refusal")  # OpenAI streams refusals apart from the text
    assert "".join(text for text, _ in heard) == (ANSWERS[kind].text if is_said else "")
    assert (
        server.counts.bodies[0].items()
        >= {name: value for name, value in server.counts.bodies[1].items() if name != "stream"}.items()
    )


def test_a_piece_may_hold_several_tokens(server: ApiServer) -> None:
    server.answer = lambda _: Said("one two three four five")
    server.tempo = lambda _: Tempo(words_per_piece=2)
    for provider in CLIENTS:
        answer, heard = listen(access_to(server, provider))
        assert heard == [("one two ", False), ("three four ", False), ("five", False)]
        assert answer.text == "one two three four five"
        assert answer.usage is not None
        assert answer.usage.num_completion_tokens == 8


def test_thoughts_are_heard_and_are_no_part_of_the_answer(server: ApiServer) -> None:
    server.answer = lambda _: Said("B", thought="let me see")
    for provider in CLIENTS:
        answer, heard = listen(access_to(server, provider))
        assert heard == [("let ", True), ("me ", True), ("see", True), ("B", False)]
        assert answer.text == "B"


def test_usage_is_asked_for_unless_the_plan_says_otherwise(server: ApiServer) -> None:
    answer, _ = listen(access_to(server, "openai"))
    assert answer.usage is not None
    answer, _ = listen(access_to(server, "openai", extra_body={"stream_options": None}))
    assert answer.usage is None
    asked, bare = server.counts.bodies
    assert (asked["stream"], asked["stream_options"]) == (True, {"include_usage": True})
    assert bare["stream"]
    assert "stream_options" not in bare


KINDS = {
    **dict.fromkeys(("429-after", "500", "529", "reset", "cut", "invalid-json", "error", "ended"), ServiceFailure),
    "key": AccessFailure,
    "unfit": RequestFailure,
}


@pytest.mark.parametrize("provider", CLIENTS)
@pytest.mark.parametrize(("fault", "kind"), KINDS.items())
def test_failures_of_streams_are_of_their_kind_and_show_no_key(
    server: ApiServer, provider: str, fault: str, kind: type[ApiFailure]
) -> None:
    server.faults = Faults(1.0, (fault,)) if kind is ServiceFailure else Faults()
    server.key = "another" if fault == "key" else KEY
    heard: list[tuple[str, bool]] = []
    with pytest.raises(kind) as caught:
        listen(access_to(server, provider), (Message("user", f"{fault} {KEY} a b c d"),), heard)
    assert KEY not in str(caught.value)
    if isinstance(caught.value, ServiceFailure):
        is_begun = fault in ("cut", "invalid-json", "error", "ended")
        assert bool(heard) == is_begun
        assert caught.value.is_throttle == (fault in ("429-after", "529", "error"))
        assert caught.value.is_billed == (fault == "reset" or is_begun)
        assert caught.value.retry_after_s == (0.01 if fault == "429-after" else None)
