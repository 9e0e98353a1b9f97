"""Attention that keeps packed traces apart: a token sees its own trace up to itself, nothing else.

Traces lie one after the other in a pack [1, tokens], without padding. On a CPU each trace is one causal SDPA call:
measured on one core with traces of 100-180 tokens it runs as fast as right-padded buckets without a mask, and padded
batches with a mask are slower by a fifth to a third. On a GPU torch's varlen kernel takes the whole pack at once.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

from distill.base.errors import InputError

NAME = "distill_packed"


@dataclass(frozen=True)
class Traces:
    """Where the traces of a pack lie. `offsets`: [traces + 1] int32 on the pack's device, starting with 0."""

    lengths: tuple[int, ...]
    offsets: torch.Tensor


def register() -> None:
    """Make `attn_implementation=NAME` known to transformers; a name without a mask function gets no mask."""
    AttentionInterface.register(NAME, packed_attention)


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    traces: Traces | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each trace.

    Args:
        query: [1, heads, tokens, head size]; key and value may have fewer heads.
        traces: without it the batch is one trace.

    Returns:
        [1, tokens, heads, head size], and None for the weights.

    Raises:
        InputError: the model asks for something that this function would silently leave out.
    """
    lengths = traces.lengths if traces is not None else (query.shape[2],)
    asked = {
        "an attention mask": attention_mask,
        "a sliding window": sliding_window if sliding_window and sliding_window < max(lengths) else None,
        "logit softcapping": others.get("softcap"),
        "attention sinks": others.get("s_aux"),
    }
    if missing := [name for name, found in asked.items() if found is not None]:
        raise InputError(
            f"{type(module).__name__} asks for {' and '.join(missing)}, which packed training does not have; "
            "choose a base with plain causal attention (Qwen2, Qwen3, Llama)"
        )
    if traces is not None and query.is_cuda and query.dtype == torch.bfloat16 and (varlen := _varlen()) is not None:
        return _whole_pack(varlen, query, key, value, traces, scaling), None
    pieces = [
        functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=q.shape[1] != k.shape[1]
        )
        for q, k, v in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    return torch.cat(pieces, dim=2).transpose(1, 2), None


@functools.cache
def _varlen() -> Any:
    """torch's varlen kernel, or None where this torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def _whole_pack(
    varlen: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, traces: Traces, scaling: float | None
) -> torch.Tensor:
    longest = max(traces.lengths)
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    attended: torch.Tensor = varlen(
        q, k, v, traces.offsets, traces.offsets, longest, longest,
        scale=scaling, window_size=(-1, 0), enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    return attended[None]
