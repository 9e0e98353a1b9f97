"""The stage `report`: finished artifacts -> one page for people, as report.html and as report.md.

Nothing is measured here and nothing depends on it. `sections.py` and `evidence.py` say what stands on the page,
`page.py` and the two templates how it is written, `figures.py` draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from distill.base.artifacts import Inputs, Made
from distill.base.config import Config
from distill.base.progress import Progress
from evals import evidence, page, sections

HTML, MARKDOWN = "report.html", "report.md"
FOUR_BIT = ("nf4",)


class ReportConfig(Config):
    """How many traces the page shows, and how much of each.

    Attributes:
        kept_samples: kept traces.
        samples_per_reason: refused traces for each reason.
        shown_chars: a longer text loses its middle.
    """

    kept_samples: int = Field(4, ge=0)
    samples_per_reason: int = Field(2, ge=0)
    shown_chars: int = Field(6000, ge=200)


def report(config: ReportConfig, inputs: Inputs, out: Path, progress: Progress) -> Made:
    """Write the page, and say the result."""
    found = [
        sections.funnel(inputs),
        sections.cost(inputs),
        sections.training(inputs),
        sections.scores(inputs),
        sections.quantization(inputs),
        evidence.labels(inputs["kept"]),
        evidence.samples(inputs, config.kept_samples, config.samples_per_reason, config.shown_chars),
        evidence.loading(inputs),
        evidence.provenance(inputs),
    ]
    sentences = headline(inputs)
    written = page.Page(
        title=f"Distillation report: {inputs['scores'].path.parent.name}",
        headline=sentences,
        warnings=evidence.warnings(inputs),
        sections=[section for section in found if section is not None],
    )
    (out / HTML).write_text(page.html(written), encoding="utf-8")
    (out / MARKDOWN).write_text(page.markdown(written), encoding="utf-8")
    for sentence in sentences:
        progress.say(sentence)
    for line in score_table(inputs["scores"].summary).splitlines():
        progress.say(line)
    return Made(len(inputs), len(written.sections), summary={"headline": " ".join(sentences)})


def headline(inputs: Inputs) -> list[str]:
    """The result in one sentence; then the teacher, the 4-bit copy and the price, a sentence each."""
    scores = inputs["scores"].summary
    said = [_student(scores)]
    teacher = scores["models"].get("teacher")
    against = _compared(scores, "teacher", "student")
    if teacher is None:
        said.append("The teacher was not scored beside it.")
    elif against is not None:
        score = page.percent(teacher["pass_at_1"])
        said.append(f"The teacher answers {score} right; the student is {_difference(against, 'the teacher')}.")
    said += [_quantized(scores), _price(inputs)]
    return [sentence for sentence in said if sentence]


def _student(scores: Mapping[str, Any]) -> str:
    student, base = scores["models"]["student"], scores["models"].get("base")
    if student["pass_at_1"] is None:
        return "The student could not be scored: every sample ended in an error."
    score = page.percent(student["pass_at_1"])
    result = f"The student answers {score} of {page.count(student['n'])} questions right (pass@1)"
    against = _compared(scores, "base", "student")
    if base is None or against is None:
        return f"{result}, 95% interval {sections.between(student)}; its base was not scored beside it."
    said = _difference(against, "its base")
    return f"{result} and its base {page.percent(base['pass_at_1'])}; the student is {said}."


def _quantized(scores: Mapping[str, Any]) -> str:
    """About the 4-bit copy, which loses most; about the first copy, where there is no such one."""
    copies = {name: model for name, model in scores["models"].items() if model["quantization"]}
    name = next((n for n, model in copies.items() if model["quantization"] in FOUR_BIT), next(iter(copies), None))
    against = _compared(scores, "student", name) if name else None
    if name is None or against is None:
        return ""
    kind, score = copies[name]["quantization"], page.percent(copies[name]["pass_at_1"])
    four = "4-bit " if kind in FOUR_BIT else ""
    return f"The student's {four}copy ({kind}) answers {score} right; it is {_difference(against, 'the student')}."


def _compared(scores: Mapping[str, Any], a: str, b: str) -> Mapping[str, Any] | None:
    return next((c for c in scores["comparisons"] if (c["a"], c["b"]) == (a, b)), None)


def _difference(found: Mapping[str, Any], other: str) -> str:
    """ "better than its base by 21.3 points (95% interval +15.2 to +27.4)", or what the verdict is instead."""
    interval = f"95% interval {page.points(found['low'])} to {page.points(found['high'])}"
    if found["verdict"] in ("better", "worse"):
        return f"{found['verdict']} than {other} by {100 * abs(found['difference']):.1f} points ({interval})"
    verdict = found["verdict"].replace("distinguishable", f"distinguishable from {other}")
    verdict = verdict.replace("equivalent", f"equivalent to {other}")
    return f"{verdict} ({page.points(found['difference'])} points, {interval})"


def _price(inputs: Inputs) -> str:
    traces, accepted = inputs["traces"].record, inputs["kept"].record.rows_out
    tokens = traces.tokens["prompt"] + traces.tokens["completion"]
    each = page.count(tokens / max(1, accepted))
    of = f"{page.count(accepted)} accepted traces ({page.count(traces.rows_out)} sampled)"
    if not tokens:
        return f"The teacher's completions were stored: the {of} cost no tokens in this run."
    if not traces.cost_usd:
        return f"Each of the {of} cost {each} tokens of the teacher; in dollars nothing, for the teacher has no price."
    return f"Each of the {of} cost {each} tokens of the teacher and {page.dollars(traces.cost_usd / max(1, accepted))}."


def score_table(scores: Mapping[str, Any]) -> str:
    """The scores as plain lines for a terminal: model, n, k, pass@1, 95% interval."""
    rows = [("model", "n", "k", "pass@1", "95% interval")]
    for name, model in scores["models"].items():
        interval = "not scored" if model["pass_at_1"] is None else sections.between(model)
        rows.append((name, str(model["n"]), str(model["k"]), page.percent(model["pass_at_1"]), interval))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        f"{name:<{widths[0]}}  {n:>{widths[1]}}  {k:>{widths[2]}}  {score:>{widths[3]}}  {interval}"
        for name, n, k, score, interval in rows
    )
