"""Looks at a dataset before it is used, and says what is wrong with it: a page for people, JSON for scripts."""

import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from whale.config import configclass
from whale.data_prep import audit_actions, audit_checks, audit_images
from whale.data_prep.audit_facts import EpisodeFacts, collect
from whale.data_prep.audit_finding import REMEDIES, SEVERITIES, Finding
from whale.data_prep.audit_page import write_page
from whale.data_prep.episode import record_name
from whale.data_prep.oxe.registry import spec_of
from whale.data_prep.oxe.spec import DatasetSpec
from whale.data_prep.source import Episode, InputShard, Reader, Source, Unreadable, open_source
from whale.errors import UserError
from whale.progress import Progress
from whale.publish import write_json

SHOWN = 4
"""Episodes with thumbnails on the page."""
MOTION_EPISODES = 400
"""Episodes whose every step is kept; of more, one in so many, so that memory is bounded."""


@configclass
class AuditConfig:
    """Look at a dataset, and write a page of findings about it."""

    source: str
    """Folder or address (`gs://...`) of the dataset."""
    out: Path
    """Folder for `<dataset>.html` and `<dataset>.json`."""
    reader: Reader = "tfrecord"
    """What reads RLDS: our own reader, or tensorflow-datasets."""
    dataset: str | None = None
    """Name of the registry entry; null takes the dataset's own name."""
    spec: DatasetSpec | None = None
    """How to read the dataset, instead of a registry entry."""
    episodes: Annotated[int, Field(ge=1)] | None = 64
    """How many to look at, spread evenly over the input shards; null looks at all."""


def audit(config: AuditConfig) -> int:
    """Write the page and its JSON; returns 1 where there is a hard fault.

    Raises:
        UserError: there is no dataset at the address, nothing says how to read it, or no record is left to look at.
    """
    source = open_source(config.source, config.reader)
    spec = config.spec or spec_of(config.dataset or source.dataset)
    facts, findings = examine(source, spec, config.source, config.episodes)
    counts = {severity: sum(one.severity == severity for one in findings) for severity in SEVERITIES}
    report = {
        "dataset": spec.name, "source": config.source, "counts": counts,
        "episodes": {"looked_at": len(facts), "in_all": sum(shard.num_records for shard in source.shards)},
        "findings": [dataclasses.asdict(one) | {"remedy": REMEDIES[one.kind]} for one in findings],
    }
    write_json(config.out / f"{spec.name}.json", report)
    page = write_page(config.out / f"{spec.name}.html", report, facts, spec, source.shards)
    lines = [f"{spec.name}: {len(facts)} episodes looked at"]
    lines += [f"  {one.severity:<8} {one.kind}: {one.where}: {_number(one.number)}{one.what}" for one in findings]
    sys.stdout.write("\n".join([*lines, f"  {page}"]) + "\n")
    return 1 if counts["hard"] else 0


def _number(number: float | None) -> str:
    return "" if number is None else f"{number:.4g} "


def examine(source: Source, spec: DatasetSpec, address: str, episodes: int | None,
            ) -> tuple[list[EpisodeFacts], list[Finding]]:
    """Facts of the episodes looked at, and the findings, the worst first."""
    absent = _absent(source, spec)
    cameras = [camera for camera in spec.cameras if camera not in absent]
    facts: list[EpisodeFacts] = []
    lost: list[Finding] = []
    chosen = _chosen(source.shards, episodes)
    total = sum(count for _, count in chosen)
    every, shown = math.ceil(total / MOTION_EPISODES), math.ceil(total / SHOWN)
    progress = Progress("audit", total, "episodes")
    for shard, count in chosen:
        for one in _read(source, shard, cameras, count):
            name = record_name(shard, one.record)
            if isinstance(one, Unreadable):
                lost.append(Finding("hard", "unreadable", f"{shard.name}, {name}", one.num_records,
                                    f"records lost: {one.reason}"))
            else:
                found = collect(one, name, shard.split, spec, cameras, show=len(facts) % shown == 0)
                facts.append(found if len(facts) % every == 0 else found.lean())
            progress.advance()
    progress.close()
    if not facts and not lost:
        raise UserError(f"{address} holds no records", "fetch the dataset again")
    return facts, sorted([*lost, *_check(facts, spec, address, absent)], key=lambda one: SEVERITIES.index(one.severity))


def _check(facts: list[EpisodeFacts], spec: DatasetSpec, address: str, absent: dict[str, str]) -> Iterator[Finding]:
    yield from audit_checks.version(address, spec)
    if not facts:
        return
    finite = [one for one in facts if not one.not_finite]
    yield from audit_images.presence(facts, absent)
    yield from audit_images.channels(facts, spec)
    yield from audit_checks.values(facts)
    yield from audit_checks.rows(facts)
    yield from audit_checks.rate(facts, spec)
    yield from audit_checks.labels(facts, spec)
    yield from audit_checks.duplicates(facts)
    if finite:
        yield from audit_images.frames(finite)
        yield from audit_actions.motion(finite, spec)
        yield from audit_actions.plausible(finite, spec)
        yield from audit_actions.gripper_values(finite, spec)
        yield from audit_actions.gripper_side(finite)
        yield from audit_actions.dimensions(finite, spec)
        yield from audit_actions.jumps(finite)
        yield from audit_actions.repeats_state(finite)


def _absent(source: Source, spec: DatasetSpec) -> dict[str, str]:
    """Cameras that the source refuses, with its reason; a source that refuses none at all is read."""
    absent = {}
    for camera in spec.cameras:
        try:
            next(iter(source.read(source.shards[0], [camera])), None)
        except UserError as error:
            if camera in error.args[0]:
                absent[camera] = " ".join(error.args)
    return absent


def _chosen(shards: tuple[InputShard, ...], episodes: int | None) -> list[tuple[InputShard, int]]:
    """Input shards to read with how many of their first records, in proportion to what they hold."""
    ends = np.cumsum([shard.num_records for shard in shards])
    wanted = min(episodes or ends[-1], ends[-1])
    units = np.searchsorted(ends, (2 * np.arange(wanted) + 1) * ends[-1] // (2 * max(wanted, 1)), side="right")
    counts = np.bincount(units, minlength=len(shards)).tolist()
    return [(shard, count) for shard, count in zip(shards, counts, strict=True) if count]


def _read(source: Source, shard: InputShard, cameras: list[str], count: int) -> Iterator[Episode | Unreadable]:
    """The first records of an input shard; a file that cannot be opened at all is as many unreadable records."""
    try:
        for _, one in zip(range(count), source.read(shard, cameras), strict=False):
            yield one
    except UserError as error:
        yield Unreadable(0, None, error.args[0], shard.num_records)
