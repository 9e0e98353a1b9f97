"""prompts -> traces: which samples are wanted, which are there already, and the rest in units to the pool."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from data_gen.ledger import Ledger
from data_gen.teachers import local, replay
from data_gen.teachers.base import Request, Sampling, Teacher
from data_gen.teachers.local import LocalTeacher
from data_gen.teachers.replay import ReplayTeacher
from distill.base.artifacts import Inputs, Made
from distill.base.config import EXECUTION, Config
from distill.base.errors import DistillError
from distill.base.fingerprint import fingerprint
from distill.base.progress import Progress
from distill.base.records import Prompt, Trace, content_id, write_rows

AnyTeacher = LocalTeacher | ReplayTeacher


class HarvestConfig(Config):
    """Who answers, how often a prompt is sampled, and on how many Ray actors."""

    teacher: Annotated[AnyTeacher, Field(discriminator="kind")]
    samples: int = Field(4, ge=1)
    sampling: Sampling = Sampling()
    seed: int = 0
    actors: Annotated[int, EXECUTION] = Field(2, ge=1)
    gpus_per_actor: Annotated[float, EXECUTION] = Field(0.0, ge=0)
    ray_address: Annotated[str | None, EXECUTION] = None


def traces(config: HarvestConfig, inputs: Inputs, out: Path, progress: Progress) -> Made:
    """Sample what the ledger in `out` lacks, then write all wanted traces to traces.parquet."""
    prompts = list(inputs["prompts"].rows(Prompt, "prompts.parquet"))
    wanted = _requests(config, prompts)
    ledger = Ledger(out / "ledger")
    have = {trace.id for trace in ledger.rows()}
    for damage in ledger.damaged:
        progress.say(damage)
    units = _units(config, wanted, have)
    missing = sum(len(requests) for requests, _ in units)
    if missing < len(wanted):
        progress.say(f"{len(wanted) - missing} of {len(wanted)} traces are in the ledger already")
    if units:
        _sample(config, units, missing, out / "ledger", progress)
    found = {trace.id: trace for trace in ledger.rows()}
    lost = [request.id for request in wanted if request.id not in found]
    if lost:
        raise DistillError(f"{len(lost)} traces are not in the ledger after the harvest, first {lost[0]}; run again")
    rows = [found[request.id] for request in wanted]
    write_rows(out / "traces.parquet", Trace, rows)
    return _made(config, prompts, rows)


def _request_fingerprint(config: HarvestConfig) -> str:
    return fingerprint(
        {"teacher": config.teacher.identity(), "sampling": config.sampling.identity(), "seed": config.seed}
    )


def _requests(config: HarvestConfig, prompts: Sequence[Prompt]) -> list[Request]:
    """All wanted samples, the samples of a prompt beside each other; of stored completions at most what is there."""
    how = _request_fingerprint(config)
    stored = replay.stored_count(config.teacher) if isinstance(config.teacher, ReplayTeacher) else None

    def wanted(prompt: Prompt) -> int:
        if stored is None:
            return config.samples
        # A prompt without any gives one request, so that its failure is counted.
        return min(config.samples, max(1, stored.get(str(prompt.meta.get("stored_id")), 0)))

    return [
        Request(content_id(prompt.id, index, how), prompt, index)
        for prompt in prompts
        for index in range(wanted(prompt))
    ]


def _units(config: HarvestConfig, wanted: Sequence[Request], have: set[str]) -> list[tuple[list[Request], int]]:
    """Batches of similar prompt length, without what is there already.

    A unit's make-up depends on what is wanted, not on what is there, and its rows become durable together: one
    that a crash interrupted is sampled again with its own seed, so a resumed harvest gives the traces of an
    undisturbed one.
    """
    size = config.teacher.batch_size
    order = sorted(wanted, key=lambda r: (len(r.prompt.text), r.prompt.id, r.sample_index), reverse=True)
    units = []
    for start in range(0, len(order), size):
        unit = order[start : start + size]
        seed = int(content_id(config.seed, *(request.id for request in unit)), 16) % 2**31
        left = [request for request in unit if request.id not in have]
        if left:
            units.append((left, seed))
    return units


def _teacher(config: HarvestConfig, threads: int) -> Teacher:
    if isinstance(config.teacher, LocalTeacher):
        return local.LocalSampler(config.teacher, config.sampling, threads)
    return replay.ReplaySampler(config.teacher, config.sampling)


def _build(config: HarvestConfig, threads: int) -> Callable[[], Teacher]:
    return functools.partial(_teacher, config.model_copy(update={"teacher": config.teacher.placed()}), threads)


def _sample(
    config: HarvestConfig,
    units: Sequence[tuple[list[Request], int]],
    missing: int,
    ledger: Path,
    progress: Progress,
) -> None:
    from data_gen.pool import sample_units

    totals: dict[str, float] = {"rows": 0, "failed": 0, "tokens": 0, "usd": 0}
    for counts in sample_units(
        units, functools.partial(_build, config), ledger,
        actors=config.actors, gpus_per_actor=config.gpus_per_actor, address=config.ray_address,
    ):  # fmt: skip
        totals = {name: totals[name] + counts[name] for name in totals}
        facts = f"{totals['tokens']:.0f} tokens, ${totals['usd']:.4f}, {totals['failed']:.0f} failed"
        progress.update(totals["rows"], missing, "traces", facts)


def _made(config: HarvestConfig, prompts: Sequence[Prompt], rows: Sequence[Trace]) -> Made:
    failures = sum(trace.error is not None for trace in rows)
    tokens = {
        "prompt": sum(trace.prompt_tokens for trace in rows),
        "reasoning": sum(trace.reasoning_tokens for trace in rows),
        "completion": sum(trace.completion_tokens for trace in rows),
    }
    teachers: dict[str, int] = {}
    for trace in rows:
        teachers[trace.teacher] = teachers.get(trace.teacher, 0) + 1
    summary = {
        "teacher": {
            "kind": config.teacher.kind,
            "name": config.teacher.name,
            "model": config.teacher.scorable,
            "revision": config.teacher.revision,
        },
        "teachers": teachers,
        "samples": config.samples,
        "sampling": config.sampling.identity(),
        "prompts": len(prompts),
        "failed": failures,
    }
    cost = sum(trace.cost_usd for trace in rows)
    return Made(len(prompts), len(rows), {}, summary, cost, tokens)


def check(config: HarvestConfig) -> list[str]:
    """Problems with the teacher, found without asking it anything."""
    if isinstance(config.teacher, LocalTeacher):
        return local.check(config.teacher, config.sampling)
    return replay.check(config.teacher)
