"""The student as a module: loaded, made ready for packs, saved in Hugging Face's layout."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import logging

from distill.base.artifacts import sync_folder, write_json
from distill.base.chat import load_tokenizer, stop_token_id
from distill.base.errors import DiskFullError, FileError, InputError, shown
from distill.train import attention
from distill.train.batches import Batch
from distill.train.config import RandomModel, TrainConfig
from distill.train.loss import LossHead

SHARD_BYTES = 4 * 10**9
Gather = Callable[[list[Any]], contextlib.AbstractContextManager[Any]]


class Student(nn.Module):  # type: ignore[misc]
    """A causal language model whose forward pass is the summed loss of a pack."""

    def __init__(self, model: Any, autocast: torch.dtype | None) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast

    @property
    def plain(self) -> Any:
        """The transformers model, inside the adapters if there are any."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(self, batch: Batch) -> torch.Tensor:
        """Sum of the loss over the pack's trained tokens: a scalar, fp32."""
        plain = self.plain
        backbone = getattr(plain, plain.base_model_prefix)
        with torch.autocast(batch.ids.device.type, self.autocast, enabled=self.autocast is not None):
            states = backbone(
                input_ids=batch.ids, position_ids=batch.positions, use_cache=False, traces=batch.traces
            ).last_hidden_state
            total: torch.Tensor = plain.get_output_embeddings()(states[0].index_select(0, batch.before), batch.labels)
        return total * batch.weight


def model_config(config: TrainConfig, base: str) -> Any:
    """The base's configuration with the window that the user asked for."""
    found: Any = AutoConfig.from_pretrained(base, revision=config.revision, trust_remote_code=False)
    text = found.get_text_config()
    if config.window is not None:
        text.max_position_embeddings = config.window
    if config.rope_theta is not None:
        text.rope_parameters = {**(text.rope_parameters or {}), "rope_theta": config.rope_theta}
    return found


def write_random(base: RandomModel, folder: Path, seed: int) -> None:
    """An untrained Qwen2 with its tokenizer; the folder appears whole."""
    if folder.is_dir():
        return
    tokenizer = load_tokenizer(base.tokenizer)
    stop = stop_token_id(tokenizer)
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=base.hidden_size,
            intermediate_size=base.intermediate_size,
            num_hidden_layers=base.layers,
            num_attention_heads=base.heads,
            num_key_value_heads=base.kv_heads,
            max_position_embeddings=base.max_position_embeddings,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=stop,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    logging.disable_progress_bar()
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    os.replace(partial, folder)


def load_student(config: TrainConfig, base: str, device: torch.device) -> Student:
    """The model with packed attention, the loss as its head, and only what is trained asking for gradients.

    Raises:
        InputError: an architecture that packed training cannot do exactly.
        FileError: no weights can be loaded from there; pickled ones are not.
    """
    attention.register()
    logging.disable_progress_bar()
    found = model_config(config, base)
    _refuse_unpackable(found, config)
    bf16 = config.precision == "bf16"
    # At stage 0 DeepSpeed would accumulate bf16 gradients in bf16; fp32 weights under autocast do not.
    autocast = bf16 and config.zero_stage == 0
    frozen_or_sharded = bf16 and (config.zero_stage > 0 or config.method == "lora")
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            base,
            config=found,
            revision=config.revision,
            attn_implementation=attention.NAME,
            dtype=torch.bfloat16 if frozen_or_sharded else torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        if isinstance(known := shown(error), DiskFullError):
            raise known from error
        raise FileError(
            f"{base}: its weights cannot be loaded: {error}; expected safetensors of a model type that transformers has"
        ) from error
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise InputError(f"{base}: its output head is {head}, expected a linear layer without bias; take another base")
    model.set_output_embeddings(LossHead(head))
    if config.recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if config.method == "lora":
        model = _with_adapters(model, config)
    model.train()
    student = Student(model, torch.bfloat16 if autocast else None)
    return student if config.zero_stage == 3 else student.to(device)


def _with_adapters(model: Any, config: TrainConfig) -> Any:
    from peft import LoraConfig, get_peft_model  # slow to import, and most trainings are full

    targets = config.lora.targets
    settings = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    # Stages 1 to 3 keep fp32 master copies themselves and want one dtype.
    return get_peft_model(model, settings, autocast_adapter_dtype=config.zero_stage == 0)


