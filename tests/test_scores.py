"""Scoring through lm-eval: what is sent, what is kept, what counts as what, and what a restart redoes."""

import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny

from distill.base.artifacts import Artifact
from distill.base.chat import prompt_text
from distill.base.errors import FileError, InputError
from distill.base.progress import Progress
from distill.base.records import Outcome, Prompt, read_rows, write_rows
from evals import generate, harness, outcomes
from evals.generate import Sampling
from evals.outcomes import Completion
from evals.scores import ScoresConfig, candidates, check, scores

QUIET = Progress("test")
SHORT = Sampling(k=4, temperature=1.0, top_p=0.95, max_new_tokens=8, seed=0)


def question(name: str, text: str, answer: str | None = "4", system: str = "") -> Prompt:
    messages = [{"role": "system", "content": system}] if system else []
    return Prompt(name, [*messages, {"role": "user", "content": text}], answer, "math", "test")


QUESTIONS = [
    question("a", "What is 2 + 2?"),
    question("b", "How many legs have 3 cows and 2 birds together?", "16"),
    question("c", "{{answer}} is not a template, and neither is {% raw %}", "1", system="Be short."),
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    tiny.make_model(made)
    return made


@pytest.fixture(scope="session")
def loaded(folder: Path) -> generate.Loaded:
    return generate.load("tiny", str(folder), "cpu")


def run(
    loaded: generate.Loaded, sampling: Sampling, work: Path, size: int = 64, asked: Sequence[Prompt] = QUESTIONS
) -> Any:
    return harness.outcomes(loaded, asked, sampling, work, size, lambda *_: None)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Completion]], None]:
    """Let every batch of four be answered with the same four completions."""

    def plant(answers: Sequence[Completion]) -> None:
        def extend(loaded: Any, jobs: Sequence[generate.Job], *_: Any) -> None:
            for job, answer in zip(jobs, itertools.cycle(answers), strict=False):
                job.completion = Completion(str(answer), answer.tokens, answer.finish)

        monkeypatch.setattr(generate, "extend", extend)

    return plant


@pytest.fixture
def inputs(folder: Path, tmp_path: Path) -> dict[str, Artifact]:
    asked = tiny.artifact(tmp_path / "questions", "questions", {})
    write_rows(asked.path / "questions.parquet", Prompt, QUESTIONS)
    weights = tiny.artifact(tmp_path / "weights", "weights", {})
    shutil.copytree(folder, weights.path / "model")
    return {
        "questions": asked,
        "traces": tiny.artifact(tmp_path / "traces", "traces", {"teacher": {"name": "api", "model": None}}),
        "student": tiny.as_student(folder, tmp_path / "student"),
        "weights": weights,
        "quantized": tiny.artifact(tmp_path / "quantized", "quantized", {"methods": {}}),
    }


CONFIG = ScoresConfig(k=2, max_new_tokens=8, device="cpu")


