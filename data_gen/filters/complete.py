"""Traces that came to their end: nothing failed, nothing was cut, the thought is closed, an answer is there."""

from __future__ import annotations

import re

from data_gen.filters.base import KEPT, Finding, rejected
from distill.base.answers import final_answer
from distill.base.chat import CLOSE, OPEN
from distill.base.config import Config
from distill.base.records import Prompt, Trace

# <|im_end|>, <｜User｜>: in a training text they would become the template's own marks.
CONTROL = re.compile(r"<[|｜][^<>|｜\s]{1,40}[|｜]>")


class CompleteConfig(Config):
    """`require_reasoning`: off for teachers that reason in plain text, without think tags.

    `require_final_answer`: off for prompts whose answer is prose.
    """

    enabled: bool = True
    require_reasoning: bool = True
    require_final_answer: bool = True


class Complete:
    name = "complete"
    version = 1

    def __init__(self, config: CompleteConfig) -> None:
        self.config = config

    def look(self, trace: Trace, prompt: Prompt) -> Finding:
        if trace.error is not None:
            return rejected("the call failed", trace.error[:200])
        if trace.finish_reason == "length":
            return rejected("cut by length", f"{trace.completion_tokens} tokens")
        if not trace.closed:
            return rejected("the thought never closes", trace.reasoning[-80:])
        if CONTROL.search(f"{prompt.text}\n{trace.reasoning}\n{trace.answer}"):
            return rejected("control tokens in the text")
        if OPEN in trace.reasoning or OPEN in trace.answer or CLOSE in trace.answer:
            return rejected("doubled think tags", trace.answer[:80])
        if self.config.require_reasoning and not trace.reasoning:
            return rejected("no reasoning", trace.answer[:80])
        if not trace.answer:
            return rejected("no answer")
        if self.config.require_final_answer and final_answer(trace.answer) is None:
            return rejected("no final answer", trace.answer[-80:])
        return KEPT
