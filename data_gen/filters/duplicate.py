"""Traces that say the same as an earlier one: the same normalised text, numbers kept."""

from __future__ import annotations

from data_gen.filters.base import KEPT, Finding, rejected
from distill.base.config import Config
from distill.base.records import Prompt, Trace, content_id, normalise


class DuplicateConfig(Config):
    """Whether equal traces of one prompt are refused."""

    enabled: bool = True


class Duplicate:
    """Looks only at traces that every other filter kept, so that a refused trace hides no good one."""

    name = "duplicate"
    version = 1

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def look(self, trace: Trace, prompt: Prompt) -> Finding:
        key = content_id(trace.prompt_id, normalise(trace.reasoning), normalise(trace.answer))
        first = self._seen.setdefault(key, trace.id)
        return KEPT if first == trace.id else rejected("same text as an earlier trace", first)
