"""traces -> kept: every filter looks at every trace; rejects are kept, with the reason, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_gen.filters.base import Filter, Finding
from data_gen.filters.complete import Complete, CompleteConfig
from data_gen.filters.contamination import Contamination, ContaminationConfig
from data_gen.filters.correct import Correct, CorrectConfig
from data_gen.filters.duplicate import Duplicate, DuplicateConfig
from data_gen.filters.length import Length, LengthConfig
from distill.base.artifacts import Inputs, Made, append_json
from distill.base.config import Config
from distill.base.errors import InputError
from distill.base.progress import Progress
from distill.base.records import Prompt, Trace, Verdict, write_rows


class SiftConfig(Config):
    """The filters, in the order in which a refused trace is counted; each can be switched off."""

    complete: CompleteConfig = CompleteConfig()
    length: LengthConfig = LengthConfig()
    correct: CorrectConfig = CorrectConfig()
    contamination: ContaminationConfig = ContaminationConfig()
    duplicate: DuplicateConfig = DuplicateConfig()


@dataclass(frozen=True)
class Sifted:
    """One trace with what every filter said of it."""

    trace: Trace
    prompt: Prompt
    verdicts: tuple[Verdict, ...]

    @property
    def refusal(self) -> Verdict | None:
        """The first verdict that is not "kept": the one under which the trace is counted."""
        return next((verdict for verdict in self.verdicts if verdict.verdict != "kept"), None)


def kept(config: SiftConfig, inputs: Inputs, out: Path, progress: Progress) -> Made:
    """Sift all traces; leaves kept.parquet, rejected.parquet, verdicts.parquet and disagreements.jsonl."""
    prompts = {prompt.id: prompt for prompt in inputs["prompts"].rows(Prompt, "prompts.parquet")}
    questions = list(inputs["questions"].rows(Prompt, "questions.parquet"))
    traces = list(inputs["traces"].rows(Trace, "traces.parquet"))
    sifted = list(_sift(config, traces, prompts, questions, progress))
    good = [item for item in sifted if item.refusal is None]
    if not good:
        reasons = Counter(_reason(item.refusal) for item in sifted if item.refusal)
        listed = "; ".join(f"{reason}: {count}" for reason, count in reasons.most_common(5))
        raise InputError(
            f"none of {len(sifted)} traces was kept ({listed}). Look at the traces, or switch a filter off"
        )
    (out / "disagreements.jsonl").unlink(missing_ok=True)
    write_rows(out / "kept.parquet", Trace, (item.trace for item in good))
    write_rows(out / "rejected.parquet", Trace, (item.trace for item in sifted if item.refusal))
    write_rows(out / "verdicts.parquet", Verdict, (verdict for item in sifted for verdict in item.verdicts))
    rejected = Counter(_reason(item.refusal) for item in sifted if item.refusal)
    progress.say(f"{len(good)} of {len(sifted)} traces kept")
    summary = {
        "filters": [f.name for f in _filters(config, [])] + (["duplicate"] if config.duplicate.enabled else []),
        "overlap": _overlap(sifted),
        "by_source": _by_source(sifted),
        "labels": _labels(sifted, out),
        "kept_tokens": sum(item.trace.completion_tokens for item in good),
        "prompts": len({item.prompt.id for item in sifted}),
        "prompts_kept": len({item.prompt.id for item in good}),
    }
    return Made(len(sifted), len(good), dict(rejected.most_common()), summary)


def _filters(config: SiftConfig, questions: Sequence[Prompt]) -> list[Filter]:
    filters: list[Filter] = []
    if config.complete.enabled:
        filters.append(Complete(config.complete))
    if config.length.max_tokens is not None:
        filters.append(Length(config.length.max_tokens))
    if config.correct.enabled:
        filters.append(Correct())
    if config.contamination.enabled:
        filters.append(Contamination(config.contamination, questions))
    return filters


def _sift(
    config: SiftConfig,
    traces: Sequence[Trace],
    prompts: dict[str, Prompt],
    questions: Sequence[Prompt],
    progress: Progress,
) -> Iterator[Sifted]:
    filters = _filters(config, questions)
    duplicate = Duplicate() if config.duplicate.enabled else None
    for done, trace in enumerate(traces, start=1):
        prompt = prompts[trace.prompt_id]
        verdicts = [_verdict(trace, each, each.look(trace, prompt)) for each in filters]
        if duplicate and all(verdict.verdict == "kept" for verdict in verdicts):
            verdicts.append(_verdict(trace, duplicate, duplicate.look(trace, prompt)))
        yield Sifted(trace, prompt, tuple(verdicts))
        progress.update(done, len(traces), "traces")


def _verdict(trace: Trace, by: Filter, finding: Finding) -> Verdict:
    return Verdict(trace.id, by.name, by.version, finding.verdict, finding.reason, finding.evidence)


def _reason(verdict: Verdict | None) -> str:
    return "" if verdict is None else f"{verdict.filter}: {verdict.reason}"


def _overlap(sifted: Sequence[Sifted]) -> dict[str, int]:
    """How many traces each set of filters refused together ("complete + correct")."""
    together = Counter(" + ".join(v.filter for v in item.verdicts if v.verdict != "kept") for item in sifted)
    return {names: count for names, count in together.most_common() if names}


def _by_source(sifted: Sequence[Sifted]) -> dict[str, dict[str, int]]:
    """Traces and kept traces by task (or by source, where prompts have no task)."""
    counts: dict[str, dict[str, int]] = {}
    for item in sifted:
        row = counts.setdefault(item.prompt.meta.get("task") or item.prompt.source, {"traces": 0, "kept": 0})
        row["traces"] += 1
        row["kept"] += item.refusal is None
    return counts


def _labels(sifted: Sequence[Sifted], out: Path) -> dict[str, Any] | None:
    """Agreement of our `correct` verdicts with the labels that stored traces carry; every disagreement is written."""
    judged = [
        (item, bool(item.trace.meta["label"]), verdict)
        for item in sifted
        if "label" in item.trace.meta
        for verdict in item.verdicts
        if verdict.filter == Correct.name
    ]
    if not judged:
        return None
    apart = [(item, label, v) for item, label, v in judged if (v.verdict == "kept") != label]
    rows = [
        {
            "trace_id": item.trace.id, "task": item.prompt.meta.get("task", ""), "label": label,
            "ours": "right" if v.verdict == "kept" else v.reason, "evidence": v.evidence,
        }
        for item, label, v in apart
    ]  # fmt: skip
    append_json(out / "disagreements.jsonl", rows)
    return {
        "labelled": len(judged),
        "agreed": len(judged) - len(apart),
        "right_but_labelled_wrong": sum(not label for _, label, _ in apart),
        "refused_but_labelled_right": sum(label for _, label, _ in apart),
    }
