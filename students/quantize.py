"""The stage `quantized`: weights -> smaller copies, each a complete folder, each measured as it lies on disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from distill.base.artifacts import Inputs, Made
from distill.base.chat import load_tokenizer
from distill.base.config import Config
from distill.base.errors import DistillError
from distill.base.progress import Progress

if TYPE_CHECKING:
    import torch

    from students.methods import Method

MethodName = Literal["nf4", "int8"]


class QuantizeConfig(Config):
    """Which copies to make. Rule of thumb: 8 bits below 7B parameters, 4 bits from there on; the scores decide."""

    methods: list[MethodName] = Field(default=["nf4", "int8"])

    @field_validator("methods")
    @classmethod
    def _once(cls, methods: list[MethodName]) -> list[MethodName]:
        if len(set(methods)) != len(methods):
            raise ValueError("each method may be named once")
        return methods


def check(config: QuantizeConfig) -> list[str]:
    """What would make the stage fail, before anything is spent."""
    from importlib.util import find_spec

    if config.methods and find_spec("bitsandbytes") is None:
        return ["quantized.methods: bitsandbytes is not installed; pip install bitsandbytes, or set methods to []"]
    return []


def quantized(config: QuantizeConfig, inputs: Inputs, out: Path, progress: Progress) -> Made:
    """Quantize `weights/model` with each method into `out/<method>`.

    Raises:
        DistillError: a copy, read back from disk, is not quantized or no longer resembles its parent.
    """
    from students import fidelity, methods, models

    parent_folder = inputs["weights"].path / "model"
    summary: dict[str, Any] = {}
    if config.methods:
        tokenizer = load_tokenizer(parent_folder)
        parent = models.load_model(parent_folder)
        texts = fidelity.probe_texts(parent, tokenizer)
        expected = models.logits(parent, texts)
        del parent
    for name in config.methods:
        method = methods.METHODS[name]
        folder = out / name
        if not folder.is_dir():  # a finished one from before a restart stays; it is measured again below
            progress.say(f"{name}: quantizing {parent_folder}")
            half = out / f"{name}.half"
            shutil.rmtree(half, ignore_errors=True)
            methods.quantize(method, parent_folder, half)
            os.replace(half, folder)
        summary[name] = measure(method, folder, texts, expected) | {"parent_bytes": models.weight_bytes(parent_folder)}
        found = summary[name]
        progress.say(
            f"{name}: {found['bytes'] / 1e6:,.1f} of {found['parent_bytes'] / 1e6:,.1f} MB, "
            f"KL {found['kl']:.4f}, same next token {found['top1']:.1%}"
        )
    for leftover in out.iterdir():
        if leftover.is_dir() and leftover.name not in config.methods:
            shutil.rmtree(leftover)
    return Made(rows_in=1, rows_out=len(summary), summary={"methods": summary})


def measure(method: Method, folder: Path, texts: list[list[int]], expected: torch.Tensor) -> dict[str, Any]:
    """Read a copy back and compare it with its parent.

    Args:
        texts: token ids of the probe texts.
        expected: the parent's logits of them, (positions, vocabulary).

    Raises:
        DistillError: it is not quantized, or its outputs are not the parent's.
    """
    from students import fidelity, methods, models

    model = models.load_model(folder)
    modules, linear = methods.quantized_layers(method, model)
    if modules == 0 or modules < linear:
        raise DistillError(f"{folder}: {modules} of {linear} linear layers are quantized ({method.name}), expected all")
    found = fidelity.distance(expected, models.logits(model, texts))
    if not found["cosine"] >= method.least_cosine:
        raise DistillError(
            f"{folder}: the reloaded copy's outputs have cosine {found['cosine']:.3f} to the parent's, expected at "
            f"least {method.least_cosine}: it was not written as it was quantized. "
            "Make it again with --rebuild quantized"
        )
    return {"bytes": models.weight_bytes(folder), "modules": modules, "positions": len(expected), **found}
