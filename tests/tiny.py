"""Tiny random models with the real tokenizer of the embedded ones, and artifacts without a runner."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from distill.base.artifacts import Artifact, Record

EMBEDDED = Path(__file__).parent.parent / "students" / "embedded" / "base"


def make_model(folder: Path, *, seed: int = 0, tied: bool = True, hidden: int = 64) -> Qwen2ForCausalLM:
    """A random Qwen2 of some 100k parameters, written to `folder` with tokenizer and template."""
    torch.set_num_threads(1)  # more threads than idle cores make tiny models 30 times slower
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=576, hidden_size=hidden, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=tied, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, initializer_range=0.1,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def make_adapter(base: Path, folder: Path) -> Any:
    """A random LoRA adapter on `base`, written to `folder` as training leaves it; returns the PEFT model."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = get_peft_model(
        Qwen2ForCausalLM.from_pretrained(base),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return model.eval()


def artifact(path: Path, stage: str, summary: dict[str, Any]) -> Artifact:
    """A finished artifact, as far as a stage that reads it can tell."""
    path.mkdir(parents=True, exist_ok=True)
    return Artifact(path, Record(stage, stage, {}, 1, 1, {}, summary, 0.0, {}, {}, 0.0, "", {}))


def as_student(model: Path, folder: Path) -> Artifact:
    """A student artifact whose `final/` is a copy of `model`."""
    shutil.copytree(model, folder / "final", dirs_exist_ok=True)
    return artifact(folder, "student", {"base": str(model), "base_folder": False, "method": "full"})
