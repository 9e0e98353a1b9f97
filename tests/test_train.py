"""The stage from mixture to student: what it leaves, what it survives, and that how it runs changes nothing."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from tiny import EMBEDDED, make_model
from train_cases import ROOT, mixture, settings, sums, train, untimed, weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.base.artifacts import Artifact
from distill.base.errors import InputError, shown
from distill.train.config import RandomModel, TrainConfig
from distill.train.log import times_trained

Inputs = dict[str, Artifact]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_model(folder)
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return mixture(tmp_path_factory.mktemp("mixture"), sums(20))


@pytest.fixture(scope="module")
def calm(base: Path, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing disturbed."""
    out = tmp_path_factory.mktemp("calm")
    train(settings(base), inputs, out)
    return out


def in_background(config: TrainConfig, inputs: Inputs, out: Path, folder: Path) -> "subprocess.Popen[bytes]":
    """The stage in a process group of its own."""
    file = folder / "config.json"
    file.write_text(config.model_dump_json())
    script = Path(__file__).with_name("train_cases.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(script.parent)])}
    command = [sys.executable, str(script), str(file), str(inputs["mixture"].path), str(out)]
    return subprocess.Popen(command, start_new_session=True, env=environment, stderr=subprocess.PIPE)


def kill_after(process: "subprocess.Popen[bytes]", ready: Callable[[], bool], seconds: float = 240) -> None:
    """kill -9 the whole group as soon as `ready`."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()[1].decode()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def checkpoints(out: Path) -> list[Path]:
    return sorted(found for found in (out / "checkpoints").glob("step-*") if not found.suffix)


def assert_same(out: Path, calm: Path) -> None:
    found, expected = weights(out), weights(calm)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert untimed(out) == untimed(calm)
    assert (out / "samples.jsonl").read_bytes() == (calm / "samples.jsonl").read_bytes()
    names = {file.relative_to(calm) for file in calm.rglob("*")}
    assert {file.relative_to(out) for file in out.rglob("*")} == names


def test_a_student_loads_learns_and_stops_where_it_was_taught_to(base: Path, inputs: Inputs, tmp_path: Path) -> None:
    made = train(settings(base, epochs=4, learning_rate=5e-3, window=512, rope_theta=2e4), inputs, tmp_path)
    assert made.rows_out == 20 and made.summary["steps"] == 20
    assert made.summary["loss_last"] < 0.6 * made.summary["loss_first"]
    assert set(times_trained(tmp_path).values()) == {4}
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert AutoTokenizer.from_pretrained(tmp_path / "final").chat_template
    assert student.generation_config.eos_token_id == [2]
    assert student.config.max_position_embeddings == made.summary["window"] == 512
    assert student.config.rope_parameters["rope_theta"] == made.summary["rope_theta"] == 2e4
    assert made.summary["revision"] is None
    assert student.config._attn_implementation == "sdpa"
    assert made.summary["parameters"] == student.num_parameters()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "final", "log.jsonl", "result.json", "samples.jsonl",
    ]  # fmt: skip
    json.dumps(made.summary, allow_nan=False)


def test_the_process_is_left_as_it_was_found(base: Path, inputs: Inputs, tmp_path: Path) -> None:
    before, threads = dict(os.environ), torch.get_num_threads()
    train(settings(base, epochs=1), inputs, tmp_path)
    assert dict(os.environ) == before
    assert torch.get_num_threads() == threads
    assert not torch.distributed.is_initialized()


def test_accumulated_packs_give_the_step_of_one_batch(base: Path, inputs: Inputs, calm: Path, tmp_path: Path) -> None:
    train(settings(base, micro_batch_tokens=90), inputs, tmp_path)
    for name, value in weights(calm).items():
        torch.testing.assert_close(weights(tmp_path)[name], value, rtol=0, atol=2e-5)
    assert [line["trained_tokens"] for line in untimed(tmp_path)] == [line["trained_tokens"] for line in untimed(calm)]


def test_bf16_keeps_its_master_weights_in_fp32(base: Path, inputs: Inputs, tmp_path: Path) -> None:
    """Steps of 1e-5 are below bf16's resolution: only master weights can add them up."""
    for stage in (0, 2):
        out = tmp_path / str(stage)
        train(settings(base, precision="bf16", zero_stage=stage, learning_rate=2e-5, epochs=20), inputs, out)
        start = AutoModelForCausalLM.from_pretrained(base).state_dict()
        found = weights(out)
        assert all(value.dtype == torch.bfloat16 for value in found.values())
        name = "model.layers.0.mlp.up_proj.weight"
        moved = (found[name].float() - start[name].bfloat16().float()).abs()
        assert (moved > 0).float().mean() > 0.5
        lines = untimed(out)
        assert lines[-1]["loss"] < lines[0]["loss"]


def test_a_random_student_leaves_its_untrained_base(inputs: Inputs, tmp_path: Path) -> None:
    config = settings(EMBEDDED, epochs=1).model_copy(
        update={"base": RandomModel(tokenizer=str(EMBEDDED), hidden_size=32, layers=1, heads=2, kv_heads=1)}
    )
    made = train(config, inputs, tmp_path)
    assert made.summary["base_folder"] == "base"
    untrained = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert untrained.num_parameters() == made.summary["trained_parameters"]
    assert AutoTokenizer.from_pretrained(tmp_path / "base").chat_template
    assert not torch.equal(untrained.model.norm.weight, weights(tmp_path)["model.norm.weight"])


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_lora_trains_and_saves_an_adapter_and_leaves_the_base_alone(
    base: Path, inputs: Inputs, tmp_path: Path, stage: int
) -> None:
    from peft import PeftModel

    config = settings(base, method="lora", learning_rate=1e-2, epochs=3, zero_stage=stage)
    made = train(config, inputs, tmp_path)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {f.name for f in (tmp_path / "final").iterdir()}
    assert made.summary["trained_parameters"] < made.summary["parameters"]
    assert made.summary["loss_last"] < 0.9 * made.summary["loss_first"]
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "final")
    plain = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert not torch.allclose(adapted(ids).logits, plain(ids).logits)


