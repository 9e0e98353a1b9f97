"""kill -9 of the whole process tree in the harvest, the training and the scoring; then the same command again."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import call, kill_tree, start

from data_gen.ledger import Ledger
from distill.base.fingerprint import file_digest
from distill.base.records import Outcome, Trace, read_rows

pytestmark = pytest.mark.slow

CONFIG = """
name: crash
questions: {source: {kind: gym, count: 12}}
prompts: {source: {kind: gym, count: 16}}
traces:
  teacher: {kind: local, model: students/embedded/teacher, batch_size: 8}
  samples: 2
  sampling: {temperature: 1.0, top_p: 1.0, max_new_tokens: 200}
kept: {complete: {enabled: false}, correct: {enabled: false}}
student: {base: students/embedded/base, epochs: 40, batch_examples: 8, learning_rate: 1.0e-3, checkpoint_minutes: 0.01}
quantized: {methods: [nf4]}
scores: {k: 2, max_new_tokens: 64}
"""


def wait_until(reached: Callable[[], bool], process: object) -> None:
    deadline = time.monotonic() + 240
    while not reached():
        assert process.poll() is None, "the run ended before it could be killed"  # type: ignore[attr-defined]
        assert time.monotonic() < deadline, "the stage did not get under way"
        time.sleep(0.02)


def weights(run: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in sorted((run / "06_student" / "final").glob("*.safetensors"))}


def answers(run: Path) -> list[tuple[str, str, int, str]]:
    rows = read_rows(run / "09_scores" / "outcomes.parquet", Outcome)
    return sorted((row.model, row.question_id, row.sample_index, row.response) for row in rows)


def harvested(run: Path) -> list[tuple[str, str, str]]:
    return [(row.id, row.reasoning, row.answer) for row in read_rows(run / "03_traces" / "traces.parquet", Trace)]


def test_a_run_killed_in_three_stages_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    config = tmp_path / "crash.yaml"
    config.write_text(CONFIG)
    arguments = ("run", config, "--runs", tmp_path)
    run = tmp_path / "crash"
    ledger = run / "03_traces.partial" / "ledger"
    moments: tuple[Callable[[], bool], ...] = (
        lambda: sum(1 for _ in Ledger(ledger).rows()) >= 8,
        lambda: bool(list((run / "06_student.partial" / "checkpoints").glob("step-*[0-9]"))),
        lambda: (run / "09_scores.partial" / "outcomes" / "base.parquet").is_file(),
    )
    acknowledged: dict[str, Trace] = {}
    for moment in moments:
        process = start(*arguments)
        wait_until(moment, process)
        kill_tree(process)
        acknowledged |= {row.id: row for row in Ledger(ledger).rows()}
    assert 0 < len(acknowledged) < 32, "the harvest was killed half-way"

    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    traces = list(read_rows(run / "03_traces" / "traces.parquet", Trace))
    assert len(traces) == len({trace.id for trace in traces}) == 32, "nothing lost, nothing doubled"
    assert all(acknowledged[trace.id] == trace for trace in traces if trace.id in acknowledged)

    undisturbed = call(*arguments, "--name", "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert harvested(run) == harvested(tmp_path / "undisturbed")
    assert weights(run) == weights(tmp_path / "undisturbed") != {}
    assert answers(run) == answers(tmp_path / "undisturbed")