def test_what_lm_eval_sends_is_what_the_chat_template_gives(
    loaded: generate.Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    ids: list[list[int]] = []

    def spy(loaded: Any, jobs: Sequence[generate.Job], *_: Any) -> None:
        for job in jobs:
            ids.append(job.ids)
            job.completion = Completion("x", 1, "stop")

    original = harness.SeededLM.generate_until

    def listen(self: Any, requests: Any, disable_tqdm: bool = False) -> Any:
        sent.extend(request.args[0] for request in requests)
        return original(self, requests, disable_tqdm)

    monkeypatch.setattr(generate, "extend", spy)
    monkeypatch.setattr(harness.SeededLM, "generate_until", listen)
    run(loaded, SHORT, tmp_path)
    expected = [prompt_text(loaded.tokenizer, asked.messages) for asked in QUESTIONS for _ in range(4)]
    assert sent == expected
    assert sorted(map(loaded.tokenizer.decode, ids)) == sorted(expected)


def test_all_samples_are_kept_and_differ(loaded: generate.Loaded, tmp_path: Path) -> None:
    rows, table = run(loaded, SHORT, tmp_path)
    assert [(row.question_id, row.sample_index) for row in rows] == [(q.id, i) for q in QUESTIONS for i in range(4)]
    assert all(len({row.response for row in rows if row.question_id == q.id}) == 4 for q in QUESTIONS)
    assert set(table) >= {"pass_at_1,all", "truncated,all"}


def test_samples_do_not_depend_on_the_batch_or_on_other_questions(loaded: generate.Loaded, tmp_path: Path) -> None:
    whole, _ = run(loaded, SHORT, tmp_path / "1")
    again, _ = run(loaded, SHORT, tmp_path / "2")
    split, _ = run(loaded, SHORT, tmp_path / "3", size=3)
    alone, _ = run(loaded, SHORT, tmp_path / "4", asked=QUESTIONS[1:2])
    other, _ = run(loaded, Sampling(4, 1.0, 0.95, 8, seed=1), tmp_path / "5")
    assert whole == again == split
    assert alone == [row for row in whole if row.question_id == "b"]
    assert [row.response for row in whole] != [row.response for row in other]


def test_long_completions_are_finished_in_later_batches(loaded: generate.Loaded, tmp_path: Path) -> None:
    asked = [question(f"q{number}", f"What is {number} + 1?") for number in range(6)]
    sampling = Sampling(4, 1.5, 1.0, 120, 0)
    batches: list[int] = []
    original = generate.extend

    def count(loaded: Any, jobs: Sequence[generate.Job], *rest: Any) -> None:
        batches.append(len(jobs))
        original(loaded, jobs, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "stop_ids", lambda loaded: list(range(0, 576, 40)))
        whole, _ = run(loaded, sampling, tmp_path / "1", size=4, asked=asked)
        patch.setattr(generate, "extend", count)
        rows, _ = run(loaded, sampling, tmp_path / "2", size=12, asked=asked)
    assert len(batches) > 2
    assert len({row.tokens for row in rows}) > 5
    assert all(row.tokens <= 120 and (row.finish == "stop" or row.tokens == 120) for row in rows)
    assert rows == whole


def test_greedy_is_the_models_own_greedy(loaded: generate.Loaded, tmp_path: Path) -> None:
    import torch

    rows, _ = run(loaded, Sampling(1, 0.0, 1.0, 8, 0), tmp_path, asked=QUESTIONS[:1])
    ids = torch.tensor([loaded.tokenizer(prompt_text(loaded.tokenizer, QUESTIONS[0].messages))["input_ids"]])
    made = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)
    assert rows[0].response == loaded.tokenizer.decode(made[0, ids.shape[1] :]).removesuffix("<|im_end|>")


def test_sampling_follows_the_models_probabilities_within_the_nucleus() -> None:
    import torch

    chance = torch.tensor([0.5, 0.3, 0.15, 0.05])
    sampling = Sampling(1, 1.0, 0.9, 1, 0)
    jobs = [generate.Job([], generate.noise(sampling, "question", sample)) for sample in range(4000)]
    sampler = generate.SeededSampling(jobs, sampling, "test")
    chosen = sampler(torch.zeros(4000, 1), chance.log().expand(4000, 4)).argmax(-1)
    shares = torch.bincount(chosen, minlength=4) / 4000
    assert shares.tolist() == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0], abs=0.03)


@pytest.mark.parametrize("top_p", [0.5, 0.99, 1.0])
def test_a_wide_nucleus_is_sampled_as_exactly_as_a_narrow_one(top_p: float) -> None:
    import torch

    sampling = Sampling(1, 1.0, top_p, 1, 0)
    jobs = [generate.Job([], generate.noise(sampling, "question", sample)) for sample in range(4000)]
    scores = torch.zeros(4000, 400)  # uniform over more tokens than the short list has
    chosen = generate.SeededSampling(jobs, sampling, "test")(torch.zeros(4000, 1), scores).argmax(-1)
    assert len(chosen.unique()) == pytest.approx(400 * top_p, rel=0.02)


def test_a_batch_fits_into_memory(loaded: generate.Loaded) -> None:
    assert 1 <= generate.fitting_batch(loaded, SHORT) <= 128


