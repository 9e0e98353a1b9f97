"""Traces that fit the student: longer ones are refused here, with a count, never cut later."""

from __future__ import annotations

from pydantic import Field

from data_gen.filters.base import KEPT, Finding, rejected
from distill.base.config import Config
from distill.base.records import Prompt, Trace


class LengthConfig(Config):
    """`max_tokens`: the longest completion, in the tokens that the teacher was counted in; null sets no limit."""

    max_tokens: int | None = Field(None, ge=1)


class Length:
    name = "length"
    version = 1

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def look(self, trace: Trace, prompt: Prompt) -> Finding:
        if trace.completion_tokens > self.max_tokens:
            return rejected("longer than max_tokens", f"{trace.completion_tokens} tokens, limit {self.max_tokens}")
        return KEPT
