"""Prompts as conversations: what a model that is spoken to in turns is told, and what a chat template makes of it.

The conversation is lm-evaluation-harness 0.4.13's: system prompt and description are the system's turn, each shot is a
question and an answer, or all of them and the question are one turn of the user's.
"""

from __future__ import annotations

import hashlib
import json
import os.path
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from bench.records import Message, Prompt, PromptedSample

Render = Callable[[Sequence[Message]], str]


def conversation(prompt: Prompt, *, is_multi_turn: bool) -> tuple[Message, ...]:
    """A prompt as turns, the last of them the user's."""
    system = (Message("system", prompt.description),) if prompt.description else ()
    if not is_multi_turn:
        return (*system, Message("user", "".join(prompt.shots) + prompt.question))
    turns = [
        message for asked, said in prompt.turns for message in (Message("user", asked), Message("assistant", said))
    ]
    return (*system, *turns, Message("user", prompt.question))


def conversation_hash(samples: Iterable[PromptedSample], *, is_multi_turn: bool) -> str:
    """SHA-256 over all conversations and continuations: equal if and only if every one is, whatever the template."""
    digest = hashlib.sha256()
    for sample in samples:
        for request in sample.requests:
            messages = conversation(request.prompt, is_multi_turn=is_multi_turn)
            said = [[message.role, message.text] for message in messages]
            digest.update(json.dumps([said, request.continuation]).encode() + b"\n")
    return digest.hexdigest()


_NOTHING = Prompt("", (), "")


@dataclass(frozen=True, slots=True)
class ChatPrompt(Prompt):
    """A prompt as a chat template writes it.

    Attributes:
        description: what the prompts with these shots begin with, template and all.
        plain: the prompt before.
        render: the template.
        rendered: what it makes of the conversation.
    """

    plain: Prompt = _NOTHING
    render: Callable[[Prompt], str] = str
    rendered: str = ""

    @property
    def shared(self) -> str:
        """What the prompts with these shots have in common."""
        return self.description

    @property
    def text(self) -> str:
        """The whole context."""
        return self.rendered

    def without_shots(self, num: int) -> Prompt:
        """The prompt without its last `num` shots, from the conversation on."""
        return self if num == 0 else _rendered(self.plain.without_shots(num), self.render)


def _rendered(plain: Prompt, render: Callable[[Prompt], str]) -> ChatPrompt:
    return ChatPrompt("", plain.shots, plain.question, plain.turns, plain=plain, render=render, rendered=render(plain))


def in_chat(
    samples: Sequence[PromptedSample], render: Render, delimiter: str, *, is_multi_turn: bool
) -> tuple[PromptedSample, ...]:
    """Samples with their prompts as a chat template writes them; continuations begin the assistant's turn.

    Args:
        samples: with plain prompts.
        render: applies the template to a conversation, up to where the assistant begins.
        delimiter: what stands before plain continuations and has no place here.
        is_multi_turn: see `conversation`.
    """

    def write(prompt: Prompt) -> str:
        return render(conversation(prompt, is_multi_turn=is_multi_turn))

    made = [[_rendered(prompt, write) for prompt in _prompts(sample)] for sample in samples]
    shared: dict[tuple[str, int], str] = {}
    for own in made:
        for prompt in own:
            key = (prompt.plain.description, id(prompt.shots))
            shared[key] = _common_prefix(shared.get(key, prompt.rendered), prompt.rendered)
    chat = []
    for sample, own in zip(samples, made, strict=True):
        common = [replace(prompt, description=shared[prompt.plain.description, id(prompt.shots)]) for prompt in own]
        by_plain = {id(prompt.plain): prompt for prompt in common}
        requests = [
            replace(
                request, prompt=by_plain[id(request.prompt)], continuation=request.continuation.removeprefix(delimiter)
            )
            for request in sample.requests
        ]
        chat.append(replace(sample, requests=tuple(requests)))
    return tuple(chat)


def _common_prefix(one: str, other: str) -> str:
    return os.path.commonprefix([one, other])  # noqa: RUF071  # character by character is what is wanted


def _prompts(sample: PromptedSample) -> list[Prompt]:
    """A sample's prompts, each once."""
    return list({id(request.prompt): request.prompt for request in sample.requests}.values())
