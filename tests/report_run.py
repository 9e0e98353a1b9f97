"""A run folder with finished artifacts of real row types, whose prompts and traces are hostile."""

import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from distill.base.artifacts import Artifact, Made, append_json, finish_artifact, write_json
from distill.base.progress import Progress
from distill.base.records import Outcome, Prompt, Trace, Verdict, prompt_id, write_rows
from evals.report import ReportConfig, report

STAGES = ("questions", "prompts", "traces", "kept", "mixture", "student", "weights", "quantized", "scores")
HOSTILE = (
    "<script>alert(1)</script> <img src=x onerror=alert(1)> </pre></details><style>*{display:none}</style>\n"
    "```\n# out of the fence\n````\n~~~~~\n]]> --> {{ 7*7 }} [link](http://evil.example) ![i](http://evil.example/i.png)\n"
    "\u202egnp.exe \x1b[31mred\x1b[0m \x00 | cell | <b>bold</b> &lt;kept&gt; \U0001f600"
)
MODELS = {"teacher": 0.81, "base": 0.31, "student": 0.523, "student-nf4": 0.508, "student-int8": 0.52}
SIZES = {"teacher": 8.1e6, "base": 2.4e6, "student": 1.2e6, "student-nf4": 0.5e6, "student-int8": 0.8e6}


def prompt(number: int) -> Prompt:
    task = "leg_counting" if number % 2 else "chain_sum"
    messages = [{"role": "user", "content": f"Question {number}: what is {number} + {number}? {HOSTILE}"}]
    return Prompt(prompt_id(messages), messages, str(2 * number), "math", f"gym/{task}", "Apache-2.0", {"task": task})


def trace(of: Prompt, index: int, **fields: Any) -> Trace:
    text = {"reasoning": f"Let me see.\n{HOSTILE}", "answer": f"\\boxed{{{of.answer}}} {HOSTILE}", **fields}
    return Trace(
        id=f"{of.id[:12]}{index:04d}", prompt_id=of.id, sample_index=index, finish_reason="stop", prompt_tokens=20,
        reasoning_tokens=80, completion_tokens=100, cost_usd=0.001, teacher="big<b>teacher", sampling={}, seed=0,
        attempts=1, **text,
    )  # fmt: skip


def model_score(name: str) -> dict[str, Any]:
    share = MODELS[name]
    return {
        "n": 100, "k": 4, "samples": 400, "pass_at_1": share, "low": share - 0.06, "high": share + 0.07,
        "pass_at_k": share + 0.1, "majority_at_k": share + 0.02, "truncated": 0.01, "unknown": 0.0025, "errored": 0.0,
        "mean_tokens": 91.25, "quantization": name.partition("-")[2] or None, "bytes": SIZES[name], "dtype": "bfloat16",
        "seconds": 3.0,
    }  # fmt: skip


def comparison(a: str, b: str, verdict: str) -> dict[str, Any]:
    difference = MODELS[b] - MODELS[a]
    return {
        "a": a, "b": b, "questions": 100, "difference": difference, "low": difference - 0.041,
        "high": difference + 0.042, "p": 0.0001, "p_holm": 0.0004, "better": 40, "worse": 10, "equal": 50,
        "margin": 0.02, "within_margin": False, "smallest_detectable": 0.061, "verdict": verdict,
        "flips": {"right_to_wrong": 3, "wrong_to_right": 20},
    }  # fmt: skip


def scores_summary(teacher: bool = True) -> dict[str, Any]:
    found = [
        comparison("base", "student", "better"), comparison("teacher", "student", "worse"),
        comparison("student", "student-nf4", "not distinguishable"),
        comparison("student", "student-int8", "equivalent within ±2 points"),
    ]  # fmt: skip
    names = [name for name in MODELS if teacher or name != "teacher"]
    return {
        "protocol": {
            "n": 100, "k": 4, "temperature": 0.8, "top_p": 1.0, "max_new_tokens": 224, "seed": 0,
            "task": "distill_reasoning", "questions_digest": "0123456789abcdef", "template_digest": {},
        },
        "models": {name: model_score(name) for name in names},
        "comparisons": [c for c in found if c["a"] in names],
    }  # fmt: skip


STUDENT = {
    "base": "students/embedded/base", "base_folder": True, "method": "full", "steps": 400, "epochs": 8,
    "examples": 90, "tokens": 120_000, "trained_tokens": 90_000, "trained_share": 0.75, "parameters": 600_000,
    "trained_parameters": 600_000, "zero_stage": 1, "precision": "float32", "workers": 2, "loss_first": 3.125,
    "loss_last": 0.25, "curve": [[step, 0.2 + 3 / (1 + step / 20)] for step in range(1, 401, 2)],
    "seconds_training": 61.0, "tokens_per_second": 1967.2,
}  # fmt: skip
QUANTIZED = {
    name: {"bytes": SIZES[f"student-{name}"], "parent_bytes": 1.2e6, "modules": 14, "positions": 512, "cosine": 0.9987,
           "kl": 0.00321, "top1": 0.981}
    for name in ("nf4", "int8")
}  # fmt: skip


