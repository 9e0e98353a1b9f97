"""What can be wrong with a student's base, found before anything is spent: one sentence a problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.base.chat import load_tokenizer, tokenizer_problems
from distill.base.errors import FileError
from distill.train.config import RandomModel, TrainConfig

NEEDED = ("vocab_size", "max_position_embeddings", "hidden_size")


def check(config: TrainConfig) -> list[str]:
    """Problems of the configured base; loads its tokenizer and configuration, not its weights."""
    if isinstance(config.base, RandomModel):
        return _random_problems(config, config.base)
    return base_problems(config, config.base)


def base_problems(config: TrainConfig, base: str) -> list[str]:
    """Problems of a folder or hub name as a base for training; empty when all is well."""
    from transformers import AutoConfig

    if problem := _folder_problem(base):
        return [problem]
    try:
        found: Any = AutoConfig.from_pretrained(base, revision=config.revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if "custom code" in str(error):
            return [
                f"{base}: its configuration asks for code of its own, which is never run; take a base whose "
                "architecture transformers has (Qwen2, Qwen3, Llama)"
            ]
        return [f"{base}: no model configuration can be read ({_first_line(error)}); check the name and revision"]
    text = found.get_text_config()
    missing = [name for name in NEEDED if not isinstance(getattr(text, name, None), int)]
    if missing:
        return [
            f"{base}: the configuration of {found.model_type} names no {' and no '.join(missing)}; expected a causal "
            "language model with a rotary embedding (Qwen2, Qwen3, Llama)"
        ]
    rope = getattr(text, "rope_parameters", None) or {}
    if config.rope_theta is not None and any(isinstance(value, dict) for value in rope.values()):
        return [
            f"{base}: has a rotary base for each kind of layer ({', '.join(rope)}); leave rope_theta and window out"
        ]
    tokenizer, problems = _tokenizer(base, config.revision)
    if tokenizer is not None and len(tokenizer) > text.vocab_size:
        problems.append(
            f"{base}: the tokenizer has {len(tokenizer)} tokens, the model's embedding {text.vocab_size} rows; "
            "use the tokenizer that belongs to the model"
        )
    return problems + _pickled(base) + _window_problems(config, base, text.max_position_embeddings)


def _pickled(base: str) -> list[str]:
    """Weights that only unpickling could read; of a hub name that is found when it is loaded."""
    if not Path(base).is_dir() or any(Path(base).glob("*.safetensors")):
        return []
    return [f"{base}: holds no *.safetensors; pickled weights are never loaded, convert them first"]


def _random_problems(config: TrainConfig, base: RandomModel) -> list[str]:
    problem = _folder_problem(base.tokenizer, "tokenizer_config.json")
    problems = [problem] if problem else _tokenizer(base.tokenizer, None)[1]
    return problems + _window_problems(config, "the random base", base.max_position_embeddings)


def _folder_problem(name: str, needed: str = "config.json") -> str | None:
    """A name that starts like a path must be a folder; others may be hub names."""
    path = Path(name)
    if path.is_dir():
        return None if (path / needed).is_file() else f"{name}: holds no {needed}, expected a Hugging Face model folder"
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        return f"{name}: no such folder; give a model folder or a hub name such as Qwen/Qwen2.5-1.5B"
    return None


def _tokenizer(name: str, revision: str | None) -> tuple[Any, list[str]]:
    """A tokenizer, or None, and what is wrong with it."""
    try:
        tokenizer = load_tokenizer(name, revision)
    except FileError as error:
        return None, [str(error)]
    return tokenizer, tokenizer_problems(tokenizer, name, training=True)


def _window_problems(config: TrainConfig, name: str, window: int) -> list[str]:
    """The rotary embedding is trained for a window; beyond it a student learns garbage."""
    if config.window is None and (config.max_tokens or 0) > window:
        return [
            f"{name}: max_tokens is {config.max_tokens}, the model's window is {window}; lower max_tokens, or widen "
            "the window by setting window and rope_theta (Qwen2.5-Math: rope_theta 300000)"
        ]
    if config.window is not None and config.window > window and config.rope_theta is None:
        return [
            f"{name}: window {config.window} is wider than the model's {window}, whose rotary base was trained for "
            "that; set rope_theta too (300000 to 500000)"
        ]
    if config.window is not None and (config.max_tokens or 0) > config.window:
        return [f"max_tokens {config.max_tokens} is over window {config.window}; lower it or widen the window"]
    return []


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
