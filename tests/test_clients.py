"""The official SDKs against the test's server: what they send, and what becomes of what they receive."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence

import pytest
from api_server import KEY, ApiServer, Faults, Said

from bench.api.connect import connect, find_access
from bench.api.contract import Access, Answer
from bench.api.failures import AccessFailure, ApiFailure, RequestFailure, ServiceFailure
from bench.api.presets import load_preset
from bench.api.spec import ApiSpec
from bench.completer import GenerationSettings
from bench.errors import MissingPackageError
from bench.records import Message

CHAT = (
    Message("system", "be brief"),
    Message("user", "one"),
    Message("assistant", "two"),
    Message("user", "three"),
)
CLIENTS = ["openai", "anthropic", "gemini"]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "DEEPSEEK_API_KEY"):
        monkeypatch.setenv(name, KEY)


def access_to(server: ApiServer, provider: str, **more: object) -> Access:
    base_url = server.address + ("/v1" if load_preset(provider).client == "openai" else "")
    spec = ApiSpec.model_validate({"base_url": base_url, "timeout_s": 5.0, **more})
    return find_access(provider, load_preset(provider), "some-model", spec)


def ask(access: Access, chat: Sequence[Message] = CHAT, **settings: object) -> Answer:
    async def run() -> Answer:
        client = connect(access, load_preset(access.provider).client)
        try:
            return await client.complete(chat, GenerationSettings(**{"max_tokens": 7, **settings}))  # type: ignore[arg-type]
        finally:
            await client.close()

    return asyncio.run(run())


def test_what_is_sent(server: ApiServer) -> None:
    stops = ("\n\n", "Q:", "a", "b", "c", "d")
    for provider in CLIENTS:
        ask(access_to(server, provider, extra_body={"some": "thing"}), stop=stops)
    chat, messages, gemini = server.counts.bodies
    assert chat == {
        "model": "some-model",
        "messages": [{"role": message.role, "content": message.text} for message in CHAT],
        "max_completion_tokens": 7,
        "temperature": 0.0,
        "stop": ["Q:", "a", "b", "c"],  # four at most, and none that is blank
        "some": "thing",
    }
    assert messages == {
        "model": "some-model",
        "system": "be brief",
        "messages": [{"role": message.role, "content": message.text} for message in CHAT[1:]],
        "max_tokens": 7,
        "temperature": 0.0,
        "stop_sequences": ["Q:", "a", "b", "c"],
        "some": "thing",
    }
    assert [part["text"] for content in gemini["contents"] for part in content["parts"]] == ["one", "two", "three"]
    assert [content["role"] for content in gemini["contents"]] == ["user", "model", "user"]
    assert gemini["systemInstruction"]["parts"] == [{"text": "be brief"}]
    assert gemini["generationConfig"] == {"temperature": 0.0, "maxOutputTokens": 7, "stopSequences": ["Q:", *"abcd"]}
    assert gemini["some"] == "thing"


def test_settings_that_a_model_does_not_take_are_left_out(server: ApiServer) -> None:
    for provider in CLIENTS:
        ask(access_to(server, provider, omit=["temperature", "stop"]), stop=("Q:",))
    for body in server.counts.bodies:
        assert not {"temperature", "stop", "stop_sequences"} & {*body, *body.get("generationConfig", {})}


def test_the_environment_says_nothing_but_the_key(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "our-organisation")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_API_KEY", "another")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    for provider in [*CLIENTS, "deepseek"]:
        assert ask(access_to(server, provider)).text == "echo be brief\none\ntwo\nthree"
    *_, deepseek = server.counts.headers
    assert "our-organisation" not in deepseek.values()
    assert KEY in deepseek["authorization"]


def test_what_is_received(server: ApiServer) -> None:
    for provider in CLIENTS:
        answer = ask(access_to(server, provider))
        assert answer.text == "echo be brief\none\ntwo\nthree"
        assert answer.finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.num_prompt_tokens == 5
        assert answer.usage.num_cached_tokens == 1
        assert answer.usage.num_completion_tokens == 9
        assert answer.usage.num_reasoning_tokens == 3
    assert ask(access_to(server, "openai")).model == "some-model-2026-01-01"


def test_a_completion_ends_before_its_first_stop_whatever_the_provider_does(server: ApiServer) -> None:
    server.answer = lambda _: Said("B\n\nQuestion: next", reason="length")
    for provider in CLIENTS:
        answer = ask(access_to(server, provider), stop=("\n\n",))
        assert (answer.text, answer.finish_reason) == ("B", "stop")


KINDS = {
    **dict.fromkeys(("429-after", "500", "529", "reset", "cut", "invalid-json"), ServiceFailure),
    "key": AccessFailure,
    "unfit": RequestFailure,
}


@pytest.mark.parametrize("provider", CLIENTS)
@pytest.mark.parametrize(("fault", "kind"), KINDS.items())
def test_failures_are_of_their_kind_and_show_no_key(
    server: ApiServer, provider: str, fault: str, kind: type[ApiFailure]
) -> None:
    server.faults = Faults(1.0, (fault,)) if kind is ServiceFailure else Faults()
    server.key = "another" if fault == "key" else KEY
    with pytest.raises(kind) as caught:
        ask(access_to(server, provider), (Message("user", f"{fault} {KEY}"),))
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    if isinstance(caught.value, ServiceFailure):
        assert caught.value.is_throttle == (fault in ("429-after", "529"))
        assert caught.value.is_billed == (fault in ("reset", "cut", "invalid-json"))
        assert caught.value.retry_after_s == (0.01 if fault == "429-after" else None)


def test_a_missing_package_is_the_command_that_installs_it(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("To use the aiohttp client you must have installed the package with the `aiohttp` extra")

    for provider, package in [("openai", "openai"), ("anthropic", "anthropic"), ("gemini", "google-genai")]:
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "google" if provider == "gemini" else package, None)
            with pytest.raises(MissingPackageError, match=rf"pip install 'steelyard\[{package}\]'"):
                ask(access_to(server, provider))
        with monkeypatch.context() as patched:
            if provider == "gemini":
                patched.setitem(sys.modules, "aiohttp", None)
            else:
                patched.setattr(f"{package}.DefaultAioHttpClient", refuse)
            with pytest.raises(MissingPackageError, match=rf"pip install 'steelyard\[{package}\]'"):
                ask(access_to(server, provider))
