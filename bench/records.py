"""The nouns that travel through a run: Sample → Prompt → Request → Loglikelihood → Score.

All are frozen; nothing here imports anything heavy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """One question of a task.

    Attributes:
        id: unique in the task, stable across machines.
        subject: the task's grouping column, `""` where it has none.
        choices: the options' texts.
        gold: index of the right choice.
        variables: what templates may use: the row's columns, without the gold's, and the normalised
            `question`, `choices`, `labels`, `subject`.
    """

    id: str
    subject: str
    choices: tuple[str, ...]
    gold: int
    variables: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Prompt:
    """All text before what is scored, in the pieces it may be shortened by.

    The text is `description + "".join(shots) + question`; each shot ends with its separator.
    Prompts of one subject share `description` and `shots` (the same objects).
    """

    description: str
    shots: tuple[str, ...]
    question: str

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
        return self if num == 0 else replace(self, shots=self.shots[: len(self.shots) - num])

    @property
    def sha256(self) -> str:
        """lm-evaluation-harness's `prompt_hash`: SHA-256 of the context's UTF-8 bytes."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Request:
    """One context and one continuation. The continuation owns the space at its start."""

    prompt: Prompt
    continuation: str


@dataclass(frozen=True, slots=True)
class PromptedSample:
    """A sample and its requests, one per choice, in the choices' order; they share one `Prompt`."""

    sample: Sample
    requests: tuple[Request, ...]


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
class Score:
    """What becomes of one sample; a line of `samples.jsonl`.

    Either `error` is None and the score fields hold, or `error` says why the sample has no score;
    a sample with an error is never counted as wrong.

    Attributes:
        prediction: index of the choice with the highest loglikelihood (the first on a tie), as `acc` takes it.
        prediction_norm: the same with each loglikelihood divided by its choice's length in characters (`acc_norm`).
        tie: the two highest loglikelihoods are exactly equal.
        truncated: tokens were cut from the left, or shots were dropped, to fit the model's context.
        num_shots_dropped: whole shots left out for the same reason.
    """

    id: str
    subject: str
    gold: int
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
    error: str | None = None
