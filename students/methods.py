"""Quantization methods behind one signature: parent folder -> a complete quantized folder, and what it must hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bitsandbytes
import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from distill.base.chat import load_tokenizer
from students.models import load_model, quiet


@dataclass(frozen=True)
class Method:
    """One way to quantize. `layer`: what its linear layers are after a reload. `least_cosine`: below it, it is broken.

    Rounding of a sound method leaves the logits' cosine to the parent above 0.95 even in tiny models; the wrong
    layout that bitsandbytes can write (see `quantize`) gives about 0.8.
    """

    name: str
    settings: Callable[[], BitsAndBytesConfig]
    layer: type[torch.nn.Module]
    least_cosine: float


def _nf4() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=["lm_head"],
    )


def _int8() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head"])


METHODS = {
    "nf4": Method("nf4", _nf4, bitsandbytes.nn.Linear4bit, 0.9),
    "int8": Method("int8", _int8, bitsandbytes.nn.Linear8bitLt, 0.97),
}


def quantize(method: Method, parent: Path, folder: Path) -> None:
    """Quantize `parent` into `folder`: weights, settings, tokenizer and template.

    Saved before any forward pass: on CPUs with AVX512-BF16 the first one without gradients repacks NF4 weights in
    place, and what is saved after that reloads as another model (bitsandbytes 0.50.2: cosine 0.79 to the parent
    without double quantization; with it the repacking is undone, at a small loss).
    """
    model = load_model(parent, quantization_config=method.settings())
    with quiet():
        model.save_pretrained(folder)
        load_tokenizer(parent).save_pretrained(folder)


def quantized_layers(method: Method, model: PreTrainedModel) -> tuple[int, int]:
    """How many layers are quantized, and how many linear layers there are (the head aside)."""
    linear = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    ]
    return sum(isinstance(module, method.layer) for module in linear), len(linear)
