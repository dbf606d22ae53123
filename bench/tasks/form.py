"""How a question is put to a model: the part `forms` of a task file, all text of its prompts."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bench.errors import one_of
from bench.measures import MEASURES
from bench.records import Lane
from bench.schema import Many, StrictModel
from bench.tasks.template import template_variables
from bench.writing.extract import Extraction


class Generate(StrictModel):
    """How a completion is asked for.

    Attributes:
        max_tokens: it is cut off after so many.
        stop: texts that end it; they are not part of it.
        temperature: 0: greedy, the most probable token each time.
    """

    max_tokens: Annotated[int, Field(ge=1)]
    stop: Many[Annotated[str, Field(min_length=1)]] = ()
    temperature: Annotated[float, Field(ge=0)] = 0.0


_WHOLE = Extraction.model_validate("text")


class Form(StrictModel):
    """One way of putting a question to a model: all text of its prompts.

    A context is the description, then the shots, then the question. A shot is its question, `delimiter`, the right
    answer and `shot_separator`. What is scored is `delimiter` and a continuation, or what the model writes.

    Exactly one of `continuations`, `continuation` and `generate` says what the model is asked.

    Attributes:
        description: template over the same as `question`, once before everything.
        question: template over the row's columns and `question`, `choices`, `labels`, `subject`.
        continuations: the likelihoods of `labels` (A, B, ...) or of `choices` (the choices' own texts).
        continuation: a template; the likelihood of one text. `question` may use `choice`: then each choice has a
            context of its own, before the same continuation. With an empty `question`, the likelihood of a whole
            text, in windows where it is longer than the model's context.
        generate: the model is to write the answer.
        extract: how the answer is read from what the model wrote; by default all of it is the answer.
        program: template of a Python program over the question's variables and `completion`, the answer; it is run, and
            right if it ends without an error (`pass_at_1`).
        answer: template of what a shot shows as its answer where that is not one of the continuations.
        metrics: what is reported; by default what follows from what is asked.
        metric: the headline metric; by default the first.
        num_fewshot: how many shots, where this form needs another number than the task's others.
    """

    description: str = ""
    question: str
    continuations: Literal["labels", "choices"] | None = None
    continuation: str | None = None
    generate: Generate | None = None
    extract: Extraction | None = None
    program: str | None = None
    answer: str | None = None
    delimiter: str = " "
    shot_separator: str = "\n\n"
    metrics: Annotated[Many[str], Field(min_length=1)] = ()
    metric: str = ""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None

    @property
    def lane(self) -> Lane:
        """What the model is asked for."""
        return "likelihood" if self.generate is None else "generate"

    @property
    def extraction(self) -> Extraction:
        """How the answer is read."""
        return self.extract or _WHOLE

    @property
    def has_choice_in_context(self) -> bool:
        """Whether each choice has a context of its own."""
        return self.continuation is not None and _uses_choice(self.question)

    @property
    def asks_for_label(self) -> bool:
        """Whether the answer is a choice's label, so that it matters where the choice stands."""
        return self.continuations == "labels" or self.extraction.how == "letter"

    @property
    def needs_choices(self) -> bool:
        """Whether rows without choices cannot be put this way."""
        return self.continuations is not None or self.has_choice_in_context or self.asks_for_label

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        """What is reported, unless the file says it."""
        if not isinstance(data, dict):
            return data
        metrics = data.get("metrics", _usual_metrics(data))
        first = metrics[0] if isinstance(metrics, list) and metrics else ""
        return {"metric": first, **data, "metrics": metrics}

    @model_validator(mode="after")
    def _check(self) -> Form:
        asked = [key for key in ("continuations", "continuation", "generate") if getattr(self, key) is not None]
        if len(asked) != 1:
            raise ValueError(
                f"has {' and '.join(asked) if asked else 'none'} of `continuations`, `continuation` and `generate`; "
                "exactly one says what the model is asked"
            )
        if self.extract is not None and self.generate is None:
            raise ValueError("`extract` goes with `generate`: there is no completion to read")
        allowed = [name for name, measure in MEASURES.items() if self.lane in measure.lanes]
        for name in self.metrics:
            if name not in allowed:
                raise ValueError(f"metrics: {name!r} is no metric of lane {self.lane}; {one_of(name, allowed)}")
        if twice := [name for name, num in Counter(self.metrics).items() if num > 1]:
            raise ValueError(f"metrics: {twice[0]!r} is listed twice")
        if (self.program is not None) != ("pass_at_1" in self.metrics) or (self.program and not self.generate):
            raise ValueError("`program` goes with `generate` and the metric `pass_at_1`, and that with it")
        if "acc" in self.metrics and self.generate is not None and self.extraction.how != "letter":
            raise ValueError("metrics: 'acc' is of options; with `generate` it needs `extract: letter`")
        if self.metric not in self.metrics:
            raise ValueError(f"metric: {self.metric!r} is not among its metrics; {one_of(self.metric, self.metrics)}")
        return self


def _usual_metrics(form: dict[str, Any]) -> list[str]:
    """What a form reports unless it says so itself."""
    if "generate" in form and "program" in form:
        return ["pass_at_1"]
    if "generate" in form:
        return ["acc"] if form.get("extract") in ("letter", {"as": "letter"}) else ["exact_match"]
    if "continuations" in form:
        return ["acc", "acc_norm"]
    if not form.get("question"):
        return ["word_perplexity", "byte_perplexity", "bits_per_byte"]
    return ["acc"] if _uses_choice(form["question"]) else ["acc", "perplexity"]


def _uses_choice(question: object) -> bool:
    try:
        return isinstance(question, str) and "choice" in template_variables(question)
    except ValueError:  # `check_templates` says what is wrong with it
        return False
