"""Which shots stand before a question: the first ones, seeded random ones, or those that a plan names."""

from __future__ import annotations

import random
from collections.abc import Mapping

from bench.config import Shots
from bench.errors import PlanError, one_of
from bench.records import Sample

ShotsBySubject = Mapping[str, tuple[Sample, ...]]


def order_shots(shots: ShotsBySubject, wanted: Shots, task_name: str) -> ShotsBySubject:
    """Put each subject's shots into the order in which they are taken.

    Random ones are drawn once for each subject, so that its questions share them.

    Raises:
        PlanError: the plan names a shot that there is not.
    """
    if wanted.seed is not None:
        return {subject: _shuffled(own, f"{wanted.seed}/{subject}") for subject, own in shots.items()}
    if not wanted.ids:
        return shots
    known = {shot.id for own in shots.values() for shot in own}
    if unknown := [shot_id for shot_id in wanted.ids if shot_id not in known]:
        raise PlanError(f"task {task_name}: shots.ids: no shot {unknown[0]!r}; {one_of(unknown[0], known)}")
    return {subject: _named(own, wanted.ids) for subject, own in shots.items()}


def _shuffled(shots: tuple[Sample, ...], seed: str) -> tuple[Sample, ...]:
    return tuple(random.Random(seed).sample(shots, len(shots)))


def _named(shots: tuple[Sample, ...], ids: tuple[str, ...]) -> tuple[Sample, ...]:
    by_id = {shot.id: shot for shot in shots}
    return tuple(by_id[shot_id] for shot_id in ids if shot_id in by_id)
