"""What a filter says, and what a filter is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from distill.base.records import Prompt, Trace


@dataclass(frozen=True)
class Finding:
    """`verdict` is kept, rejected or unknown; a reason is a short fixed phrase, so that it can be counted."""

    verdict: str
    reason: str = ""
    evidence: str = ""


KEPT = Finding("kept")


def rejected(reason: str, evidence: str = "") -> Finding:
    return Finding("rejected", reason, evidence)


def unknown(reason: str, evidence: str = "") -> Finding:
    """The filter could not tell; such a trace is not trained on, and not called bad."""
    return Finding("unknown", reason, evidence)


class Filter(Protocol):
    """Looks at one trace. `version` goes up when the same trace would get another verdict."""

    name: str
    version: int

    def look(self, trace: Trace, prompt: Prompt) -> Finding: ...
