"""What is known beside the runs: published scores with what differs from a run, and the models' facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.catalog.models import LOCAL, Assessment, ModelCard, find_model, load_models
from bench.catalog.published import NO_BASELINE, Setting, differences, load_published
from bench.report.blocks import describe_task, headline
from bench.report.sheet import Cell, Column, Table, missing
from bench.report.text import count, look_up, one_line
from bench.runs.reading import Run
from bench.tasks.task import load_task

PUBLISHED_COLUMNS = (
    Column("model", "model"),
    Column("score", "score", is_number=True),
    Column("num_fewshot", "shots", is_number=True),
    Column("lane", "lane"),
    Column("snapshot", "snapshot"),
    Column("differences", "differs from the runs in", is_long=True),
    Column("source", "source", is_long=True),
    Column("verified", "checked"),
)
MODEL_COLUMNS = (
    Column("model", "model"),
    Column("maker", "maker"),
    Column("licence", "licence"),
    Column("restricts", "it restricts", is_long=True),
    Column("data_goes_to", "data goes to"),
    Column("context_length", "context", is_number=True),
    Column("openness", "openness", is_long=True),
    Column("published", "published", is_long=True),
)
NOT_ASSESSED = "not assessed"
NOT_LISTED = "not in the catalogue"


def card_of(run: Run) -> ModelCard | None:
    """What the catalogue has of a run's model."""
    return find_model(look_up(run.info, "model.source"), look_up(run.info, "model.name"))


def published_beside(block: Sequence[Run], which: str) -> Table | None:
    """What others have published for a block's task; None if nothing.

    Args:
        block: runs of one setting.
        which: `all`; `own`: of the block's own models only; `none`.
    """
    run = block[0]
    own = {card.model for other in block if (card := card_of(other)) is not None}
    is_part = any(look_up(run.info, f"task.{key}") for key in ("limit", "subjects"))
    shots, lane = look_up(run.info, "task.num_fewshot"), run.info.get("lane", "likelihood")
    setting = Setting(headline(run), shots, lane, is_part=is_part)
    models = {"all": None, "own": own, "none": set()}[which]
    title = f"Published scores, beside {describe_task(run)}"
    return _published(str(look_up(run.info, "task.name")), setting, title, models)


def published_of(task: str) -> Table | None:
    """What others have published for a task of which there is no run, beside the way it is scored by default.

    Raises:
        TaskError: there is no such task.
    """
    loaded = load_task(task)
    form, shots = loaded.forms[loaded.scoring], loaded.num_fewshot_of(loaded.scoring)
    title = f"Published scores, beside {loaded.name} · {loaded.scoring} · {shots}-shot, of which there is no run"
    return _published(loaded.name, Setting(form.metric, shots, form.lane), title, None)


def _published(task: str, setting: Setting, title: str, models: set[str] | None) -> Table | None:
    catalog, rows = load_published(), []
    for model, score in catalog.of_task(task):
        if models is not None and model not in models:
            continue
        unlike = "; ".join(differences(score, setting))
        rows.append(
            (
                Cell(model, model),
                Cell(score.score / 100, f"{score.score:.{1 if round(score.score, 1) == score.score else 2}f}"),
                missing() if score.shots is None else Cell(score.shots, str(score.shots)),
                missing() if score.lane is None else Cell(score.lane, score.lane),
                missing() if score.snapshot is None else Cell(score.snapshot, score.snapshot),
                Cell(unlike, unlike),
                Cell(catalog.sources[score.source], catalog.sources[score.source]),
                Cell(score.verified, score.verified),
            )
        )
    return Table(one_line(title), PUBLISHED_COLUMNS, tuple(rows)) if rows else None


def models_table(runs: Iterable[Run], published: Iterable[Table], *, has_all: bool) -> Table:
    """Licence, openness and the rest of every model in the report.

    Args:
        runs: their models, whether the catalogue has them or not.
        published: the models in these tables, too.
        has_all: also the systems that have no public baseline, which it says of them.
    """
    entries = load_published().models if has_all else ()
    without = {entry.model: entry.no_public_baseline for entry in entries if entry.no_public_baseline}
    rows = {}
    for run in runs:
        card, goes = card_of(run), _goes_to(run)
        name = str(look_up(run.info, "model.name")) if card is None else card.model
        row = _unknown_row(name, goes or LOCAL) if card is None else _model_row(card, without.get(name), goes)
        rows[name, goes] = row
    names = [cell.text for table in published for cell in table.cells("model")]
    for name in dict.fromkeys([*names, *without]):
        card = find_model(name)
        assert card is not None  # the catalogues are checked against each other when they are read
        rows.setdefault((name, None), _model_row(card, without.get(name)))
    return Table("Models", MODEL_COLUMNS, tuple(rows.values()))


def _goes_to(run: Run) -> str | None:
    """Who sees the questions of a run that was made through an API, whoever made the model; else None."""
    if look_up(run.info, "model.kind") != "api":
        return None
    return str(look_up(run.info, "model.provider") or look_up(run.info, "model.base_url") or "an API")


def _unknown_row(name: str, goes: str) -> tuple[Cell, ...]:
    """A model that the catalogue lacks: nothing is said of it but where its questions go."""
    known = {"model": name, "licence": NOT_LISTED, "data_goes_to": goes, "openness": NOT_LISTED}
    return tuple(
        Cell(known[column.key], one_line(known[column.key])) if column.key in known else missing()
        for column in MODEL_COLUMNS
    )


def _model_row(card: ModelCard, no_baseline: str | None, goes: str | None = None) -> tuple[Cell, ...]:
    licence = load_models().licence_of(card)
    assessed = [f"{one.index} {share_open(one)} ({one.assessed}, {one.as_of})" for one in card.openness]
    openness = "; ".join(assessed) or NOT_ASSESSED
    said = "" if no_baseline is None else f"{NO_BASELINE}: {no_baseline}"
    return (
        Cell(card.model, card.model),
        Cell(card.maker, card.maker),
        Cell(licence.name, licence.name),
        Cell(licence.restricts or "", licence.restricts or ""),
        Cell(goes or card.data_goes_to, one_line(goes or card.data_goes_to)),
        missing() if card.context_length is None else Cell(card.context_length, count(card.context_length)),
        Cell(openness, openness),
        Cell(said, said),
    )


def share_open(assessment: Assessment) -> str:
    """`12.5 of 14`."""
    num, of = load_models().share_open(assessment)
    return f"{num:g} of {of}"
