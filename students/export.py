"""The stage `weights`: a checkpoint -> sharded safetensors, reloaded and compared before it counts.

`final/` of the student is a whole model or a LoRA adapter; `model/` here always is a whole model: config,
generation settings, shards with their index, tokenizer, chat template.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from distill.base.artifacts import Artifact, Inputs, Made
from distill.base.chat import load_tokenizer, prompt_text, stop_token_id
from distill.base.config import Config
from distill.base.errors import DistillError, FileError
from distill.base.fingerprint import fingerprint
from distill.base.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MERGE_TOLERANCE = 0.02
LONGEST_ANSWER = 32_768


class ExportConfig(Config):
    """How the student is written.

    `dtype`: bfloat16 is what every engine serves and half the bytes; weights trained in float32 are rounded to it
    (a relative error of at most 2^-9 each). "auto" keeps the type that the student was trained in.
    `temperature`, `top_p`: what a user's engine samples with by default; DeepSeek-R1's protocol.
    """

    dtype: Literal["bfloat16", "float16", "float32", "auto"] = "bfloat16"
    max_shard_size: str = Field(default="5GB", pattern=r"^\d+(KB|MB|GB)$")
    temperature: float = Field(default=0.6, gt=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)


def weights(config: ExportConfig, inputs: Inputs, out: Path, progress: Progress) -> Made:
    """Write the student as a complete model folder, `out/model`.

    Raises:
        FileError: the student's folder cannot be loaded.
        DistillError: what was read back is not what was trained; the tensor is named.
    """
    import torch

    from students import models

    student, folder = inputs["student"], out / "model"
    if folder.exists():
        shutil.rmtree(folder)  # half-written by a killed process: nothing in it can be trusted
    tokenizer = load_tokenizer(student.path / "final")
    progress.say(f"loading the student from {student.path / 'final'}")
    model, merge_error = load_student(student, config, models.probe_ids(tokenizer))
    settle_generation(model, tokenizer, config)
    expected = models.digests(model)
    before = models.logits(model, models.probe_ids(tokenizer))
    parameters = models.count_parameters(model)
    progress.say(f"writing {parameters / 1e6:,.1f}M parameters as {str(model.dtype).removeprefix('torch.')}")
    with models.quiet():
        model.save_pretrained(folder, max_shard_size=config.max_shard_size)
        tokenizer.save_pretrained(folder)
    dtype = str(model.dtype).removeprefix("torch.")
    del model  # one copy in memory at a time

    progress.say("reading it back and comparing every tensor")
    again = models.load_and_compare(folder, expected)
    after = models.logits(again, models.probe_ids(tokenizer))
    if not torch.equal(before, after):
        raise DistillError(
            f"{folder}: all tensors are what was trained, but the outputs differ by "
            f"{float((before - after).abs().max()):.3g}: config.json does not describe the trained model"
        )
    same_rendering(folder, tokenizer)
    files = models.shards(folder)
    return Made(
        rows_in=1,
        rows_out=1,
        summary={
            "parameters": parameters,
            "dtype": dtype,
            "bytes": models.weight_bytes(folder),
            "shards": len(files),
            "tensors": len(expected),
            "tensors_digest": fingerprint(expected),
            "merged": merge_error is not None,
            "merge_error": merge_error,
        },
    )


def base_of(student: Artifact) -> str:
    """Folder or hub name of the model that the student was trained from."""
    return str(student.path / "base") if student.summary.get("base_folder") else str(student.summary["base"])


def load_student(
    student: Artifact, config: ExportConfig, probes: list[list[int]]
) -> tuple[PreTrainedModel, float | None]:
    """The trained model in the type to be written, LoRA merged.

    Returns:
        The model, and for LoRA the largest change of a probe's log-probabilities by merging; None for whole models.
    """
    from students import models

    final = student.path / "final"
    if (final / "adapter_config.json").is_file():
        return _merged(student, config, probes)
    if not (final / "config.json").is_file():
        raise FileError(f"{final}: neither a model (config.json) nor an adapter (adapter_config.json) is in there")
    return models.load_model(final, config.dtype), None


def _base_as_trained(student: Artifact, dtype: str) -> PreTrainedModel:
    """The base of an adapter: the revision that was trained on, with the window and rotary base of the training."""
    from students import models

    base, facts = base_of(student), student.summary
    revision = None if facts.get("base_folder") else facts.get("revision")
    found = models.read_config(base, revision)
    text = found.get_text_config()
    if facts.get("window") is not None:
        text.max_position_embeddings = facts["window"]
    if facts.get("rope_theta") is not None:
        text.rope_parameters = {**(text.rope_parameters or {}), "rope_theta": facts["rope_theta"]}
    return models.load_model(base, dtype, config=found, revision=revision)


def _merged(student: Artifact, config: ExportConfig, probes: list[list[int]]) -> tuple[PreTrainedModel, float | None]:
    """Merge an adapter into its base: in float32, rounded once, one layer at a time."""
    import torch
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    from students import models

    final = student.path / "final"
    model: Any = PeftModel.from_pretrained(_base_as_trained(student, config.dtype), final)
    model.eval()
    dtype = model.get_base_model().dtype
    before = torch.log_softmax(models.logits(model, probes), -1)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.float()
            module.merge(safe_merge=True)
            module.to(dtype)
    merged: Any = model.unload().to(dtype)
    merged.tie_weights()
    after = torch.log_softmax(models.logits(merged, probes), -1)
    likely = before > -10.0  # what the model would never say may move by more without meaning anything
    error = float((before - after).abs()[likely].max()) if bool(likely.any()) else 0.0
    limit = MERGE_TOLERANCE if dtype == torch.float32 else 25 * MERGE_TOLERANCE
    if error > limit:
        raise DistillError(
            f"{final}: merging the adapter into {base_of(student)} changes log-probabilities by up to {error:.3f}, "
            f"expected below {limit}: the layers of this base do not hold the sum; export with dtype float32"
        )
    return merged, error


def settle_generation(model: PreTrainedModel, tokenizer: Any, config: ExportConfig) -> None:
    """Give the model the settings that its users' engines read: sampling, stop tokens, padding, a budget.

    Without a budget `generate` stops after 20 tokens; half of the window leaves room for the prompt.
    """
    from transformers import GenerationConfig

    stops = list(dict.fromkeys([stop_token_id(tokenizer), tokenizer.eos_token_id]))
    window = getattr(model.config.get_text_config(), "max_position_embeddings", 2048)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=0,
        max_new_tokens=min(LONGEST_ANSWER, window // 2),
        eos_token_id=stops if len(stops) > 1 else stops[0],
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )


def same_rendering(folder: Path, tokenizer: Any) -> None:
    """Raise DistillError unless the written tokenizer renders and encodes as the student's own does."""
    from students import models

    again = load_tokenizer(folder)
    question = [{"role": "user", "content": models.PROBES[0]}]
    rendered, expected = prompt_text(again, question), prompt_text(tokenizer, question)
    if rendered != expected or models.probe_ids(again) != models.probe_ids(tokenizer):
        raise DistillError(
            f"{folder}: the tokenizer that was written reads a question in another way than the student's: "
            f"{rendered[:80]!r} against {expected[:80]!r}"
        )
