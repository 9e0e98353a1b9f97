"""kept -> mixture: which kept traces the student is trained on, in the format that trainers read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from distill.base.artifacts import Inputs, Made
from distill.base.chat import join_thought
from distill.base.config import Config
from distill.base.progress import Progress
from distill.base.records import Example, Prompt, Trace, content_id, write_rows


class MixConfig(Config):
    """`per_prompt`: at most so many traces of one prompt, chosen by `prefer`; null takes all of them."""

    per_prompt: int | None = Field(None, ge=1)
    prefer: Literal["shortest", "first"] = "shortest"
    seed: int = 0


def mixture(config: MixConfig, inputs: Inputs, out: Path, progress: Progress) -> Made:
    """Select, and put in an order that depends on content and seed only."""
    prompts = {prompt.id: prompt for prompt in inputs["prompts"].rows(Prompt, "prompts.parquet")}
    groups: dict[str, list[Trace]] = {}
    count = 0
    for trace in inputs["kept"].rows(Trace, "kept.parquet"):
        groups.setdefault(trace.prompt_id, []).append(trace)
        count += 1
    chosen = [trace for group in groups.values() for trace in _choose(config, group)]
    chosen.sort(key=lambda trace: content_id(config.seed, trace.id))
    write_rows(out / "mixture.parquet", Example, (_example(trace, prompts[trace.prompt_id]) for trace in chosen))
    progress.say(f"{len(chosen)} examples of {len(groups)} prompts")
    left = count - len(chosen)
    tokens = sum(trace.completion_tokens for trace in chosen)
    return Made(
        count, len(chosen), {"over per_prompt": left} if left else {}, {"prompts": len(groups), "tokens": tokens}
    )


def _choose(config: MixConfig, group: Sequence[Trace]) -> Sequence[Trace]:
    key = (lambda t: (t.completion_tokens, t.id)) if config.prefer == "shortest" else (lambda t: (t.sample_index, t.id))
    return sorted(group, key=key)[: config.per_prompt]


def _example(trace: Trace, prompt: Prompt) -> Example:
    turn = {"role": "assistant", "content": join_thought(trace.reasoning, trace.answer, trace.thought)}
    return Example(trace.id, prompt.id, [*prompt.messages, turn], prompt.source)
