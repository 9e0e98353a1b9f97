"""The command line on bad input: one clear message, exit status 2, nothing half-written."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import EMBEDDED, ROOT, Cli

from distill.base import gym
from distill.base.config import load_config
from distill.base.errors import ConfigError
from distill.base.sources import GymSource, read_prompts
from distill.pipeline import STAGES, RunConfig

SMALL = """
name: small
questions: {source: {kind: gym, count: 4}}
prompts: {source: {kind: gym, count: 4}}
traces: {teacher: {kind: local, model: students/embedded/teacher}, sampling: {max_new_tokens: 32}}
student: {base: students/embedded/base}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(SMALL)
    return path


def refused(done: "subprocess.CompletedProcess[str]", *parts: str) -> None:
    """Exit status 2, every part in the message, no traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


def broken_model(tmp_path: Path, change: Callable[[Path], None]) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED / "base", folder)
    change(folder)
    return folder


def drop_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)


def drop_reasoning(folder: Path) -> None:
    template = (folder / "chat_template.jinja").read_text()
    content = "message['content']" if "message['content']" in template else "message.content"
    (folder / "chat_template.jinja").write_text(template.replace(content, f"{content}.split('</think>')[-1]"))


def pad_is_stop(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "<|im_end|>"}))


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        (["student.lerning_rate=1"], ["unknown key", "learning_rate"]),
        (["traces.samples=many"], ["traces.samples", "'many'"]),
        (
            ["traces.samples=0", "prompts.sauce=1", "student.epochs=-1"],
            ["3 problems", "traces.samples", "did you mean 'source'", "student.epochs"],
        ),
        (["prompts.source={kind: jsonl, path: /nowhere.jsonl}"], ["/nowhere.jsonl: no such file"]),
        (["prompts.source={kind: jsonl, path: TMP/torn.jsonl}"], ["torn.jsonl, line 2: not readable as JSON"]),
        (["prompts.source={kind: jsonl, path: TMP/empty.jsonl}"], ["empty.jsonl: holds no problems"]),
        (["traces.teacher.model=/nowhere/model"], ["/nowhere/model", "no such folder"]),
    ],
)
def test_bad_settings_and_files_are_named(
    tmp_path: Path, config: Path, cli: Cli, sets: list[str], parts: list[str]
) -> None:
    (tmp_path / "torn.jsonl").write_text('{"question": "a"}\n{"question"')
    (tmp_path / "empty.jsonl").write_text("\n")
    options = [option for each in sets for option in ("--set", each.replace("TMP", str(tmp_path)))]
    refused(cli("run", config, "--runs", tmp_path / "runs", *options), *parts)
    assert not list((tmp_path / "runs").glob("*/*_*")), "nothing half-written"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (drop_tokenizer, "no tokenizer"),
        (drop_reasoning, "the chat template drops the reasoning"),
        (pad_is_stop, "is also the stop token"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_before_anything_is_spent(
    tmp_path: Path, config: Path, cli: Cli, change: Callable[[Path], None], part: str
) -> None:
    folder = broken_model(tmp_path, change)
    options = ("--set", f"student.base={folder}")
    refused(cli("check", config, *options), part, str(folder))
    refused(cli("run", config, "--runs", tmp_path / "runs", *options), part)
    assert not list((tmp_path / "runs").glob("*/*_*")), "nothing half-written"


def test_check_finds_no_fault_in_a_good_configuration(config: Path, cli: Cli) -> None:
    done = cli("check", config)
    assert (done.returncode, done.stdout.strip()) == (0, f"{config}: no problems found")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("run", "nowhere.yaml"), "nowhere.yaml: no such file"),
        (("run", "configs/demo.yaml", "--until", "quantised"), "'quantised' is no stage"),
        (("run", "configs/demo.yaml", "--name", "../up"), "'../up' is no run's name"),
        (("run", "configs/demo.yaml", "--runs", "setup.cfg/runs"), "Not a directory"),
        (("status", "nowhere"), "nowhere: no such run"),
        (("show", "nowhere", "kept"), "nowhere: no such run"),
    ],
)
def test_a_wrong_word_on_the_command_line_is_named(cli: Cli, arguments: tuple[str, ...], part: str) -> None:
    refused(cli(*arguments), part)


def test_a_run_of_another_configuration_stops_with_the_field_and_the_ways_out(
    tmp_path: Path, config: Path, cli: Cli
) -> None:
    arguments = ("run", config, "--runs", tmp_path, "--until", "questions")
    assert cli(*arguments).returncode == 0
    done = cli(*arguments, "--set", "questions.source.count=5")
    refused(done, "questions.source.count: 4 -> 5", "--name NEW", "--rebuild questions", "--keep questions")
    kept = cli(*arguments, "--set", "questions.source.count=5", "--keep", "questions")
    assert kept.returncode == 0, kept.stderr
    assert "kept despite changes" in cli("status", tmp_path / "small").stdout
    rebuilt = cli(*arguments, "--set", "questions.source.count=5", "--rebuild", "questions")
    assert "questions: 5 rows" in rebuilt.stdout


def test_show_prints_rows_and_a_finished_run_does_nothing(tmp_path: Path, config: Path, cli: Cli) -> None:
    arguments = ("run", config, "--runs", tmp_path, "--until", "prompts")
    assert cli(*arguments).returncode == 0
    assert "nothing to do" in cli(*arguments).stdout
    shown = cli("show", tmp_path / "small", "questions", "-n", "2").stdout
    assert shown.count("= ") == 2 and "reasoning-gym/leg_counting" in shown
    refused(cli("show", tmp_path / "small", "scores"), "scores is not done")


GIVEN_ON_THE_COMMAND_LINE = {
    "replay_llama70b": ("prompts.source.path=f", "traces.teacher.path=f", "student.base.tokenizer=t"),
}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid_and_bears_its_files_name(path: Path) -> None:
    assert load_config(RunConfig, path, GIVEN_ON_THE_COMMAND_LINE.get(path.stem, ())).name == path.stem


def test_what_must_be_given_on_the_command_line_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(RunConfig, ROOT / "configs" / "replay_llama70b.yaml")
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "prompts.source.path", "traces.teacher.path", "student.base.tokenizer",
    ]  # fmt: skip


def test_default_seeds_of_prompts_and_questions_never_overlap() -> None:
    demo = load_config(RunConfig, ROOT / "configs" / "demo.yaml")
    assert isinstance(demo.prompts.source, GymSource) and isinstance(demo.questions.source, GymSource)
    harvested = {p.meta["index"] for p in read_prompts(demo.prompts.source, gym.HARVEST)[0]}
    scored = {p.meta["index"] for p in read_prompts(demo.questions.source, gym.SCORING)[0]}
    assert harvested and scored and harvested.isdisjoint(scored)
    assert harvested <= set(gym.HARVEST) and scored <= set(gym.SCORING)


def test_the_table_names_functions_that_exist_and_inputs_that_come_before() -> None:
    from distill.base.runner import load

    before: set[str] = set()
    for stage in STAGES:
        assert set(stage.inputs) <= before, stage.name
        assert callable(load(stage.make))
        before.add(stage.name)


@pytest.fixture
def small_disk(tmp_path: Path) -> "Path":
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a small file system can be mounted by root only")
    return folder


def test_a_full_disk_is_said_and_costs_nothing(small_disk: Path, config: Path, cli: Cli) -> None:
    arguments = ("run", config, "--runs", small_disk, "--until", "prompts", "--set", "prompts.source.count=4000")
    try:
        refused(cli(*arguments), "the disk is full", "free some space")
        assert not (small_disk / "small" / "02_prompts").exists()
        subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
        done = cli(*arguments)
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)
