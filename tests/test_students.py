"""Export and quantization: what is on disk is what was trained, and what was asked for."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import tiny
import torch

from distill.base.artifacts import Artifact
from distill.base.chat import load_tokenizer
from distill.base.errors import DiskFullError, DistillError, FileError
from distill.base.progress import Progress
from students import export, fidelity, methods, models, quantize
from students.export import ExportConfig
from students.quantize import QuantizeConfig

QUIET = Progress("test")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    tiny.make_model(folder)
    return folder


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    student = tiny.as_student(trained, tmp_path_factory.mktemp("student"))
    out = tmp_path_factory.mktemp("weights")
    made = export.weights(ExportConfig(max_shard_size="100KB"), {"student": student}, out, QUIET)
    return tiny.artifact(out, "weights", made.summary)


@pytest.fixture(scope="session")
def copies(exported: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("quantized")
    (out / "nf4.half").mkdir()
    (out / "nf4.half" / "model.safetensors").write_bytes(b"torn")
    made = quantize.quantized(QuantizeConfig(), {"weights": exported}, out, QUIET)
    return tiny.artifact(out, "quantized", made.summary)


def test_a_whole_model_is_exported_bit_for_bit_after_the_stated_cast(trained: Path, exported: Artifact) -> None:
    before = models.load_model(trained, "float32").state_dict()
    after = models.load_model(exported.path / "model").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].bfloat16(), after[name]) for name in before)
    assert exported.summary["dtype"] == "bfloat16"
    assert exported.summary["shards"] == len(models.shards(exported.path / "model")) > 1


def test_auto_keeps_the_trained_type(trained: Path, tmp_path: Path) -> None:
    student = tiny.as_student(trained, tmp_path / "student")
    made = export.weights(ExportConfig(dtype="auto"), {"student": student}, tmp_path, QUIET)
    assert made.summary["dtype"] == "float32"
    assert models.digests(models.load_model(tmp_path / "model")) == models.digests(models.load_model(trained))


def test_an_untied_head_is_exported_too(tmp_path: Path) -> None:
    tiny.make_model(tmp_path / "untied", tied=False)
    student = tiny.as_student(tmp_path / "untied", tmp_path / "student")
    export.weights(ExportConfig(), {"student": student}, tmp_path, QUIET)
    state = models.load_model(tmp_path / "model").state_dict()
    assert not torch.equal(state["lm_head.weight"], state["model.embed_tokens.weight"])


def test_the_exported_folder_says_how_to_sample_and_when_to_stop(exported: Artifact) -> None:
    settings = json.loads((exported.path / "model" / "generation_config.json").read_text())
    tokenizer = load_tokenizer(exported.path / "model")
    assert (settings["do_sample"], settings["temperature"], settings["top_p"], settings["top_k"]) == (
        True,
        0.6,
        0.95,
        0,
    )
    assert settings["eos_token_id"] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert settings["pad_token_id"] != settings["eos_token_id"]
    assert (exported.path / "model" / "chat_template.jinja").is_file()


@pytest.mark.parametrize("base_folder", [True, False])
def test_a_merged_adapter_says_what_base_and_adapter_said(trained: Path, tmp_path: Path, base_folder: bool) -> None:
    unmerged = tiny.make_adapter(trained, tmp_path / "student" / "final")
    if base_folder:
        shutil.copytree(trained, tmp_path / "student" / "base")
    summary = {"base": "nowhere" if base_folder else str(trained), "base_folder": base_folder, "method": "lora"}
    student = tiny.artifact(tmp_path / "student", "student", summary)
    made = export.weights(ExportConfig(dtype="float32"), {"student": student}, tmp_path, QUIET)
    ids = models.probe_ids(load_tokenizer(trained))
    merged = models.load_model(tmp_path / "model")
    assert torch.allclose(models.logits(unmerged, ids), models.logits(merged, ids), atol=1e-3)
    assert not torch.allclose(models.logits(models.load_model(trained), ids), models.logits(merged, ids), atol=1e-1)
    assert made.summary["merged"] and made.summary["merge_error"] < 1e-3
    assert not any("lora" in name for name in merged.state_dict())


def test_an_adapter_is_merged_into_the_base_as_it_was_trained(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revision, window and rotary base of the training; a merge into the plain base would pass its own check."""
    from peft import PeftModel

    tiny.make_adapter(trained, tmp_path / "student" / "final")
    facts = {"base": str(trained), "base_folder": None, "revision": "abc", "window": 512, "rope_theta": 100.0}
    asked: list[str | None] = []
    for name in ("AutoConfig", "AutoModelForCausalLM"):
        honest = getattr(models, name).from_pretrained

        def spy(folder: Any, *rest: Any, honest: Any = honest, **options: Any) -> Any:
            if Path(folder) == trained:
                asked.append(options["revision"])
            assert options["trust_remote_code"] is False
            return honest(folder, *rest, **options)

        monkeypatch.setattr(getattr(models, name), "from_pretrained", spy)
    student = tiny.artifact(tmp_path / "student", "student", facts)
    export.weights(ExportConfig(dtype="float32"), {"student": student}, tmp_path, QUIET)
    monkeypatch.undo()
    assert asked == ["abc", "abc"]
    merged = models.load_model(tmp_path / "model")
    assert merged.config.max_position_embeddings == 512
    assert merged.config.rope_parameters["rope_theta"] == 100.0
    wide = models.read_config(trained)
    wide.rope_parameters = {**wide.rope_parameters, "rope_theta": 100.0}
    ids = models.probe_ids(load_tokenizer(trained))
    adapter = tmp_path / "student" / "final"
    as_trained = PeftModel.from_pretrained(models.load_model(trained, config=wide), adapter).eval()
    plain = PeftModel.from_pretrained(models.load_model(trained), adapter).eval()
    assert torch.allclose(models.logits(as_trained, ids), models.logits(merged, ids), atol=1e-3)
    assert not torch.allclose(models.logits(plain, ids), models.logits(merged, ids), atol=1e-2)


