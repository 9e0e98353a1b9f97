"""Harvest, sift and mix: what was paid for is never lost or doubled, and every refusal has its reason."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import EMBEDDED, ROOT

from data_gen.filters.complete import Complete, CompleteConfig
from data_gen.filters.contamination import Contamination, ContaminationConfig
from data_gen.filters.correct import Correct
from data_gen.filters.duplicate import Duplicate
from data_gen.harvest import HarvestConfig, check, traces
from data_gen.ledger import Ledger, Writer
from data_gen.mix import MixConfig, mixture
from data_gen.sift import SiftConfig, kept
from distill.base.artifacts import Artifact, Made, finish_artifact
from distill.base.errors import InputError, shown
from distill.base.progress import Progress
from distill.base.records import Example, Prompt, Row, Trace, Verdict, prompt_id, read_rows, write_rows


def prompt(text: str, answer: str | None = "4", **meta: str) -> Prompt:
    messages = [{"role": "user", "content": text}]
    return Prompt(prompt_id(messages), messages, answer, "math", "test", meta=dict(meta))


def trace(of: Prompt, reasoning: str = "two and two", answer: str = r"So \boxed{4}", **changes: object) -> Trace:
    made = Trace(
        id=f"{of.id}-{reasoning}-{answer}", prompt_id=of.id, sample_index=0, reasoning=reasoning, answer=answer,
        finish_reason="stop", prompt_tokens=5, reasoning_tokens=3, completion_tokens=9, cost_usd=0.0, teacher="t",
        sampling={}, seed=0, attempts=1,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def artifact(folder: Path, stage: str, files: dict[str, tuple[type[Row], list[Row]]]) -> Artifact:
    partial = folder / f"{stage}.partial"
    partial.mkdir(parents=True)
    for name, (cls, rows) in files.items():
        write_rows(partial / name, cls, rows)
    return finish_artifact(partial, folder / stage, stage, {}, Made(0, 0), {}, 0.0)


QUESTION = prompt("2 + 2?")


# The ledger


def test_a_torn_tail_is_passed_over_and_a_flipped_byte_is_named(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    rows = [trace(QUESTION, str(i)) for i in range(4)]
    for row in rows:
        writer.append([row])
    (segment,) = tmp_path.glob("*.segment")
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"stop"', b'"stoq"')
    segment.write_bytes(b"".join(lines)[:-7])
    ledger = Ledger(tmp_path)
    assert [row.id for row in ledger.rows()] == [rows[0].id, rows[2].id]
    assert len(ledger.damaged) == 1 and "line 2" in ledger.damaged[0]


def test_a_row_in_two_segments_counts_once_and_success_beats_failure(tmp_path: Path) -> None:
    bad, good = trace(QUESTION, id="a", error="503"), trace(QUESTION, id="a")
    for row in (good, bad, good):
        Writer(tmp_path).append([row])
    assert [row.error for row in Ledger(tmp_path).rows()] == [None]


def test_a_group_of_rows_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.append([trace(QUESTION, "a"), trace(QUESTION, "b")])
    (segment,) = tmp_path.glob("*.segment")
    whole = segment.read_bytes()
    for cut in range(1, len(whole) - 1):
        segment.write_bytes(whole[:cut])
        assert list(Ledger(tmp_path).rows()) == []


# The harvest


def harvest_config(**changes: object) -> HarvestConfig:
    plain = {
        "teacher": {"kind": "local", "model": str(EMBEDDED / "teacher"), "batch_size": 4},
        "samples": 2,
        "sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 48},
    }
    return HarvestConfig.model_validate({**plain, **changes})


def test_more_samples_buy_only_what_is_missing(tmp_path: Path, ray_session: None) -> None:
    prompts = artifact(tmp_path, "prompts", {"prompts.parquet": (Prompt, [prompt(f"{i} + 2?") for i in range(4)])})
    out = tmp_path / "traces"
    out.mkdir()
    made = traces(harvest_config(samples=1), {"prompts": prompts}, out, Progress("traces"))
    assert (made.rows_out, made.summary["failed"]) == (4, 0)
    before = {row.id for row in Ledger(out / "ledger").rows()}
    assert traces(harvest_config(samples=2), {"prompts": prompts}, out, Progress("traces")).rows_out == 8
    after = [row.id for segment in (out / "ledger").glob("*") for row in _rows(segment)]
    assert before < set(after) and len(after) == len(set(after)) == 8


def _rows(segment: Path) -> list[Trace]:
    return [Trace(**row) for line in segment.read_text().splitlines() for row in json.loads(line[9:])]


def test_replay_serves_stored_completions_and_their_labels(tmp_path: Path, ray_session: None) -> None:
    stored = tmp_path / "stored.jsonl"
    rows = [
        {"prompt_id": "a", "question": "2 + 2?", "gold": "4", "completion": "<think>x</think>\\boxed{4}", "correct": 1},
        {"prompt_id": "a", "completion": "it is <answer>5</answer>", "correct": False},
    ]
    stored.write_text("\n".join(map(json.dumps, rows)))
    prompts = [prompt("2 + 2?", stored_id="a"), prompt("3 + 3?", stored_id="b")]
    asked = artifact(tmp_path, "prompts", {"prompts.parquet": (Prompt, prompts)})
    config = harvest_config(teacher={"kind": "replay", "path": str(stored)}, samples=3)
    out = tmp_path / "traces"
    out.mkdir()
    assert traces(config, {"prompts": asked}, out, Progress("traces")).summary["failed"] == 1
    first, second, third = read_rows(out / "traces.parquet", Trace)
    assert (first.reasoning, first.thought, first.meta) == ("x", True, {"label": True})
    assert (second.answer, second.thought, second.meta) == ("it is <answer>5</answer>", False, {"label": False})
    assert third.error == "the file holds 0 completions of this prompt"


def test_gpus_that_are_not_there_are_refused_and_not_waited_for(tmp_path: Path, ray_session: None) -> None:
    prompts = artifact(tmp_path, "prompts", {"prompts.parquet": (Prompt, [QUESTION])})
    with pytest.raises(InputError, match="Ray has 0 GPUs"):
        traces(harvest_config(gpus_per_actor=1), {"prompts": prompts}, tmp_path, Progress("traces"))


def test_what_a_worker_raised_reaches_the_user(tmp_path: Path, ray_session: None) -> None:
    prompts = artifact(tmp_path, "prompts", {"prompts.parquet": (Prompt, [QUESTION])})
    config = harvest_config(teacher={"kind": "local", "model": str(tmp_path)})
    with pytest.raises(Exception) as caught:
        traces(config, {"prompts": prompts}, tmp_path, Progress("traces"))
    assert "the folder holds no tokenizer" in str(shown(caught.value))


def test_a_budget_over_the_teachers_window_is_found_before_the_harvest() -> None:
    sampling = {"max_new_tokens": 4096}
    assert "has a window of 1024" in check(harvest_config(sampling=sampling))[0]
    assert check(harvest_config()) == []


def test_a_price_and_a_note_in_the_folder_buy_nothing_again(tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(EMBEDDED / "teacher", folder)
    before = harvest_config(teacher={"kind": "local", "model": str(folder)}).identity()
    (folder / "README.md").write_text("a note")
    assert harvest_config(teacher={"kind": "local", "model": str(folder), "prompt_price": 2}).identity() == before


# The filters


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"error": "503"}, "the call failed"),
        ({"finish_reason": "length"}, "cut by length"),
        ({"closed": False, "answer": ""}, "the thought never closes"),
        ({"answer": "</think> \\boxed{4}"}, "doubled think tags"),
        ({"reasoning": ""}, "no reasoning"),
        ({"answer": ""}, "no answer"),
        ({"answer": "four, I think"}, "no final answer"),
        ({"reasoning": "done<|im_end|>"}, "control tokens in the text"),
    ],
)
def test_an_incomplete_trace_is_refused_for_its_reason(changes: dict[str, object], reason: str) -> None:
    assert Complete(CompleteConfig()).look(trace(QUESTION, **changes), QUESTION).reason == reason


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [("4", r"\boxed{4.0}", "kept"), ("5", r"\boxed{4}", "rejected"), (None, r"\boxed{4}", "unknown")],
)
def test_only_right_answers_pass_and_no_gold_is_unknown(gold: str | None, answer: str, verdict: str) -> None:
    asked = prompt("2 + 2?", gold)
    assert Correct().look(trace(asked, answer=answer), asked).verdict == verdict


def test_the_first_of_equal_traces_stays() -> None:
    duplicate = Duplicate()
    looks = [duplicate.look(trace(QUESTION, text, id=text), QUESTION) for text in ("a  b", "A b", "a c")]
    assert [look.verdict for look in looks] == ["kept", "rejected", "kept"]
    assert looks[1].evidence == "a  b"


LEGS = "Your task is to count how many legs there are in total when given a list of animals. You have {}?"


def test_contamination_finds_a_question_but_not_its_neighbours() -> None:
    animals = "{0} dogs, {0}1 crabs, {0}2 ants, {0}3 bees and {0} cows"
    questions = [prompt(LEGS.format(animals.format(n))) for n in range(9)]
    found = Contamination(ContaminationConfig(), [*questions, prompt("What is 7 - 3?")])
    assert found.shared_with("Please solve. " + questions[4].text.upper() + " Think first.") == questions[4].text
    assert found.shared_with("what is  7 - 3 ?") == "What is 7 - 3?"
    assert found.shared_with("What is 8 - 3?") == ""
    assert found.shared_with(LEGS.format("91 dogs, 92 crabs, 93 ants, 94 bees and 95 cows")) == ""


def test_contamination_sees_past_the_instruction_and_into_traces() -> None:
    instruction = "Please reason step by step, and put your final answer within the box."
    short = replace(prompt(f"What is 17 + 25?\n\n{instruction}"), meta={"question": "What is 17 + 25?"})
    other = replace(prompt(f"Name a prime.\n\n{instruction}"), meta={"question": "Name a prime."})
    found = Contamination(ContaminationConfig(), [short])
    assert found.look(trace(other), other).verdict == "kept"
    assert found.look(trace(other, "first, what is 17 + 25? It is 42."), other).verdict == "rejected"
    assert found.shared_with("What is 17 + 26?") == ""


def sift(tmp_path: Path, rows: list[tuple[Prompt, Trace]], **config: object) -> tuple[Made, Path]:
    prompts = list({p.id: p for p, _ in rows}.values())
    inputs = {
        "questions": artifact(tmp_path, "questions", {"questions.parquet": (Prompt, [prompt("benchmark?")])}),
        "prompts": artifact(tmp_path, "prompts", {"prompts.parquet": (Prompt, prompts)}),
        "traces": artifact(tmp_path, "traces", {"traces.parquet": (Trace, [t for _, t in rows])}),
    }
    out = tmp_path / "kept"
    out.mkdir()
    return kept(SiftConfig.model_validate(config), inputs, out, Progress("kept")), out


def test_every_trace_comes_out_once_kept_or_refused_and_is_counted(tmp_path: Path) -> None:
    good, twin = trace(QUESTION, id="good"), trace(QUESTION, id="twin")
    wrong, cut = trace(QUESTION, answer=r"\boxed{5}", id="wrong"), trace(QUESTION, finish_reason="length", id="cut")
    made, out = sift(tmp_path, [(QUESTION, each) for each in (good, twin, wrong, cut)])
    assert (made.rows_in, made.rows_out) == (4, 1)
    assert made.rejected == {
        "complete: cut by length": 1, "correct: wrong answer": 1, "duplicate: same text as an earlier trace": 1,
    }  # fmt: skip
    assert [t.id for t in read_rows(out / "kept.parquet", Trace)] == ["good"]
    assert {t.id for t in read_rows(out / "rejected.parquet", Trace)} == {"twin", "wrong", "cut"}
    assert {v.trace_id for v in read_rows(out / "verdicts.parquet", Verdict)} == {"good", "twin", "wrong", "cut"}


def test_a_trace_over_the_limit_is_refused_and_counted(tmp_path: Path) -> None:
    rows = [(QUESTION, trace(QUESTION, str(n), completion_tokens=n)) for n in (10, 11)]
    made, _ = sift(tmp_path, rows, length={"max_tokens": 10})
    assert (made.rows_out, made.rejected) == (1, {"length: longer than max_tokens": 1})


def test_a_filter_that_is_off_refuses_nothing(tmp_path: Path) -> None:
    made, _ = sift(tmp_path, [(QUESTION, trace(QUESTION, answer=r"\boxed{5}"))], correct={"enabled": False})
    assert made.rows_out == 1


def test_nothing_kept_is_said_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of 1 traces was kept \(correct: wrong answer: 1\)"):
        sift(tmp_path, [(QUESTION, trace(QUESTION, answer=r"\boxed{5}"))])


def test_disagreement_with_stored_labels_is_counted_and_listed(tmp_path: Path) -> None:
    rows = [trace(QUESTION, "a", meta={"label": True}), trace(QUESTION, "b", meta={"label": False})]
    made, out = sift(tmp_path, [(QUESTION, row) for row in rows])
    assert made.summary["labels"] == {
        "labelled": 2, "agreed": 1, "right_but_labelled_wrong": 1, "refused_but_labelled_right": 0,
    }  # fmt: skip
    listed = [json.loads(line) for line in (out / "disagreements.jsonl").read_text().splitlines()]
    assert [row["trace_id"] for row in listed] == [rows[1].id]


def test_the_mixture_takes_the_shortest_and_keeps_the_teachers_text(tmp_path: Path) -> None:
    long, short = trace(QUESTION, "long", completion_tokens=9), trace(QUESTION, "short", completion_tokens=2)
    inputs = {
        "prompts": artifact(tmp_path, "prompts", {"prompts.parquet": (Prompt, [QUESTION])}),
        "kept": artifact(tmp_path, "kept", {"kept.parquet": (Trace, [long, short])}),
    }
    out = tmp_path / "mixture"
    out.mkdir()
    made = mixture(MixConfig(per_prompt=1), inputs, out, Progress("mixture"))
    assert (made.rows_in, made.rows_out, made.rejected) == (2, 1, {"over per_prompt": 1})
    (example,) = read_rows(out / "mixture.parquet", Example)
    assert example.messages[-1] == {"role": "assistant", "content": "<think>\nshort\n</think>\n\nSo \\boxed{4}"}


REAL = ROOT.parent / "shared" / "data" / "traces" / "rg_teacher_llama70b_mistral24b_n3.jsonl"


@pytest.mark.skipif(not REAL.is_file(), reason="the real traces of shared/data are not beside the project")
def test_real_stored_completions_are_judged_as_their_labels_say() -> None:
    from distill.base.answers import judge
    from distill.base.sources import json_lines

    rows = [row for _, row in json_lines(REAL) if row["dataset"] in ("chain_sum", "leg_counting", "gcd", "lcm")]
    tagged = [row for row in rows if "extracted" in row]
    wrongly = [row for row in tagged if (judge(row["gold"], row["completion"]).verdict == "right") != row["correct"]]
    assert len(tagged) > 500
    # What is left are sums written out as an equation ("25 + 30 = 55"), which the label calls wrong.
    assert len(wrongly) <= 0.01 * len(tagged)