def test_planted_completions_are_judged_as_what_they_are(
    loaded: generate.Loaded, tmp_path: Path, planted: Callable[[Sequence[Completion]], None]
) -> None:
    planted([
        Completion("<think>\n2 and 2, or \\boxed{5}\n</think>\n\n\\boxed{4}", 20, "stop"),
        Completion("<think>\n2 and 2\n</think>\n\n\\boxed{5}", 20, "stop"),
        Completion("<think>\n\\boxed{4} so far", 8, "length"),
        Completion("<think>\n\\boxed{4} and stopped", 8, "stop"),
    ])  # fmt: skip
    rows, table = run(loaded, SHORT, tmp_path, asked=QUESTIONS[:1])
    assert [row.verdict for row in rows] == ["right", "wrong", "truncated", "truncated"]
    assert rows[0].response.startswith("<think>\n2 and 2")
    assert (rows[0].extracted, rows[0].tokens, rows[2].finish) == ("4", 20, "length")
    assert table["pass_at_1,all"] == 0.25
    assert table["truncated,all"] == 0.5


def test_a_thought_that_the_template_opened_must_be_closed() -> None:
    doc = {"prompt": "<|Assistant|><think>\n", "answer": "4", "kind": "math"}
    assert outcomes.judged(doc, Completion("so \\boxed{4}", 5, "stop")).verdict == "truncated"
    assert outcomes.judged(doc, Completion("so\n</think>\n\\boxed{4}", 5, "stop")).verdict == "right"


def test_no_gold_answer_is_unknown_and_a_prompt_that_does_not_fit_is_an_error(
    loaded: generate.Loaded, tmp_path: Path
) -> None:
    asked = [question("n", "What do you like?", None), question("long", "word " * 400)]
    rows, table = run(loaded, SHORT, tmp_path, asked=asked)
    by = outcomes.by_question(rows)
    assert {row.verdict for row in by["n"]} <= {"unknown", "truncated"}
    assert {(row.verdict, row.finish, row.tokens) for row in by["long"]} == {("errored", "error", 0)}
    assert "tokens; window less max_new_tokens leaves 248" in by["long"][0].reason
    assert outcomes.question_scores(rows) == {"n": 0.0}
    assert table["errored,all"] == 0.5


def rows_of(model: str, verdicts: dict[str, list[str]]) -> list[Outcome]:
    return [
        Outcome(name, model, index, "", 10, "stop", verdict, verdict, "")
        for name, found in verdicts.items()
        for index, verdict in enumerate(found)
    ]


def test_errors_are_in_no_denominator_and_unknown_is_never_right() -> None:
    rows = rows_of("m", {"a": ["right", "errored"], "b": ["unknown", "right"], "c": ["errored", "errored"]})
    found = outcomes.score(rows)
    assert (found["n"], found["pass_at_1"], found["pass_at_k"]) == (2, 0.75, 1.0)
    assert (found["errored"], found["unknown"]) == (0.5, pytest.approx(1 / 6))


def test_the_majority_is_right_when_most_right_answers_agree() -> None:
    def rows(*answers: tuple[str, str]) -> list[Outcome]:
        return [Outcome("q", "m", i, "", 1, "stop", v, e, "") for i, (v, e) in enumerate(answers)]

    assert outcomes.majority(rows(("right", "1/2"), ("right", "0.5"), ("wrong", "3"))) == 1
    assert outcomes.majority(rows(("right", "4"), ("wrong", "3"), ("wrong", "3"))) == 0
    assert outcomes.majority(rows(("right", "4"), ("wrong", "3"))) == 0.5
    assert outcomes.majority(rows(("right", "4"), ("truncated", ""), ("truncated", ""))) == 1
    assert outcomes.majority(rows(("unknown", "4"))) == 0


def test_models_are_compared_on_the_same_questions_only() -> None:
    a = rows_of("a", {"q1": ["right", "wrong"], "q2": ["wrong", "wrong"]})
    b = rows_of("b", {"q1": ["right", "right"], "q2": ["right", "right"]})
    found = outcomes.compared("a", "b", a, b, 0.02, 0)
    assert (found["difference"], found["better"], found["flips"]["wrong_to_right"]) == (0.75, 2, 2)
    with pytest.raises(InputError, match="1 questions were put to a only"):
        outcomes.compared("a", "b", a, b[:2], 0.02, 0)
    with pytest.raises(InputError, match="another number of times"):
        outcomes.compared("a", "b", a, b[:3], 0.02, 0)


