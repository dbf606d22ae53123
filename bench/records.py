"""The nouns that travel through a run: Sample → Prompt → Request → Loglikelihood or Completion → Score.

All are frozen; nothing here imports anything heavy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Lane = Literal["likelihood", "generate"]
Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "refusal", "filtered"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One question of a task.

    Attributes:
        id: unique in the task, stable across machines.
        subject: the task's grouping column, `""` where it has none.
        choices: the options' texts; empty for a question with a free answer.
        golds: indices of the right choices; most questions have one.
        variables: what templates may use: the row's columns, without the gold's, and the normalised
            `question`, `choices`, `labels`, `subject`.
        references: the right answers' texts, where the answer is written rather than chosen.
        order: indices of the choices as they are shown, where that is another order than the rows'.
    """

    id: str
    subject: str
    choices: tuple[str, ...]
    golds: tuple[int, ...]
    variables: Mapping[str, Any] = field(repr=False)
    references: tuple[str, ...] = ()
    order: tuple[int, ...] = ()

    @property
    def gold(self) -> int | None:
        """Index of the right choice, the first if there are several; None where nothing is chosen."""
        return self.golds[0] if self.golds else None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """All text before what is scored, in the pieces it may be shortened by.

    The text is `description + "".join(shots) + question`; each shot ends with its separator.
    Prompts of one subject share `description`, `shots` and `turns` (the same objects).

    Attributes:
        turns: each shot as its question and its answer without delimiter, for models that are spoken to in turns.
    """

    description: str
    shots: tuple[str, ...]
    question: str
    turns: tuple[tuple[str, str], ...] = ()

    @property
    def shared(self) -> str:
        """Description and shots: what the prompts of one subject have in common."""
        return self.description + "".join(self.shots)

    @property
    def text(self) -> str:
        """The whole context."""
        return self.shared + self.question

    def without_shots(self, num: int) -> Prompt:
        """The prompt without its last `num` shots."""
        kept = len(self.shots) - num
        return self if num == 0 else replace(self, shots=self.shots[:kept], turns=self.turns[:kept])

    @property
    def sha256(self) -> str:
        """lm-evaluation-harness's `prompt_hash`: SHA-256 of the context's UTF-8 bytes."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Request:
    """One context and one continuation, which owns the space at its start; or a prompt and nothing, to be completed.

    Attributes:
        is_whole: the continuation is a whole text, with nothing before it: where it is longer than the model's context
            it is scored in windows.
    """

    prompt: Prompt
    continuation: str
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class PromptedSample:
    """A sample and its requests.

    There is one request per choice, in the choices' order; a single one where there is nothing to choose. They share
    one `Prompt`, unless the choices stand in the context (as in WinoGrande).
    """

    sample: Sample
    requests: tuple[Request, ...]

    @property
    def prompt(self) -> Prompt:
        """The prompt, the first choice's if each has its own."""
        return self.requests[0].prompt

    def without_shots(self, num: int) -> PromptedSample:
        """The sample with the last `num` shots left out of its prompts."""
        if num == 0:
            return self
        shorter = {id(request.prompt): request.prompt.without_shots(num) for request in self.requests}
        requests = [replace(request, prompt=shorter[id(request.prompt)]) for request in self.requests]
        return replace(self, requests=tuple(requests))


@dataclass(frozen=True, slots=True)
class Loglikelihood:
    """What a model says of a continuation.

    Attributes:
        value: sum of ln p over the continuation's tokens (nats).
        is_greedy: whether each of those tokens was the most probable one.
        num_tokens: the continuation's tokens.
    """

    value: float
    is_greedy: bool
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote for a prompt.

    Attributes:
        finish_reason: `stop`: the model ended it, or a stop string did; `length`: it was cut off; `refusal`: the model
            would not answer; `filtered`: the service withheld the answer.
        num_prompt_tokens: as the model's tokenizer or the service counts them; None where it does not say.
        num_cached_tokens: those of them that the service had in its cache.
        num_completion_tokens: tokens that were written, reasoning included.
        num_reasoning_tokens: those of them that are not part of `text`.
        latency_s: from the request to the last token; None for what was generated in a batch.
        cost_usd: what the service charges for it; None where nothing is charged.
        model: which model answered, as the service names it.
        num_cut_tokens: cut from the prompt's left end, because it was too long for the model.
    """

    text: str
    finish_reason: FinishReason = "stop"
    num_prompt_tokens: int | None = None
    num_completion_tokens: int | None = None
    num_cached_tokens: int = 0
    num_reasoning_tokens: int = 0
    latency_s: float | None = None
    cost_usd: float | None = None
    model: str = ""
    num_cut_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """What becomes of one sample; a line of `samples.jsonl`.

    Either `error` is None and the score fields hold, or `error` says why the sample has no score;
    a sample with an error is never counted as wrong.

    Attributes:
        gold: index of the right choice, the first if there are several; None where nothing is chosen.
        prediction: index of the choice with the highest loglikelihood (the first on a tie), as `acc` takes it.
        prediction_norm: the same with each loglikelihood divided by its choice's length in characters (`acc_norm`).
        tie: the two highest loglikelihoods are exactly equal.
        truncated: tokens were cut from the left, or shots were dropped, to fit the model's context.
        num_shots_dropped: whole shots left out for the same reason.
        values: what metrics other than acc and acc_norm make of this sample, by their names.
        completion: what the model wrote, in the lane `generate`.
        extracted: the answer that was read from it; None if none was found, which is wrong, and no error.
    """

    id: str
    subject: str
    gold: int | None
    prompt_hash: str
    prediction: int | None = None
    prediction_norm: int | None = None
    correct: bool | None = None
    correct_norm: bool | None = None
    loglikelihoods: tuple[float, ...] = ()
    is_greedy: tuple[bool, ...] = ()
    num_choice_chars: tuple[int, ...] = ()
    tie: bool = False
    truncated: bool = False
    num_shots_dropped: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    completion: Completion | None = None
    extracted: str | None = None
    error: str | None = None
