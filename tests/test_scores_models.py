"""Which models are scored, from where, and what is refused before hours go into the first of them."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny

from distill.base.artifacts import Artifact
from distill.base.errors import DiskFullError, FileError, InputError
from distill.base.progress import Progress
from distill.base.records import Prompt, write_rows
from evals import generate
from evals.scores import ScoresConfig, candidates, scores

QUIET = Progress("test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    tiny.make_model(made)
    return made


@pytest.fixture
def inputs(folder: Path, tmp_path: Path) -> dict[str, Artifact]:
    asked = tiny.artifact(tmp_path / "questions", "questions", {})
    question = Prompt("a", [{"role": "user", "content": "What is 2 + 2?"}], "4", "math", "test")
    write_rows(asked.path / "questions.parquet", Prompt, [question])
    weights = tiny.artifact(tmp_path / "weights", "weights", {})
    shutil.copytree(folder, weights.path / "model")
    return {
        "questions": asked,
        "traces": tiny.artifact(tmp_path / "traces", "traces", {"teacher": {"model": str(folder)}}),
        "student": tiny.as_student(folder, tmp_path / "student"),
        "weights": weights,
        "quantized": tiny.artifact(tmp_path / "quantized", "quantized", {"methods": {}}),
    }


def narrow(folder: Path, window: int) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": window}))


def test_every_window_that_is_too_narrow_is_named_before_any_model_is_scored(
    inputs: dict[str, Artifact], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "narrow"
    shutil.copytree(folder, base)
    narrow(base, 64)
    narrow(inputs["weights"].path / "model", 32)
    inputs["student"] = tiny.artifact(tmp_path / "student", "student", {"base": str(base), "base_folder": None})
    monkeypatch.setattr(generate, "load", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"64 for base, 32 for student; set scores.max_new_tokens to 16 or less"):
        scores(ScoresConfig(max_new_tokens=100, device="cpu"), inputs, tmp_path / "out", QUIET)


def test_base_and_teacher_are_scored_in_the_revision_that_was_used(
    inputs: dict[str, Artifact], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"base": str(folder), "base_folder": None, "revision": "b" * 7}
    inputs["student"] = tiny.artifact(tmp_path / "student", "student", facts)
    inputs["traces"] = tiny.artifact(
        tmp_path / "traces", "traces", {"teacher": {"model": str(folder), "revision": "t" * 7}}
    )
    found = {model.name: model.revision for model in candidates(inputs)}
    assert found == {"teacher": "t" * 7, "base": "b" * 7, "student": None}
    asked: list[str | None] = []
    honest = generate.AutoModelForCausalLM.from_pretrained

    def spy(*rest: Any, **options: Any) -> Any:
        asked.append(options["revision"])
        assert options["trust_remote_code"] is False and options["use_safetensors"] is True
        return honest(*rest, **options)

    monkeypatch.setattr(generate.AutoModelForCausalLM, "from_pretrained", spy)
    (tmp_path / "out").mkdir()
    scores(ScoresConfig(k=1, max_new_tokens=8, device="cpu"), inputs, tmp_path / "out", QUIET)
    assert asked == ["t" * 7, "b" * 7, None]
    inputs["student"] = tiny.artifact(tmp_path / "student", "student", facts | {"base_folder": "base"})
    assert {model.revision for model in candidates(inputs)} == {"t" * 7, None}


def test_a_models_own_code_is_refused_without_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}')
    (tmp_path / "own.py").write_text("raise SystemExit('was run')")
    with pytest.raises(FileError, match=r"teacher: .* asks for code of its own, which is never run"):
        generate.window("teacher", str(tmp_path))
    assert asked == []


def test_a_full_disk_while_a_model_is_loaded_is_called_a_full_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(generate.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(DiskFullError):
        generate.load("base", str(folder), "cpu")
