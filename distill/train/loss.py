"""The output head and its loss in one: trained tokens only, in slices, softmax in fp32.

The gradient of each slice is taken in the forward pass, so logits of one slice exist at a time. The loss is the
head's own forward, because ZeRO-3 gathers a module's weight only while that module runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

SLICE_BYTES = {"cpu": 64 * 2**20, "cuda": 2 * 2**30}  # fp32 logits of one slice: cache-friendly, wide GEMMs


class LossHead(nn.Linear):  # type: ignore[misc]
    """Takes a model's output head over, sharing its weight."""

    def __init__(self, head: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = head.in_features, head.out_features
        self.weight = head.weight
        self.register_parameter("bias", None)

    def forward(self, hidden: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Logits, or with labels the summed loss.

        Args:
            hidden: [trained tokens, hidden size], each the state before its label.
            labels: [trained tokens] int64.

        Returns:
            A scalar: the sum (not the mean) of -log p(label), fp32.
        """
        if labels is None:
            return functional.linear(hidden, self.weight)
        rows = max(64, SLICE_BYTES[hidden.device.type] // (4 * self.out_features))
        total: torch.Tensor = _SlicedLoss.apply(hidden, self.weight, labels, rows)
        return total


class _SlicedLoss(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, rows: int) -> torch.Tensor:
        """Sum of the loss; keeps the gradients for `backward`."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden) if needs_hidden else None
        weight_grad = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if needs_weight else None
        for start in range(0, len(labels), rows):
            here = slice(start, start + rows)
            states, wanted = hidden[here], labels[here, None]
            logits = functional.linear(states, weight).float()
            norm = logits.logsumexp(dim=-1, keepdim=True)
            total += (norm - logits.gather(1, wanted)).sum()
            error = logits.sub_(norm).exp_()  # softmax in place of the logits
            error.scatter_add_(1, wanted, torch.full_like(norm, -1.0))
            error = error.to(states.dtype)
            if hidden_grad is not None:
                hidden_grad[here] = error @ weight
            if weight_grad is not None:
                weight_grad += error.t() @ states
        ctx.save_for_backward(hidden_grad, weight_grad.to(weight.dtype) if weight_grad is not None else None)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        """Scale what `forward` kept."""
        hidden_grad, weight_grad = ctx.saved_tensors
        scale = grads[0]
        return (
            None if hidden_grad is None else (hidden_grad * scale).to(hidden_grad.dtype),
            None if weight_grad is None else (weight_grad * scale).to(weight_grad.dtype),
            None,
            None,
        )
