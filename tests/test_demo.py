"""The embedded default from end to end, as `make demo` runs it; then the commands of the README on that run."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, call

from distill.base.artifacts import open_artifact
from distill.base.records import Example, Outcome, Trace
from distill.base.runner import finished
from distill.pipeline import STAGES

pytestmark = pytest.mark.slow
DEMO = "configs/demo.yaml"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def done(runs: Path) -> "subprocess.CompletedProcess[str]":
    return call("run", DEMO, "--runs", runs)


def test_the_last_line_is_the_reports_path(done: "subprocess.CompletedProcess[str]", runs: Path) -> None:
    assert done.returncode == 0, done.stderr
    report = Path(done.stdout.splitlines()[-1])
    assert report == runs / "demo" / "10_report" / "report.html" and report.is_file()
    assert report.with_suffix(".md").is_file()


def test_the_student_has_learned_from_the_teacher(done: "subprocess.CompletedProcess[str]", runs: Path) -> None:
    summary = open_artifact(runs / "demo" / "09_scores").summary
    models = summary["models"]
    assert set(models) == {"teacher", "base", "student", "student-nf4", "student-int8"}
    assert models["teacher"]["high"] >= 0.6 and models["teacher"]["low"] <= 0.95
    assert models["base"]["pass_at_1"] <= 0.30
    (gain,) = [c for c in summary["comparisons"] if {c["a"], c["b"]} == {"student", "base"}]
    assert models["student"]["pass_at_1"] - models["base"]["pass_at_1"] >= 0.30
    assert min(abs(gain["low"]), abs(gain["high"])) > 0 and gain["low"] * gain["high"] > 0


def test_every_answer_of_every_model_is_kept(done: "subprocess.CompletedProcess[str]", runs: Path) -> None:
    scores = open_artifact(runs / "demo" / "09_scores")
    rows = list(scores.rows(Outcome, "outcomes.parquet"))
    protocol = scores.summary["protocol"]
    assert len(rows) == 5 * protocol["n"] * protocol["k"]
    assert len({(row.model, row.question_id, row.sample_index) for row in rows}) == len(rows)


def test_rows_are_accounted_for_from_stage_to_stage(done: "subprocess.CompletedProcess[str]", runs: Path) -> None:
    made = finished(runs / "demo", STAGES)
    assert list(made) == [stage.name for stage in STAGES]
    traces = {trace.id for trace in made["traces"].rows(Trace, "traces.parquet")}
    kept = {trace.id for trace in made["kept"].rows(Trace, "kept.parquet")}
    refused = {trace.id for trace in made["kept"].rows(Trace, "rejected.parquet")}
    trained = {example.id for example in made["mixture"].rows(Example, "mixture.parquet")}
    assert kept | refused == traces and kept.isdisjoint(refused) and trained <= kept
    assert sum(made["kept"].record.rejected.values()) == len(refused) > 0


def test_a_finished_run_does_nothing_and_a_changed_rate_stops_it(
    done: "subprocess.CompletedProcess[str]", runs: Path
) -> None:
    again = call("run", DEMO, "--runs", runs)
    assert again.returncode == 0 and "all 10 stages are done; nothing to do" in again.stdout
    changed = call("run", DEMO, "--runs", runs, "--set", "student.learning_rate=1.0e-4")
    assert changed.returncode == 2
    for part in ("student.learning_rate", "--name NEW", "--rebuild student", "--keep student"):
        assert part in changed.stderr


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_the_readmes_commands_run(done: "subprocess.CompletedProcess[str]", runs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(blocks("yaml")[0])
    question = "State the final answer to the following arithmetic problem: {} + 12 - 11 ="
    rows = [json.dumps({"question": question.format(n), "answer": str(n + 1)}) for n in range(20, 30)]
    (tmp_path / "problems.jsonl").write_text("\n".join(rows))
    (tmp_path / "answers.jsonl").write_text(json.dumps({"id": 1, "gold": "1/2", "prediction": "so \\boxed{0.5}"}))
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("distill ")]
    assert len(commands) >= 8
    for command in commands:
        if "../shared" in command and not (ROOT.parent / "shared").is_dir():
            continue
        line = command.split("  #")[0].replace("runs/demo", str(runs / "demo"))
        for name in ("mine.yaml", "problems.jsonl", "answers.jsonl"):
            line = line.replace(name, str(tmp_path / name))
        words = shlex.split(line)[1:]
        result = call(*words, *(["--runs", str(runs)] if words[0] == "run" else []))
        assert result.returncode == 0, f"{command}\n{result.stderr}"


def test_the_readmes_python_loads_the_student(done: "subprocess.CompletedProcess[str]", runs: Path) -> None:
    for block in blocks("python"):
        code = block.replace("runs/demo", str(runs / "demo"))
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert result.returncode == 0, result.stderr
        assert "</think>" in result.stdout
