"""The stage `scores`: every model of the run on the same questions, under one protocol, compared in pairs.

A model's rows are written as soon as it is done, so a killed run scores only the unfinished one again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from distill.base.artifacts import Artifact, Inputs, Made, read_json, write_json
from distill.base.config import EXECUTION, Config
from distill.base.errors import InputError
from distill.base.fingerprint import fingerprint
from distill.base.progress import Progress
from distill.base.records import Outcome, Prompt, read_rows, write_rows

QUESTIONS, OUTCOMES, DONE, WORK = "questions.parquet", "outcomes.parquet", "outcomes", "work"


class ScoresConfig(Config):
    """The protocol, the same for every model. The defaults are DeepSeek-R1's, with k = 4 samples.

    Attributes:
        k: samples a question. R1's table has 64 on AIME; the smallest difference found shrinks with k and questions.
        temperature: 0 is greedy; then all k samples are one.
        max_new_tokens: the budget of a completion; must leave room for the prompt in every model's window.
        margin: what difference in pass@1 does not matter; 0.02 is two points.
        batch_size: completions at a time; None: what 30% of the free memory holds, at most 128.
        threads: CPU threads; None: one for models under 50M parameters, where more cost more than they bring.
    """

    k: int = Field(default=4, ge=1, le=1024)
    temperature: float = Field(default=0.6, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_new_tokens: int = Field(default=32_000, ge=1)
    seed: int = Field(default=0, ge=0)
    margin: float = Field(default=0.02, gt=0, lt=1)
    batch_size: Annotated[int | None, EXECUTION] = Field(default=None, ge=1)
    device: Annotated[str, EXECUTION] = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: Annotated[int | None, EXECUTION] = Field(default=None, ge=1)


@dataclass(frozen=True)
class Candidate:
    """A model to score. `folder`: where it lies, or its name on the hub, there in a `revision`. `spare`: a tokenizer
    for base models."""

    name: str
    folder: str
    quantization: str | None = None
    spare: str | None = None
    revision: str | None = None


def check(config: ScoresConfig) -> list[str]:
    """What would make the stage fail or say nothing, before anything is spent."""
    problems = []
    if config.temperature == 0 and config.k > 1:
        problems.append(
            f"scores.temperature is 0, so all {config.k} samples of a question would be the same; set scores.k to 1, "
            "or a temperature above 0"
        )
    return problems


def scores(config: ScoresConfig, inputs: Inputs, out: Path, progress: Progress) -> Made:
    """Score teacher, base, student and every quantized copy; rows in `out/outcomes.parquet`.

    Raises:
        InputError: no questions, or a budget that does not fit a model's window.
        FileError: a model cannot be loaded.
    """
    questions = list(inputs["questions"].rows(Prompt, QUESTIONS))
    if not questions:
        raise InputError(f"{inputs['questions'].path}: no questions to score on; the artifact is empty")
    models = candidates(inputs)
    refuse_narrow(config, models)
    (out / DONE).mkdir(exist_ok=True)
    facts = {}
    for model in models:
        facts[model.name] = _settled(config, model, questions, out, progress)
    rows = {model.name: list(read_rows(out / DONE / f"{model.name}.parquet", Outcome)) for model in models}
    total = write_rows(out / OUTCOMES, Outcome, (row for model in models for row in rows[model.name]))
    summary = summarise(config, questions, rows, facts)
    shutil.rmtree(out / DONE)
    return Made(
        rows_in=len(questions),
        rows_out=total,
        summary=summary,
        tokens={name: sum(row.tokens for row in found) for name, found in rows.items()},
    )


def candidates(inputs: Inputs) -> list[Candidate]:
    """The models of a run in the order of the report: teacher (when it can be scored), base, student, copies."""
    student = inputs["student"]
    final = str(student.path / "final")
    teacher = inputs["traces"].summary.get("teacher") or {}
    base, revision = str(student.summary["base"]), student.summary.get("revision")
    if student.summary.get("base_folder"):
        base, revision = str(student.path / "base"), None
    copies = inputs["quantized"]
    return [
        *(
            [Candidate("teacher", str(teacher["model"]), revision=teacher.get("revision"))]
            if teacher.get("model")
            else []
        ),
        Candidate("base", base, spare=final, revision=revision),
        Candidate("student", str(inputs["weights"].path / "model")),
        *(
            Candidate(f"student-{method}", str(copies.path / method), quantization=method)
            for method in _methods(copies)
        ),
    ]


def refuse_narrow(config: ScoresConfig, models: Sequence[Candidate]) -> None:
    """Raise InputError when a model's window has no room for the budget, before hours go into the others.

    Raises:
        FileError: a model's configuration cannot be read.
    """
    from evals import generate

    windows = {}
    for model in models:
        with generate.offline(Path(model.folder).exists()):
            windows[model.name] = generate.window(model.name, model.folder, model.revision)
    narrow = {name: window for name, window in windows.items() if window <= config.max_new_tokens}
    if narrow:
        raise InputError(
            f"scores.max_new_tokens is {config.max_new_tokens}, but prompt and answer together must fit into every "
            f"model's window, and it is {', '.join(f'{window} for {name}' for name, window in narrow.items())}; set "
            f"scores.max_new_tokens to {max(1, min(narrow.values()) // 2)} or less"
        )


def _methods(copies: Artifact) -> list[str]:
    return list(copies.summary.get("methods", {}))


def _settled(
    config: ScoresConfig, model: Candidate, questions: Sequence[Prompt], out: Path, progress: Progress
) -> dict[str, Any]:
    """Score one model, or take what a killed process left finished; returns facts for the summary."""
    rows_file, facts_file = out / DONE / f"{model.name}.parquet", out / DONE / f"{model.name}.json"
    if rows_file.is_file() and facts_file.is_file():
        progress.say(f"{model.name}: scored before the restart")
        found: dict[str, Any] = read_json(facts_file)
        return found
    rows_file.unlink(missing_ok=True)
    rows, facts = _scored(config, model, questions, out / WORK, progress)
    write_json(facts_file, facts)
    write_rows(rows_file, Outcome, rows)
    right = facts["lm_eval"].get("pass_at_1,all", 0.0)
    progress.say(f"{model.name}: pass@1 {right:.1%} in {facts['seconds']:.0f} s")
    return facts


def _scored(
    config: ScoresConfig, model: Candidate, questions: Sequence[Prompt], work: Path, progress: Progress
) -> tuple[list[Outcome], dict[str, Any]]:
    from evals import generate, harness

    started = time.monotonic()
    progress.say(f"{model.name}: loading {model.folder}")
    local = Path(model.folder).exists()
    with generate.offline(local), generate.threads(config.threads):
        loaded = generate.load(model.name, model.folder, config.device, model.spare, model.revision)
        on_cpu = loaded.model.device.type == "cpu"
        sampling = generate.Sampling(config.k, config.temperature, config.top_p, config.max_new_tokens, config.seed)
        if config.threads is None and on_cpu:
            generate.use_few_threads(loaded)
        shutil.rmtree(work, ignore_errors=True)

        def tell(done: int, total: int, tokens: int) -> None:
            speed = tokens / max(1e-9, time.monotonic() - started)
            progress.update(done, total, f"completions of {model.name}", f"{speed:,.0f} tokens/s")

        size = config.batch_size or generate.fitting_batch(loaded, sampling)
        rows, table = harness.outcomes(loaded, questions, sampling, work, size, tell)
    shutil.rmtree(work, ignore_errors=True)
    return rows, {
        "quantization": model.quantization,
        "bytes": _bytes(Path(model.folder)) if local else None,
        "template_digest": loaded.template_digest,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "seconds": round(time.monotonic() - started, 3),
        "lm_eval": table,
    }


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def summarise(
    config: ScoresConfig,
    questions: Sequence[Prompt],
    rows: Mapping[str, Sequence[Outcome]],
    facts: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The protocol, one entry a model, and the comparisons, as plain data for the report."""
    from evals import outcomes, stats

    pairs = [("base", "student"), ("teacher", "student")]
    pairs += [("student", name) for name in rows if name.startswith("student-")]
    compared = [
        outcomes.compared(a, b, rows[a], rows[b], config.margin, config.seed)
        for a, b in pairs
        if a in rows and b in rows
    ]
    protocol = {
        "n": len(questions),
        "k": config.k,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_new_tokens": config.max_new_tokens,
        "seed": config.seed,
        "task": outcomes.TASK,
        "task_version": outcomes.TASK_VERSION,
        "questions_digest": fingerprint([[q.id, q.answer, q.answer_kind] for q in questions]),
        "template_digest": {name: found["template_digest"] for name, found in facts.items()},
    }
    kept = ("quantization", "bytes", "dtype", "seconds")
    return {
        "protocol": protocol,
        "models": {
            name: outcomes.score(found) | {key: facts[name][key] for key in kept} for name, found in rows.items()
        },
        "comparisons": stats.settle(compared),
    }
