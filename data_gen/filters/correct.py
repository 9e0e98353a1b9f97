"""Traces whose final answer is the gold one, by the one judge of the product."""

from __future__ import annotations

from data_gen.filters.base import KEPT, Finding, rejected, unknown
from distill.base.answers import RIGHT, UNKNOWN, judge_answer
from distill.base.config import Config
from distill.base.records import Prompt, Trace


class CorrectConfig(Config):
    """Whether wrong answers are refused; off to measure what this filter is worth."""

    enabled: bool = True


class Correct:
    name = "correct"
    version = 1

    def look(self, trace: Trace, prompt: Prompt) -> Finding:
        if prompt.answer is None:
            return unknown("no gold answer")
        if trace.error is not None or not trace.closed:
            return rejected("no answer to judge")
        judged = judge_answer(prompt.answer, trace.answer, prompt.answer_kind)
        evidence = f"gold {prompt.answer[:80]!r}, found {(judged.extracted or '')[:80]!r}: {judged.reason}"
        if judged.verdict == RIGHT:
            return Finding(KEPT.verdict, "", evidence)
        return unknown("not decidable", evidence) if judged.verdict == UNKNOWN else rejected("wrong answer", evidence)