def _refuse_unpackable(found: Any, config: TrainConfig) -> None:
    text = found.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"]) - {"full_attention", "sliding_attention"}
    odd = [name for name in ("final_logit_softcapping", "logit_scale", "logits_scaling") if getattr(text, name, None)]
    if kinds or odd:
        raise InputError(
            f"{found.model_type}: has {', '.join([*sorted(kinds), *odd])}, which packed training would leave out; "
            "choose a base with plain attention and a plain head (Qwen2, Qwen3, Llama)"
        )


def student_size(student: Student) -> dict[str, int]:
    """Numbers of weights, adapters not counted among `parameters`; at stage 3 each worker holds a slice of them."""
    sizes = [(int(getattr(value, "ds_numel", value.numel())), value.requires_grad) for value in student.parameters()]
    trained = sum(size for size, is_trained in sizes if is_trained)
    total = sum(size for size, _ in sizes)
    is_adapted = student.plain is not student.model
    return {"parameters": total - trained if is_adapted else total, "trained_parameters": trained}


def attention_span(found: Any) -> float:
    """Trace length at which causal attention costs as much as the linear layers: 24 h^2 against 2 h T a token."""
    return 12.0 * float(found.get_text_config().hidden_size)


def save_student(student: Student, config: TrainConfig, base: str, folder: Path, gather: Gather, writes: bool) -> None:
    """Weights, configuration and tokenizer into `folder`. All workers call it; the one that `writes` does.

    Args:
        gather: makes the full values of parameters readable (ZeRO-3 keeps slices).
    """
    if writes:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    if config.method == "lora":
        _save_adapters(student, folder, gather, writes)
    else:
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        _save_shards(student.plain, folder, gather, writes, dtype)
        if writes:
            _save_configs(student.plain, folder, load_tokenizer(base, config.revision), dtype)
    if writes:
        load_tokenizer(base, config.revision).save_pretrained(folder)
        for file in folder.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        sync_folder(folder)


def _save_adapters(student: Student, folder: Path, gather: Gather, writes: bool) -> None:
    adapters = [value for value in student.model.parameters() if value.requires_grad]
    with gather(adapters):
        if writes:
            student.model.save_pretrained(folder)
            (folder / "README.md").unlink(missing_ok=True)  # peft's empty card; ours is made at the end


def _save_shards(model: Any, folder: Path, gather: Gather, writes: bool, dtype: torch.dtype) -> None:
    """Sharded safetensors, a parameter at a time, so that no more than a shard is in the host's memory."""
    from safetensors.torch import save_file

    shards: list[list[str]] = []
    total = 0
    for number, shard in enumerate(_shards(model, gather, writes, dtype), start=1):
        save_file(shard, folder / f"shard-{number}.safetensors", metadata={"format": "pt"})
        shards.append(list(shard))
        total += sum(tensor.nbytes for tensor in shard.values())
    if not writes:
        return
    names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for number, name in enumerate(names, start=1):
        os.replace(folder / f"shard-{number}.safetensors", folder / name)
    if len(shards) > 1:
        places = {key: name for keys, name in zip(shards, names, strict=True) for key in keys}
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def _shards(model: Any, gather: Gather, writes: bool, dtype: torch.dtype) -> Iterator[dict[str, torch.Tensor]]:
    """The model's tensors on the host, `SHARD_BYTES` at a time; nothing on workers that do not write."""
    shard: dict[str, torch.Tensor] = {}
    for name, value in model.named_parameters():  # tied weights come once, as Hugging Face stores them
        with gather([value]):
            if writes:
                shard[name] = value.detach().to("cpu", dtype, copy=True).contiguous()
        if sum(tensor.nbytes for tensor in shard.values()) >= SHARD_BYTES:
            yield shard
            shard = {}
    if shard:
        yield shard


def _save_configs(model: Any, folder: Path, tokenizer: Any, dtype: torch.dtype) -> None:
    model.config.dtype = dtype
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    # A base's EOS often is not the token that ends a turn; the student must stop where it was taught to.
    stop = stop_token_id(tokenizer)
    known = model.generation_config.eos_token_id if model.generation_config else None
    others = known if isinstance(known, list) else [known] if known is not None else []
    stops = [stop, *(token for token in others if token != stop)]
    generation = GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id)
    (folder / "generation_config.json").write_text(json.dumps(generation.to_diff_dict(), indent=1), encoding="utf-8")
