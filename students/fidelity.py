"""How far a quantized model is from its parent, on text that the parent itself writes."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from students.models import probe_ids, quiet

CONTINUATION = 64


def probe_texts(parent: PreTrainedModel, tokenizer: Any, tokens: int = CONTINUATION) -> list[list[int]]:
    """The probe questions with the parent's own greedy continuation: the text that a student meets in use."""
    stop = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    settings = GenerationConfig(do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=stop)
    sequences = []
    with torch.no_grad(), quiet():
        for ids in probe_ids(tokenizer):
            given = torch.tensor([ids], device=parent.device)
            made = parent.generate(given, attention_mask=torch.ones_like(given), generation_config=settings)
            sequences.append([int(token) for token in made[0]])
    return sequences


def distance(parent: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    """Compare two models' logits of the same positions, each (positions, vocabulary).

    Returns:
        cosine: mean cosine of the logits; kl: mean KL(parent || other) in nats a token; top1: share of positions
        where both would say the same next token.
    """
    p, q = torch.log_softmax(parent.double(), -1), torch.log_softmax(other.double(), -1)
    return {
        "cosine": float(torch.nn.functional.cosine_similarity(parent.double(), other.double(), dim=-1).mean()),
        "kl": max(0.0, float((p.exp() * (p - q)).sum(-1).mean())),
        "top1": float((parent.argmax(-1) == other.argmax(-1)).double().mean()),
    }
