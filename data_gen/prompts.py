"""questions, sources -> prompts: what the teacher will be asked, free of benchmark questions."""

from __future__ import annotations

from pathlib import Path

from data_gen.filters.contamination import Contamination, ContaminationConfig
from distill.base.artifacts import Inputs, Made
from distill.base.config import Config
from distill.base.errors import InputError
from distill.base.gym import HARVEST
from distill.base.progress import Progress
from distill.base.records import Prompt, write_rows
from distill.base.sources import Source, read_prompts


class PromptsConfig(Config):
    """Where prompts come from, and what is put after each question."""

    source: Source
    instruction: str = ""
    contamination: ContaminationConfig = ContaminationConfig()


def prompts(config: PromptsConfig, inputs: Inputs, out: Path, progress: Progress) -> Made:
    """Read the prompts and set aside those that are benchmark questions, before anything is spent on them."""
    found, equal = read_prompts(config.source, HARVEST, config.instruction)
    clean, removed = found, 0
    if config.contamination.enabled:
        benchmark = Contamination(config.contamination, list(inputs["questions"].rows(Prompt, "questions.parquet")))
        flagged = {prompt.id: shared for prompt in found if (shared := benchmark.shared_with(prompt.question))}
        clean = [prompt for prompt in found if prompt.id not in flagged]
        removed = len(flagged)
    if not clean:
        raise InputError(
            f"all {len(found)} prompts are benchmark questions; choose other prompts, or set "
            "prompts.contamination.enabled=false if that is intended"
        )
    write_rows(out / "prompts.parquet", Prompt, clean)
    by_source: dict[str, int] = {}
    for prompt in clean:
        by_source[prompt.source] = by_source.get(prompt.source, 0) + 1
    counted = {"duplicate: same text as an earlier prompt": equal, "contamination: a benchmark question": removed}
    rejected = {reason: count for reason, count in counted.items() if count}
    progress.say(f"{len(clean)} prompts, {removed} benchmark questions set aside")
    return Made(len(found) + equal, len(clean), rejected, {"by_source": by_source})


def check(config: PromptsConfig) -> list[str]:
    """Problems with the source, found by reading it."""
    try:
        read_prompts(config.source, HARVEST, config.instruction)
    except InputError as error:
        return [str(error)]
    return []