def test_scores_taken_in_different_ways_are_not_compared() -> None:
    with pytest.raises(InputError, match=r"temperature: 0\.6 against 1\.0"):
        outcomes.refuse_other_protocol("a", "b", {"temperature": 0.6}, {"temperature": 1.0})


def test_the_stage_scores_every_model_and_compares_them(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    inputs["traces"] = tiny.artifact(tmp_path / "t", "traces", {"teacher": {"model": str(tmp_path / "teacher")}})
    tiny.make_model(tmp_path / "teacher", seed=5)
    out = tmp_path / "out"
    out.mkdir()
    made = scores(CONFIG, inputs, out, QUIET)
    assert list(made.summary["models"]) == ["teacher", "base", "student"]
    assert [(c["a"], c["b"]) for c in made.summary["comparisons"]] == [("base", "student"), ("teacher", "student")]
    same = made.summary["comparisons"][0]
    assert (same["difference"], same["equal"], same["verdict"]) == (0.0, 3, "not distinguishable")
    rows = list(read_rows(out / "outcomes.parquet", Outcome))
    assert len(rows) == made.rows_out == 3 * 3 * 2
    by = {name: [row.response for row in rows if row.model == name] for name in ("teacher", "base", "student")}
    assert by["base"] == by["student"] != by["teacher"]
    assert [path.name for path in out.iterdir()] == ["outcomes.parquet"]
    assert made.summary["protocol"]["k"] == 2
    assert made.tokens["student"] == sum(row.tokens for row in rows if row.model == "student")


def test_a_restart_scores_only_the_unfinished_model(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    honest = harness.outcomes
    names: list[str] = []

    def dies_on_the_student(loaded: generate.Loaded, *rest: Any) -> Any:
        names.append(loaded.name)
        if loaded.name == "student" and names.count("student") == 1:
            raise KeyboardInterrupt
        return honest(loaded, *rest)

    monkeypatch.setattr(harness, "outcomes", dies_on_the_student)
    with pytest.raises(KeyboardInterrupt):
        scores(CONFIG, inputs, out, QUIET)
    assert [path.name for path in (out / "outcomes").glob("*.parquet")] == ["base.parquet"]
    made = scores(CONFIG, inputs, out, QUIET)
    assert names == ["base", "student", "student"]
    assert list(made.summary["models"]) == ["base", "student"]


def test_a_quantized_copy_is_scored_as_it_lies_on_disk(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    from students.quantize import QuantizeConfig, quantized

    copies = tmp_path / "copies"
    copies.mkdir()
    made = quantized(QuantizeConfig(), inputs, copies, QUIET)
    inputs["quantized"] = tiny.artifact(copies, "quantized", made.summary)
    out = tmp_path / "out"
    out.mkdir()
    summary = scores(CONFIG, inputs, out, QUIET).summary
    assert list(summary["models"]) == ["base", "student", "student-nf4", "student-int8"]
    assert summary["models"]["student-nf4"]["bytes"] < summary["models"]["student"]["bytes"]
    assert [c["b"] for c in summary["comparisons"] if c["a"] == "student"] == ["student-nf4", "student-int8"]


def test_a_budget_that_fills_the_window_is_refused_before_anything_is_generated(
    loaded: generate.Loaded, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="model's window of 256 tokens; set it to 128 or less"):
        run(loaded, Sampling(1, 1.0, 1.0, 256, 0), tmp_path)


def test_a_base_without_a_template_borrows_the_students(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        generate.load("base", str(tmp_path / "base"), "cpu")
    assert generate.load("base", str(tmp_path / "base"), "cpu", str(folder)).tokenizer.chat_template


def test_a_model_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="teacher: no model can be loaded"):
        generate.load("teacher", str(tmp_path / "nothing"), "cpu")


def test_a_teacher_behind_an_api_is_not_scored(inputs: dict[str, Artifact]) -> None:
    assert [model.name for model in candidates(inputs)] == ["base", "student"]


def test_greedy_with_several_samples_is_refused_before_the_run() -> None:
    assert check(ScoresConfig()) == []
    assert "all 4 samples" in check(ScoresConfig(temperature=0))[0]