class Run:
    """A run folder with finished artifacts of real row types, from hostile prompts and traces."""

    def __init__(self, root: Path, teacher: bool = True, disagreements: int = 0) -> None:
        self.root = root
        self.inputs: dict[str, Artifact] = {}
        prompts = [prompt(number) for number in range(1, 31)]
        traces = [trace(of, index) for of in prompts for index in range(3)]
        traces[0] = replace(traces[0], error=f"HTTP 500 {HOSTILE}", reasoning="", answer="", finish_reason="error")
        self.refused = {t.id: ("complete", "the call failed") for t in traces[:1]}
        self.refused |= {t.id: ("correct", "wrong answer") for t in traces[1:20]}
        self._rows("questions", Prompt, [prompt(1000)], Made(1, 1, {}, {"by_source": {}}))
        aside = {"contamination: a benchmark question": 2}
        self._rows("prompts", Prompt, prompts, Made(32, 30, aside, {"by_source": {}}))
        told = {"kind": "local", "name": "big<b>teacher", "model": "teacher" if teacher else None}
        harvest = {
            "teacher": told,
            "teachers": {told["name"]: 90},
            "samples": 3,
            "sampling": {},
            "prompts": 30,
            "failed": 1,
        }
        tokens = {"prompt": 1800, "reasoning": 7200, "completion": 9000}
        self._rows("traces", Trace, traces, Made(30, 90, {}, harvest, 0.09, tokens))
        self._kept(traces, disagreements)
        self._plain("mixture", Made(70, 60, {"over per_prompt": 10}, {"prompts": 24, "tokens": 6000}))
        self._plain("student", Made(60, 1, {}, STUDENT))
        weights = {"parameters": 600_000, "dtype": "bfloat16", "bytes": 1_200_000, "shards": 1, "tensors": 20}
        self._plain("weights", Made(1, 1, {}, weights))
        self._plain("quantized", Made(1, 2, {}, {"methods": QUANTIZED}))
        outcome = Outcome("q", "student", 0, HOSTILE, 9, "stop", "right", "2", "")
        self._rows("scores", Outcome, [outcome], Made(1, 1, {}, scores_summary(teacher)), "outcomes.parquet")

    def _kept(self, traces: list[Trace], disagreements: int) -> None:
        partial = self._partial("kept")
        write_rows(partial / "kept.parquet", Trace, (t for t in traces if t.id not in self.refused))
        write_rows(partial / "rejected.parquet", Trace, (t for t in traces if t.id in self.refused))
        found = f"gold '2', found {HOSTILE!r}"
        verdicts = [Verdict(t.id, "complete", 1, "kept", "") for t in traces if t.id not in self.refused]
        verdicts += [Verdict(t, name, 1, "rejected", reason, found) for t, (name, reason) in self.refused.items()]
        write_rows(partial / "verdicts.parquet", Verdict, verdicts)
        self.apart = [
            {"trace_id": f"apart{n:06d}", "task": "leg_counting" if n % 3 else "chain_sum", "label": bool(n % 2),
             "ours": "wrong answer" if n % 2 else "right", "evidence": f"gold '{n}', found {HOSTILE!r}"}
            for n in range(disagreements)
        ]  # fmt: skip
        if disagreements:
            append_json(partial / "disagreements.jsonl", self.apart)
        labels = {
            "labelled": 2000, "agreed": 2000 - disagreements, "right_but_labelled_wrong": (disagreements + 1) // 2,
            "refused_but_labelled_right": disagreements // 2,
        }  # fmt: skip
        rejected = {"correct: wrong answer": 19, "complete: the call failed": 1}
        summary = {
            "filters": ["complete", "correct"], "overlap": {"correct": 19, "complete + correct": 1},
            "by_source": {"chain_sum": {"traces": 45, "kept": 30}, "leg_counting": {"traces": 45, "kept": 40}},
            "labels": labels if disagreements else None, "kept_tokens": 7000, "prompts": 30, "prompts_kept": 24,
        }  # fmt: skip
        self._finish("kept", Made(90, 70, rejected, summary))

    def _partial(self, stage: str) -> Path:
        partial = self.root / f"{STAGES.index(stage) + 1:02d}_{stage}.partial"
        partial.mkdir(parents=True)
        return partial

    def _plain(self, stage: str, made: Made) -> None:
        self._partial(stage)
        self._finish(stage, made)

    def _rows(self, stage: str, cls: Any, rows: Any, made: Made, name: str | None = None) -> None:
        write_rows(self._partial(stage) / (name or f"{stage}.parquet"), cls, rows)
        self._finish(stage, made)

    def _finish(self, stage: str, made: Made) -> None:
        final = self.root / f"{STAGES.index(stage) + 1:02d}_{stage}"
        identity = {"config": {}, "inputs": {name: a.id for name, a in self.inputs.items()}, "version": 1}
        versions = {"torch": "2.13.0", "ray": "2.60.0"}
        partial = final.with_name(final.name + ".partial")
        self.inputs[stage] = finish_artifact(partial, final, stage, identity, made, versions, 12.5)

    def keep_despite(self, stage: str, changes: list[str]) -> None:
        artifact = self.inputs[stage]
        record = replace(artifact.record, kept_despite=changes)
        write_json(artifact.path / "record.json", asdict(record))
        self.inputs[stage] = Artifact(artifact.path, record)

    def report(self, **config: Any) -> tuple[str, str, str, Made]:
        """The page, the Markdown, what the terminal shows, and what the stage returns."""
        out = self.root / "10_report.partial"
        out.mkdir()
        terminal = io.StringIO()
        made = report(ReportConfig(**config), self.inputs, out, Progress("report", terminal))
        return (out / "report.html").read_text(), (out / "report.md").read_text(), terminal.getvalue(), made
