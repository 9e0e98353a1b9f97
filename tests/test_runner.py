"""The runner, on stages of the test's own: what is reused, made again, refused, kept."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from distill.base.artifacts import Artifact, Made, remove
from distill.base.errors import BusyError, DriftError, InputError
from distill.base.runner import Stage, lock, run_stages
from distill.base.sources import GymSource
from evals.questions import QuestionsConfig

PLAIN = QuestionsConfig(source=GymSource(count=1))
OTHER = PLAIN.model_copy(update={"instruction": "box it"})


def make(config: QuestionsConfig, inputs: dict[str, Artifact], out: Path, progress: object) -> Made:
    """Leaves one file more at each call that finds the folder's earlier work, as a ledger does."""
    (out / f"segment-{len(list(out.glob('segment-*')))}").write_text(config.instruction)
    return Made(1, 1)


def crash(config: QuestionsConfig, inputs: dict[str, Artifact], out: Path, progress: object) -> Made:
    make(config, inputs, out, progress)
    raise KeyboardInterrupt


FIRST = Stage("first", f"{__name__}:make", ())
SECOND = Stage("second", f"{__name__}:make", ("first",))
REPORT = Stage("report", f"{__name__}:make", ("first", "second"), on_change="remake")
STAGES = (FIRST, SECOND, REPORT)


def run(folder: Path, first: QuestionsConfig = PLAIN, **options: object) -> tuple[dict[str, Artifact], list[str]]:
    said: list[str] = []
    configs = {"first": first, "second": PLAIN, "report": PLAIN}
    done = run_stages(STAGES, configs, folder, say=said.append, **options)  # type: ignore[arg-type]
    return done, [line.split(":")[0] for line in said]


def half_made(folder: Path, stage: Stage) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_stages((replace(stage, make=f"{__name__}:crash"),), {"first": PLAIN}, folder, say=lambda _: None)


def segments(folder: Path) -> list[str]:
    return sorted(path.read_text() for path in (folder / "01_first").glob("segment-*"))


def test_a_second_run_makes_nothing(tmp_path: Path) -> None:
    assert run(tmp_path)[1] == ["first", "second", "report"]
    assert run(tmp_path)[1] == [str(tmp_path)]


def test_a_changed_setting_stops_with_the_field_and_the_ways_out(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(DriftError) as caught:
        run(tmp_path, OTHER)
    for part in ('first.instruction: "" -> "box it"', "--name NEW", "--rebuild first", "--keep first"):
        assert part in str(caught.value)


def test_a_rebuilt_stage_takes_along_what_was_made_from_it(tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path, OTHER, rebuild=["first"])[1] == ["first", "second", "report"]
    assert segments(tmp_path) == ["box it"]


def test_a_rebuild_that_gives_the_same_leaves_the_rest_alone(tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path, rebuild=["first"])[1] == ["first"]


def test_nothing_is_discarded_before_the_preflight_has_passed(tmp_path: Path) -> None:
    run(tmp_path)

    def refuse() -> None:
        raise InputError("a typo")

    with pytest.raises(InputError, match="a typo"):
        run(tmp_path, OTHER, rebuild=["first"], before_work=refuse)
    assert run(tmp_path)[1] == [str(tmp_path)]


def test_a_kept_stage_is_shown_and_forgotten_when_its_settings_are_back(tmp_path: Path) -> None:
    run(tmp_path)
    done, said = run(tmp_path, OTHER, keep=["first"])
    assert said == ["report"] and done["first"].record.kept_despite == ['config.instruction: "" -> "box it"']
    done, said = run(tmp_path)
    assert said == ["report"] and done["first"].record.kept_despite == []


def discarded(folder: Path) -> list[str]:
    run(folder, OTHER)
    return segments(folder)


@pytest.mark.parametrize(
    ("unfinished", "expected"), [("discard", ["box it"]), ("continue", ["", "box it"]), ("guard", None)]
)
def test_half_made_work_of_other_settings_is_discarded_continued_or_guarded(
    tmp_path: Path, unfinished: str, expected: list[str] | None
) -> None:
    stage = replace(FIRST, unfinished=unfinished)
    half_made(tmp_path, stage)
    again: Callable[[], object] = lambda: run_stages((stage,), {"first": OTHER}, tmp_path, say=lambda _: None)  # noqa: E731
    if expected is None:
        with pytest.raises(DriftError, match="half-made with another configuration"):
            again()
    else:
        again()
        assert segments(tmp_path) == expected


def test_half_made_work_of_the_same_settings_goes_on(tmp_path: Path) -> None:
    half_made(tmp_path, FIRST)
    run(tmp_path)
    assert len(segments(tmp_path)) == 2


def test_a_crash_while_removing_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)

    def die(path: Path, **_: object) -> None:
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("distill.base.artifacts.shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            remove(tmp_path / "01_first")
    assert run(tmp_path)[1] == ["first"]


def test_a_crash_while_the_record_is_written_loses_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(path: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("distill.base.artifacts.file_digest", die)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    run(tmp_path)
    assert len(segments(tmp_path)) == 2


def test_a_folder_without_a_record_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "01_first").mkdir()
    (tmp_path / "01_first" / "mine").write_text("x")
    with pytest.raises(InputError, match="was not made here"):
        run(tmp_path)


def test_two_processes_cannot_work_on_one_run(tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(BusyError, match="is working on this run"), lock(tmp_path):
        pass


def test_a_record_names_what_it_was_made_from(tmp_path: Path) -> None:
    done, _ = run(tmp_path)
    record = json.loads((tmp_path / "02_second" / "record.json").read_text())
    assert record["identity"]["inputs"] == {"first": done["first"].id}
    assert record["files"].keys() == {"segment-0"}
