"""Model folders: skeletons without memory, digests of tensors, shard-by-shard loading, probes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from accelerate.utils import load_state_dict, set_module_tensor_to_device
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from distill.base.chat import prompt_ids
from distill.base.errors import DistillError, FileError, loading

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PROBES = (
    "What is 17 + 25?",
    "How many legs do 3 cows and 4 birds have together?",
    "A train leaves at 9:40 and arrives at 11:05. How long is the journey?",
    "Which is larger, 3/7 or 4/9?",
)


def load_model(folder: Path | str, dtype: str = "auto", **options: Any) -> PreTrainedModel:
    """A causal language model in evaluation mode, on the CPU unless `device_map` says otherwise.

    Only safetensors are read, and no code of the folder's own is run.

    Raises:
        FileError: nothing can be loaded from there.
    """
    chosen = {"device_map": "cpu", "use_safetensors": True, "trust_remote_code": False, **options}
    with quiet(), loading(folder):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **chosen)
    return model.eval()


def read_config(folder: Path | str, revision: str | None = None) -> Any:
    """The configuration of a folder or hub name.

    Raises:
        FileError: there is none, or it asks for code of its own.
    """
    with quiet(), loading(folder):
        return AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=False)


def skeleton(folder: Path | str) -> PreTrainedModel:
    """The model that a folder's config.json describes, on the meta device: all shapes, no memory."""
    config = read_config(folder)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype or torch.float32, trust_remote_code=False)
    model.tie_weights()
    return model.eval()


def count_parameters(model: PreTrainedModel) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def shards(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in order.

    Raises:
        FileError: there are none, or the index names a file that is not there.
    """
    if (folder / INDEX).is_file():
        files = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        files = [SINGLE]
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise FileError(f"{folder}: {', '.join(missing)} is missing; make the artifact again with --rebuild weights")
    return [folder / name for name in files]


def weight_bytes(folder: Path) -> int:
    """Bytes of a folder's weights on disk."""
    return sum(file.stat().st_size for file in shards(folder))


def digest(tensor: torch.Tensor) -> str:
    """Names a tensor's type, shape and every bit of its content."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    content = hashlib.sha256(flat.numpy().data).hexdigest()
    return f"{tensor.dtype} {tuple(tensor.shape)} {content}"


def digests(model: PreTrainedModel) -> dict[str, str]:
    """Digest of every parameter and saved buffer by name; of tied ones under each of their names."""
    return {name: digest(tensor) for name, tensor in model.state_dict().items()}


def load_and_compare(folder: Path, expected: dict[str, str]) -> PreTrainedModel:
    """Load a folder shard by shard onto a skeleton and compare each tensor, bit for bit, on the way.

    Peak memory is the model and one shard.

    Args:
        expected: `digests` of the model that was written.

    Raises:
        DistillError: a tensor is altered, missing, unknown, of another shape or unreadable; it is named.
    """
    model = skeleton(folder)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    filled: set[str] = set()
    for shard in shards(folder):
        try:
            tensors = load_state_dict(str(shard))
        except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
            raise DistillError(f"{shard}: the shard cannot be read back: {error}") from error
        for name, tensor in tensors.items():
            _compare(shard, name, digest(tensor), expected.get(name))
            set_module_tensor_to_device(model, name, "cpu", value=tensor, dtype=tensor.dtype)
            filled.add(name)
    model.tie_weights()
    for name, tensor in model.state_dict().items():
        if tensor.is_meta or (name not in filled and name not in tied):
            raise DistillError(f"{folder}: tensor {name} was not written, and nothing it is tied to")
    unwritten = sorted(set(expected) - filled - tied)
    if unwritten:
        raise DistillError(f"{folder}: {len(unwritten)} trained tensors were not written, the first is {unwritten[0]}")
    for name in tied & set(expected):
        _compare(folder, name, digest(model.state_dict()[name]), expected[name])
    return model


def _compare(where: Path, name: str, found: str, expected: str | None) -> None:
    if expected is None:
        raise DistillError(f"{where}: holds tensor {name}, which the trained model does not have")
    if found != expected:
        raise DistillError(
            f"{where}: tensor {name} is not what was trained: read back {found[:60]}..., expected {expected[:60]}.... "
            "The disk or the writer altered it; make the artifact again with --rebuild weights"
        )


def probe_ids(tokenizer: Any) -> list[list[int]]:
    """Token ids of a few questions, as the model sees them."""
    return [prompt_ids(tokenizer, [{"role": "user", "content": question}]) for question in PROBES]


def logits(model: PreTrainedModel, sequences: list[list[int]]) -> torch.Tensor:
    """Logits of every position of every sequence, one after the other: (positions, vocabulary), float32."""
    with torch.no_grad(), quiet():
        found = [model(torch.tensor([ids], device=model.device)).logits[0].float().cpu() for ids in sequences]
    return torch.cat(found)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No bars and notices of the libraries between our own lines of progress."""
    transformers.utils.logging.disable_progress_bar()
    loggers = [logging.getLogger(name) for name in ("transformers", "bitsandbytes")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
