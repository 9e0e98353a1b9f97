"""What a teacher is to the harvest: asked for one batch of samples, it gives one trace each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import Field

from distill.base.config import Config
from distill.base.records import Prompt, Trace


class Sampling(Config):
    """How the teacher samples; temperature and top_p of the R1 protocol."""

    temperature: float = Field(0.6, gt=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_new_tokens: int = Field(32768, ge=1)


@dataclass(frozen=True)
class Request:
    """One wanted sample. `id` is the trace's id: prompt, sample index and everything that shapes the answer."""

    id: str
    prompt: Prompt
    sample_index: int


class Teacher(Protocol):
    """Built once in each worker."""

    def sample(self, requests: Sequence[Request], seed: int) -> list[Trace]:
        """One trace a request, in order; a failure is a trace with `error` set.

        The same requests with the same seed give the same traces on the same machine.
        """
        ...


def failed(request: Request, teacher: str, sampling: dict[str, Any], seed: int, error: str) -> Trace:
    """The row of a call that gave nothing."""
    return Trace(
        id=request.id, prompt_id=request.prompt.id, sample_index=request.sample_index, reasoning="", answer="",
        finish_reason="error", prompt_tokens=0, reasoning_tokens=0, completion_tokens=0, cost_usd=0.0,
        teacher=teacher, sampling=sampling, seed=seed, attempts=1, error=error,
    )  # fmt: skip