def test_kill_9_after_any_checkpoint_changes_nothing(
    base: Path, inputs: Inputs, calm: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path / "out"
    config = settings(base, checkpoint_minutes=0)
    for least in (2, 6):
        process = in_background(config, inputs, out, tmp_path)
        kill_after(process, lambda least=least: any(f.name >= f"step-{least:08d}" for f in checkpoints(out)))
    told = io.StringIO()
    train(config, inputs, out, told)
    assert_same(out, calm)
    assert "going on after step" in told.getvalue()


def test_a_torn_or_missing_part_of_the_newest_checkpoint_falls_back(
    base: Path, inputs: Inputs, calm: Path, tmp_path: Path
) -> None:
    config = settings(base, checkpoint_minutes=0)
    interrupt(config, inputs, tmp_path, after=5)
    older, newest = checkpoints(tmp_path)
    assert (older.name, newest.name) == ("step-00000004", "step-00000005")
    state = max(newest.iterdir(), key=lambda file: file.stat().st_size)
    os.truncate(state, state.stat().st_size // 2)
    (tmp_path / "checkpoints" / "step-00000009.partial").mkdir()
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')
    told = io.StringIO()
    train(config, inputs, tmp_path, told)
    assert_same(tmp_path, calm)
    assert "step-00000005 is not whole" in told.getvalue()
    assert "going on after step 4" in told.getvalue()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),  # how tokenizers say it
    ],
)
def test_a_crash_while_the_weights_are_written_trains_nothing_again(
    base: Path, inputs: Inputs, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def crash(*_: Any) -> None:
        (tmp_path / "final").mkdir()
        (tmp_path / "final" / "shard-1.safetensors").write_bytes(b"torn")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("distill.train.sft.save_student", crash)
        with pytest.raises(type(error), match="No space left") as caught:
            train(settings(base), inputs, tmp_path)
        assert caught.value is error and not (tmp_path / "result.json").exists()
    told = io.StringIO()
    train(settings(base), inputs, tmp_path, told)
    assert_same(tmp_path, calm)
    assert "going on after step 10" in told.getvalue()


def test_a_run_that_dies_after_its_training_trains_nothing_again(
    base: Path, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("distill.train.launch.shutil", None)  # dies where it would clear away its checkpoints
        with pytest.raises(AttributeError):
            train(settings(base), inputs, tmp_path)

    def facts() -> dict[Path, tuple[int, bytes]]:
        files = [file for file in tmp_path.rglob("*") if file.is_file() and "checkpoints" not in file.parts]
        return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}

    before = facts()
    monkeypatch.setattr("distill.train.launch._prepare", None)
    first, second = (train(settings(base), inputs, tmp_path) for _ in range(2))
    assert not (tmp_path / "checkpoints").exists()
    assert facts() == before
    assert first == second and first.summary["examples"] == first.rows_out == 20
    with pytest.raises(InputError, match="another configuration or mixture; start over with --rebuild student"):
        train(settings(base, epochs=3), inputs, tmp_path)


def interrupt(config: TrainConfig, inputs: Inputs, out: Path, after: int) -> None:
    """Stop a training when step `after` is being sealed: the disk is full from then on."""
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith(f"step-{after + 1:08d}"):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError) as caught:
            train(config, inputs, out)
    found = shown(caught.value)
    assert found is not None and "the disk is full" in str(found)


