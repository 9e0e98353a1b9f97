"""The frame: fingerprints, configurations, rows, artifacts, chat text, sources."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from distill.base import gym
from distill.base.artifacts import Made, altered_files, finish_artifact, open_artifact
from distill.base.chat import join_thought, load_tokenizer, split_thought
from distill.base.config import EXECUTION, Config, DataPath, load_config
from distill.base.errors import ConfigError, DiskFullError, FileError, InputError, RowError, shown
from distill.base.fingerprint import canonical, drift, fingerprint
from distill.base.records import Prompt, Trace, prompt_id, read_rows, write_rows
from distill.base.sources import GymSource, JsonlSource, read_prompts


class Cat(Config):
    kind: Literal["cat"] = "cat"
    lives: int = Field(9, ge=1)


class Dog(Config):
    kind: Literal["dog"] = "dog"
    breed: str


class Inner(Config):
    learning_rate: float = Field(1e-4, gt=0)
    workers: Annotated[int, EXECUTION] = 1


class Outer(Config):
    inner: Inner = Inner()
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()
    data: DataPath | None = None


def load(tmp_path: Path, text: str, *sets: str) -> Outer:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(Outer, path, sets)


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [1.5, None]}) == fingerprint({"b": [1.5, None], "a": 1})


@pytest.mark.parametrize("value", [Path("x"), {1: 2}, {"a": {3}}, float("nan"), object()])
def test_a_value_without_a_stable_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="value"):
        canonical(value)


def test_drift_names_the_changed_fields_only() -> None:
    before, after = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 1, "c": 3}, "e": 0}
    assert [change.field for change in drift(before, after)] == ["a.c", "d", "e"]


def test_where_and_how_it_runs_is_not_identity(tmp_path: Path) -> None:
    one, four = load(tmp_path, "inner: {workers: 1}"), load(tmp_path, "inner: {workers: 4}")
    assert one.identity() == four.identity()
    assert one.identity() != load(tmp_path, "inner: {learning_rate: 1}").identity()


def test_a_data_file_counts_by_content_not_by_place(tmp_path: Path) -> None:
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(text)
    a, b, c = (load(tmp_path, f"data: {tmp_path / name}").identity() for name in "abc")
    assert a == b != c


def test_every_problem_is_reported_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    text = "inner: {lerning_rate: 1, workers: many}\npet: {kind: cat, lifes: 3}\nouter: 1"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, "inner.learning_rate=-1", "nonsense")
    message = str(caught.value)
    assert "6 problems" in message and "inner.workers" in message and "many" in message
    assert "inner.lerning_rate: unknown key; did you mean 'learning_rate'" in message
    assert "pet.lifes: unknown key; did you mean 'lives'" in message
    assert "--set nonsense" in message and "inner.learning_rate" in message


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    config = load(tmp_path, "inner: {learning_rate: 1}", "inner.learning_rate=2e-3", "pet={kind: dog, breed: pug}")
    assert config.inner.learning_rate == 2e-3
    assert isinstance(config.pet, Dog)


@pytest.mark.parametrize(("text", "part"), [("a: [", "not readable as YAML"), ("- 1", "holds list"), ("", "NoneType")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(FileError, match=part):
        load(tmp_path, text)


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="not readable as YAML"):
        load(tmp_path, "inner: !!python/object/apply:os.system ['true']")


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "ä <b>\n1"}]
    prompt = Prompt(prompt_id(messages), messages, None, "none", "here", meta={"n": 1, "deep": {"x": [1, 2]}})
    write_rows(tmp_path / "p.parquet", Prompt, [prompt] * 3)
    assert list(read_rows(tmp_path / "p.parquet", Prompt)) == [prompt] * 3


def test_text_that_utf8_cannot_carry_is_kept_readable(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a \ud800 \ud83d\ude00 b"}]
    write_rows(tmp_path / "p.parquet", Prompt, [Prompt("i", messages, None, "none", "here", meta={"x": "\udfff"})])
    (row,) = read_rows(tmp_path / "p.parquet", Prompt)
    assert row.messages[0]["content"] == "a \ufffd \U0001f600 b" and row.meta == {"x": "\ufffd"}


def test_datasets_opens_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from datasets import load_dataset

    messages = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    write_rows(tmp_path / "p.parquet", Prompt, [Prompt("i", messages, "4", "math", "here")])
    opened = load_dataset("parquet", data_files=str(tmp_path / "p.parquet"), cache_dir=str(tmp_path / "c"))["train"]
    assert opened[0]["messages"] == messages


def test_the_id_of_a_prompt_is_its_content() -> None:
    def of(text: str) -> str:
        return prompt_id([{"role": "user", "content": text}])

    assert of("How  many legs?\n") == of("How many legs?")
    assert len({of("3 dogs"), of("4 dogs"), of("A"), of("a"), of("5²"), of("52")}) == 6


def test_a_record_is_written_last_and_guards_its_files(tmp_path: Path) -> None:
    partial, final = tmp_path / "01_x.partial", tmp_path / "01_x"
    partial.mkdir()
    (partial / "rows").write_text("12345")
    artifact = finish_artifact(partial, final, "x", {"a": 1}, Made(1, 1), {}, 0.5)
    assert not partial.exists()
    assert open_artifact(final).id == artifact.id
    assert altered_files(artifact) == []
    (final / "rows").write_text("54321")
    assert altered_files(artifact) == ["rows"]
    (final / "rows").write_text("1")
    with pytest.raises(FileError, match=r"1 bytes, expected 5 bytes.*--rebuild x"):
        open_artifact(final)


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("<think>\na\n</think>\n\nb", False, ("a", "b", True, True)),
        ("a\n</think>\n\nb", True, ("a", "b", True, True)),
        ("<think>\na", False, ("a", "", True, False)),
        ("a", True, ("a", "", True, False)),
        ("just b", False, ("", "just b", False, True)),
        ("<think>\n\n</think>\n\nb", False, ("", "b", True, True)),
    ],
)
def test_a_completion_is_taken_apart_in_every_form(text: str, opened: bool, expected: tuple[Any, ...]) -> None:
    parts = split_thought(text, opened)
    assert (parts.reasoning, parts.answer, parts.thought, parts.closed) == expected


def test_joining_a_thought_is_the_inverse_of_splitting_it() -> None:
    assert split_thought(join_thought("a\nb", "c")).reasoning == "a\nb"
    assert join_thought("", "plain", thought=False) == "plain"


def test_making_harvesting_and_scoring_never_share_a_problem() -> None:
    ranges = (gym.HARVEST, gym.SCORING, gym.MAKING)
    assert all(set(range(a.start, a.stop, 99991)).isdisjoint(b) for a in ranges for b in ranges if a is not b)
    assert max(r.stop for r in ranges) - min(r.start for r in ranges) == sum(len(r) for r in ranges)
    for purpose in ranges:
        with pytest.raises(ValueError, match="leave their purpose's range"):
            gym.span(purpose, len(purpose) - 1, 2)


def test_a_gym_problem_is_found_again_by_its_index() -> None:
    ten = gym.problems("leg_counting", gym.DEMO_TASKS["leg_counting"], 100, 10)
    five = gym.problems("leg_counting", gym.DEMO_TASKS["leg_counting"], 105, 5)
    assert ten[5:] == five


def test_an_unknown_task_is_named_with_its_nearest_neighbour() -> None:
    with pytest.raises(InputError, match="leg_counting"):
        read_prompts(GymSource(tasks={"leg_countin": {}}, count=2), gym.HARVEST)


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (['{"question": "a"}', "{torn"], "line 2: not readable as JSON"),
        (['{"question": "a"}', "", "[1]"], "line 3: holds a list"),
        (["[" * 100_000], "line 1: not readable as JSON"),
        (['{"question": "a", "answer": [1]}'], r"line 1: 'answer' holds \[1\]"),
        (['{"text": "a"}'], "line 1: no text in the field 'question'; it has text"),
        (['{"question": "  "}'], "line 1: no text"),
        ([], "holds no problems"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_line(tmp_path: Path, lines: list[str], part: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=part) as caught:
        read_prompts(JsonlSource(path=path), gym.HARVEST)
    assert isinstance(caught.value, RowError) or not lines


def test_a_worked_gold_answer_is_cut_to_its_final_answer(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": "half of 8 is 4\n#### 4"}))
    assert read_prompts(JsonlSource(path=path), gym.HARVEST)[0][0].answer == "4"


def test_a_full_disk_is_recognised_in_every_librarys_words() -> None:
    rust = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    for error in (OSError(28, "No space left on device", "/data/x"), rust):
        found = shown(error)
        assert isinstance(found, DiskFullError) and found.exit_status == 2
    assert shown(RuntimeError("other")) is None


def test_an_error_that_was_dealt_with_is_not_shown_for_another() -> None:
    try:
        try:
            raise FileNotFoundError(2, "gone", "x")
        except OSError:
            raise KeyError("a bug") from None
    except KeyError as error:
        assert shown(error) is None


@pytest.mark.parametrize("name", ["qwen2.5", "qwen2.5-math", "qwen3", "deepseek-r1-distill-qwen"])
def test_a_real_tokenizer_gives_its_text_back(name: str) -> None:
    folder = Path(__file__).parents[2] / "shared" / "data" / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip("the real tokenizers of shared/data are not beside the project")
    tokenizer = load_tokenizer(folder)
    text = "Hello  world:\n\n x = 1, ünï"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_errors_survive_the_way_from_a_worker() -> None:
    import pickle

    for error in (ConfigError("x", ["a", "b"]), RowError(Path("f"), 3, "torn", "Mend it"), InputError("m")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own bytes


def test_trace_rows_keep_failures(tmp_path: Path) -> None:
    failed = Trace("i", "p", 0, "", "", "error", 0, 0, 0, 0.0, "t", {}, 1, 3, error="503")
    write_rows(tmp_path / "t.parquet", Trace, [failed])
    assert next(read_rows(tmp_path / "t.parquet", Trace)).error == "503"