def test_a_models_own_code_and_pickled_weights_are_refused_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}')
    (tmp_path / "own.py").write_text("raise SystemExit('was run')")
    for load in (models.load_model, models.read_config, models.skeleton):
        with pytest.raises(FileError, match="asks for code of its own, which is never run"):
            load(tmp_path)
    assert asked == []
    pickled = tmp_path / "pickled"
    torch.save(tiny.make_model(pickled).state_dict(), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(FileError, match="no model can be loaded"):
        models.load_model(pickled)


def test_a_full_disk_while_a_model_is_loaded_is_called_a_full_disk(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(DiskFullError):
        models.load_model(trained)


def test_a_corrupted_shard_is_refused_and_the_tensor_named(exported: Artifact, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported.path / "model", folder)
    expected = models.digests(models.load_model(trained, "bfloat16"))
    models.load_and_compare(folder, expected)
    shard = models.shards(folder)[-1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DistillError, match=r"tensor model\.\S+ is not what was trained"):
        models.load_and_compare(folder, expected)
    shard.write_bytes(content[:-10])
    with pytest.raises(DistillError, match="cannot be read back"):
        models.load_and_compare(folder, expected)
    shard.unlink()
    with pytest.raises(FileError, match="is missing"):
        models.load_and_compare(folder, expected)


def test_a_writer_that_alters_a_weight_is_caught_by_the_stage(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = models.digests
    monkeypatch.setattr(models, "digests", lambda model: honest(model) | {"model.norm.weight": "as trained"})
    student = tiny.as_student(trained, tmp_path / "student")
    with pytest.raises(DistillError, match=r"tensor model\.norm\.weight is not what was trained"):
        export.weights(ExportConfig(), {"student": student}, tmp_path, QUIET)


def test_a_restart_clears_what_a_killed_export_left(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model-00001-of-00009.safetensors").write_bytes(b"torn")
    export.weights(ExportConfig(), {"student": tiny.as_student(trained, tmp_path / "student")}, tmp_path, QUIET)
    assert [shard.name for shard in (tmp_path / "model").glob("*.safetensors")] == ["model.safetensors"]


def test_a_folder_without_a_model_is_refused(trained: Path, tmp_path: Path) -> None:
    student = tiny.as_student(trained, tmp_path / "student")
    (tmp_path / "student" / "final" / "config.json").unlink()
    with pytest.raises(FileError, match="neither a model"):
        export.weights(ExportConfig(), {"student": student}, tmp_path, QUIET)


@pytest.mark.parametrize(
    ("method", "layer", "at_most"),
    [("nf4", bitsandbytes.nn.Linear4bit, 0.75), ("int8", bitsandbytes.nn.Linear8bitLt, 0.9)],
)
def test_a_reloaded_copy_is_really_quantized_and_near_its_parent(
    copies: Artifact, exported: Artifact, method: str, layer: type, at_most: float
) -> None:
    found = copies.summary["methods"][method]
    model = models.load_model(copies.path / method)
    assert sum(isinstance(module, layer) for module in model.modules()) == found["modules"] == 14
    assert isinstance(model.lm_head, torch.nn.Linear) and not isinstance(model.lm_head, layer)
    assert found["bytes"] < at_most * found["parent_bytes"]
    assert found["cosine"] > (0.95 if method == "nf4" else 0.99)
    assert 0 <= found["kl"] < 0.2
    assert found["top1"] > 0.7
    parent = models.load_model(exported.path / "model")
    assert model.generation_config.to_diff_dict() == parent.generation_config.to_diff_dict()
    assert models.probe_ids(load_tokenizer(copies.path / method)) == models.probe_ids(
        load_tokenizer(exported.path / "model")
    )


def test_nothing_half_written_stays_beside_the_copies(copies: Artifact) -> None:
    assert sorted(path.name for path in copies.path.iterdir()) == ["int8", "nf4"]


def test_a_copy_saved_after_a_forward_pass_is_refused(tmp_path: Path) -> None:
    """bitsandbytes 0.50.2 repacks NF4 weights in place at the first forward on CPUs with AVX512-BF16."""
    if not bitsandbytes.functional.has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16, so nothing is repacked")
    parent = tmp_path / "parent"
    tiny.make_model(parent, hidden=128)  # rows of one block of 64 are not moved by the repacking
    tokenizer = load_tokenizer(parent)
    nf4 = methods.METHODS["nf4"]
    single = nf4.settings()
    single.bnb_4bit_use_double_quant = False  # with double quantization bitsandbytes undoes the repacking when it saves
    model = models.load_model(parent, quantization_config=single)
    models.logits(model, models.probe_ids(tokenizer))
    model.save_pretrained(tmp_path / "late")
    whole = models.load_model(parent)
    texts = fidelity.probe_texts(whole, tokenizer)
    with pytest.raises(DistillError, match="not written as it was quantized"):
        quantize.measure(nf4, tmp_path / "late", texts, models.logits(whole, texts))


def test_a_copy_that_is_not_quantized_is_refused(exported: Artifact) -> None:
    whole = models.load_model(exported.path / "model")
    ids = models.probe_ids(load_tokenizer(exported.path / "model"))
    with pytest.raises(DistillError, match="0 of 14 linear layers"):
        quantize.measure(methods.METHODS["int8"], exported.path / "model", ids, models.logits(whole, ids))


def test_distance_of_equal_models_is_zero() -> None:
    same = torch.randn(5, 7)
    assert fidelity.distance(same, same) == pytest.approx({"cosine": 1.0, "kl": 0.0, "top1": 1.0})


def test_kl_of_known_distributions() -> None:
    half, skew = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.25, 0.75]]))
    expected = 0.5 * torch.log(torch.tensor(2.0)) + 0.5 * torch.log(torch.tensor(2 / 3))
    assert fidelity.distance(half, skew)["kl"] == pytest.approx(float(expected), abs=1e-6)


def test_a_method_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="named once"):
        QuantizeConfig(methods=["nf4", "nf4"])