def test_a_full_disk_keeps_the_checkpoints_and_the_next_call_goes_on(
    base: Path, inputs: Inputs, calm: Path, tmp_path: Path
) -> None:
    config = settings(base, checkpoint_minutes=0)
    interrupt(config, inputs, tmp_path, after=3)
    assert [f.name for f in checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]
    assert not list((tmp_path / "checkpoints").glob("*.partial"))
    train(config, inputs, tmp_path)
    assert_same(tmp_path, calm)


def test_a_state_of_another_layout_is_refused_with_the_way_out(base: Path, inputs: Inputs, tmp_path: Path) -> None:
    interrupt(settings(base, checkpoint_minutes=0), inputs, tmp_path, after=2)
    with pytest.raises(InputError, match=r"'zero_stage': 0.*'zero_stage': 2.*--rebuild student"):
        train(settings(base, zero_stage=2), inputs, tmp_path)


def test_a_sharded_student_loads(base: Path, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.train.models.SHARD_BYTES", 100_000)
    train(settings(base, epochs=1), inputs, tmp_path)
    assert (tmp_path / "final" / "model.safetensors.index.json").is_file()
    _, problems = AutoModelForCausalLM.from_pretrained(tmp_path / "final", output_loading_info=True)
    assert not problems["missing_keys"] and not problems["unexpected_keys"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_stages_agree_and_go_on_exactly(
    base: Path, inputs: Inputs, calm: Path, tmp_path: Path, stage: int
) -> None:
    config = settings(base, zero_stage=stage, checkpoint_minutes=0)
    train(config, inputs, tmp_path / "whole")
    for name, value in weights(calm).items():
        torch.testing.assert_close(weights(tmp_path / "whole")[name], value, rtol=0, atol=2e-5)
    interrupt(config, inputs, tmp_path / "broken", after=4)
    train(config, inputs, tmp_path / "broken")
    assert_same(tmp_path / "broken", tmp_path / "whole")
    offloaded = settings(base, zero_stage=stage, offload=True)
    train(offloaded, inputs, tmp_path / "offloaded")
    for name, value in weights(calm).items():
        torch.testing.assert_close(weights(tmp_path / "offloaded")[name], value, rtol=0, atol=2e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "changes", [{"precision": "bf16"}, {"method": "lora", "lora": {"dropout": 0.1}}], ids=["bf16", "lora"]
)
def test_bf16_and_adapters_go_on_exactly(
    base: Path, inputs: Inputs, tmp_path: Path, stage: int, changes: dict[str, Any]
) -> None:
    config = settings(base, zero_stage=stage, checkpoint_minutes=0, **changes)
    train(config, inputs, tmp_path / "whole")
    interrupt(config, inputs, tmp_path / "broken", after=4)
    train(config, inputs, tmp_path / "broken")
    assert_same(tmp_path / "broken", tmp_path / "whole")


@pytest.mark.slow
def test_kill_9_of_a_training_on_ray_leaves_the_student_of_a_calm_training_in_one_process(
    base: Path, inputs: Inputs, calm: Path, tmp_path: Path
) -> None:
    config = settings(base, launcher="ray", checkpoint_minutes=0)
    out = tmp_path / "out"
    process = in_background(config, inputs, out, tmp_path)
    kill_after(process, lambda: any(f.name >= "step-00000003" for f in checkpoints(out)))
    train(config, inputs, out)
    assert_same(out, calm)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("stage", [0, 3])
def test_two_workers_agree_with_one(base: Path, inputs: Inputs, calm: Path, tmp_path: Path, stage: int) -> None:
    made = train(settings(base, launcher="ray", workers=2, zero_stage=stage), inputs, tmp_path)
    assert made.summary["workers"] == 2
    for name, value in weights(calm).items():
        torch.testing.assert_close(weights(tmp_path)[name], value, rtol=0, atol=2e-5)
    assert (tmp_path / "samples.jsonl").read_bytes() == (calm / "samples.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_an_error_in_a_ray_worker_reaches_the_user(base: Path, inputs: Inputs, tmp_path: Path) -> None:
    interrupt(settings(base, checkpoint_minutes=0), inputs, tmp_path, after=2)
    with pytest.raises(InputError, match="--rebuild student"):
        train(settings(base, launcher="ray", zero_stage=2), inputs, tmp_path)
    with pytest.raises(InputError, match=r"1000 workers need 1000 CPUs"):
        train(settings(base, launcher="ray", workers=1000), inputs, tmp_path)
