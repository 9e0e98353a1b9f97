"""Finished artifacts as text for a terminal: `distill status` and `distill show`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from distill.base.artifacts import Artifact
from distill.base.errors import FileError, InputError
from distill.base.progress import printable
from distill.base.records import Example, Outcome, Prompt, Trace, Verdict
from distill.base.runner import Stage, finished, folder, state


def status(run: Path, stages: Sequence[Stage]) -> str:
    """One line a stage: state, rows, seconds, dollars."""
    _must_exist(run)
    done = finished(run, stages)
    lines = [f"{run}"]
    for stage in stages:
        how = state(folder(run, stages, stage.name))
        line = f"  {stage.name:<10} {how:<8}"
        if stage.name in done:
            record = done[stage.name].record
            line += f" {record.rows_in:>7} in {record.rows_out:>7} out {record.seconds:>8.1f} s  ${record.cost_usd:.4f}"
            line += "  kept despite changes" if record.kept_despite else ""
        lines.append(line.rstrip())
    seconds = sum(artifact.record.seconds for artifact in done.values())
    cost = sum(artifact.record.cost_usd for artifact in done.values())
    lines.append(f"  {len(done)} of {len(stages)} stages done, {seconds:.1f} s, ${cost:.4f}")
    return "\n".join(lines)


def show(run: Path, stages: Sequence[Stage], stage: str, rows: int, reason: str | None) -> str:
    """The first rows of an artifact, and its counts."""
    _must_exist(run)
    done = finished(run, stages)
    if stage not in done:
        raise InputError(
            f"{run}: {stage} is not done; done are {', '.join(done) or 'no stages'}. `distill run` makes it"
        )
    if reason is not None and stage != "kept":
        raise InputError(f"--reason looks through refused traces, which only kept has; {stage} has none")
    artifact = done[stage]
    counts = [f"{artifact.record.rows_in} in, {artifact.record.rows_out} out"]
    counts += [f"  {count:>7}  {why}" for why, count in artifact.record.rejected.items()]
    return printable("\n".join([*counts, "", *islice(_blocks(artifact, reason), rows)]))


def _blocks(artifact: Artifact, reason: str | None) -> Iterator[str]:
    if artifact.stage in ("questions", "prompts"):
        for prompt in artifact.rows(Prompt, f"{artifact.stage}.parquet"):
            yield f"[{prompt.id}] {prompt.source}\n{prompt.text}\n= {prompt.answer}\n"
    elif artifact.stage == "traces":
        for trace in artifact.rows(Trace, "traces.parquet"):
            yield _trace(trace, trace.error or trace.finish_reason)
    elif artifact.stage == "kept":
        yield from _sifted(artifact, reason)
    elif artifact.stage == "mixture":
        for example in artifact.rows(Example, "mixture.parquet"):
            yield "\n".join(f"{m['role']}: {m['content']}" for m in example.messages) + "\n"
    elif artifact.stage == "scores":
        for outcome in artifact.rows(Outcome, "outcomes.parquet"):
            heading = f"[{outcome.question_id}] {outcome.model} #{outcome.sample_index}: {outcome.verdict}"
            yield f"{heading}\n{outcome.response}\n"
    else:
        yield from (f"{name}: {value}" for name, value in artifact.summary.items() if not isinstance(value, list))


def _sifted(artifact: Artifact, reason: str | None) -> Iterator[str]:
    refusals: dict[str, Verdict] = {}
    for verdict in artifact.rows(Verdict, "verdicts.parquet"):
        if verdict.verdict != "kept":
            refusals.setdefault(verdict.trace_id, verdict)
    if reason is None:
        for trace in artifact.rows(Trace, "kept.parquet"):
            yield _trace(trace, "kept")
        return
    for trace in artifact.rows(Trace, "rejected.parquet"):
        refusal = refusals[trace.id]
        why = f"{refusal.filter}: {refusal.reason}"
        if reason.lower() in why.lower():
            yield _trace(trace, f"{why} ({refusal.evidence})")


def _trace(trace: Trace, heading: str) -> str:
    return f"[{trace.id}] {heading}\n{trace.reasoning}\n--\n{trace.answer}\n"


def _must_exist(run: Path) -> None:
    if not run.is_dir():
        raise FileError(f"{run}: no such run; give a folder such as runs/demo")
