"""From a completion to a sample's score, in the lane `generate`. Pure functions, unless a form has programs run."""

from __future__ import annotations

from bench.records import Completion, PromptedSample, Sample, Score
from bench.tasks.form import Form
from bench.tasks.template import compile_template
from bench.writing.execution import execute
from bench.writing.extract import extract
from bench.writing.extract.numbers import canonical_number
from bench.writing.written import written_values


def score_completion(prompted: PromptedSample, completion: Completion, form: Form, num_shots_dropped: int = 0) -> Score:
    """Turn what a model wrote into its sample's score.

    Args:
        prompted: the sample as it was put.
        completion: what was written.
        form: how the answer is read, and what is measured.
        num_shots_dropped: shots that `prompted` lacks because the model had no room for them.
    """
    sample = prompted.sample
    labels = sample.variables.get("labels", ())
    is_refused = completion.finish_reason in ("refusal", "filtered")
    found = None
    if not is_refused:
        found = extract(completion.text, form.extraction, sample.subject, labels, sample.choices)
    is_choice = bool(sample.golds) and form.extraction.how == "letter"
    values = written_values(form.metrics, found or "", references(sample, form))
    if form.program is not None:
        values["pass_at_1"] = float(found is not None and _passes(form.program, sample, found))
    prediction = labels.index(found) if is_choice and found is not None else None
    return Score(
        id=sample.id,
        subject=sample.subject,
        gold=sample.gold if is_choice else None,
        prompt_hash=prompted.prompt.sha256,
        prediction=prediction,
        correct=prediction in sample.golds if is_choice else None,
        truncated=num_shots_dropped > 0 or completion.num_cut_tokens > 0,
        num_shots_dropped=num_shots_dropped,
        values=values,
        completion=completion,
        extracted=found,
    )


def _passes(program: str, sample: Sample, completion: str) -> bool:
    """Whether the program made of a completion ends without an error."""
    return execute(compile_template(program).render({**sample.variables, "completion": completion})).is_passed


def references(sample: Sample, form: Form) -> tuple[str, ...]:
    """The right answers as extracted ones are written; an option's label where there are no texts."""
    texts = sample.references or tuple(sample.variables["labels"][gold] for gold in sample.golds)
    if form.extraction.how != "number":
        return texts
    has_comma = sample.subject in form.extraction.decimal_comma
    return tuple(canonical_number(text, has_decimal_comma=has_comma) or text for text in texts)
