"""READ FIRST: the whole path as one table. It is the documentation, the plan and the program.

    questions --.--------------------.
                v                    v
             prompts -> traces -> kept -> mixture -> student -> weights -> quantized -> scores -> report

Each row says which function makes which artifact from which others. Rooms never import each other; they meet in
artifacts, whose row types stand in `distill/base/records.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from data_gen.harvest import HarvestConfig
from data_gen.mix import MixConfig
from data_gen.prompts import PromptsConfig
from data_gen.sift import SiftConfig
from distill.base.config import Config
from distill.base.errors import InputError
from distill.base.runner import Stage, load
from distill.train.config import TrainConfig
from evals.questions import QuestionsConfig
from evals.report import ReportConfig
from evals.scores import ScoresConfig
from students.export import ExportConfig
from students.quantize import QuantizeConfig

STAGES = (
    Stage("questions", "evals.questions:questions", (), check="evals.questions:check"),
    Stage("prompts", "data_gen.prompts:prompts", ("questions",), check="data_gen.prompts:check"),
    Stage("traces", "data_gen.harvest:traces", ("prompts",), check="data_gen.harvest:check", unfinished="continue"),
    Stage("kept", "data_gen.sift:kept", ("questions", "prompts", "traces")),
    Stage("mixture", "data_gen.mix:mixture", ("prompts", "kept")),
    Stage(
        "student",
        "distill.train.launch:student",
        ("mixture",),
        check="distill.train.preflight:check",
        unfinished="guard",
    ),
    Stage("weights", "students.export:weights", ("student",)),
    Stage("quantized", "students.quantize:quantized", ("weights",), check="students.quantize:check"),
    Stage(
        "scores",
        "evals.scores:scores",
        ("questions", "traces", "student", "weights", "quantized"),
        check="evals.scores:check",
        unfinished="guard",
    ),
    Stage(
        "report",
        "evals.report:report",
        ("questions", "prompts", "traces", "kept", "mixture", "student", "weights", "quantized", "scores"),
        on_change="remake",
    ),
)


NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class RunConfig(Config):
    """A whole run; each stage receives its own part only."""

    name: str = Field("demo", pattern=NAME)
    questions: QuestionsConfig
    prompts: PromptsConfig
    traces: HarvestConfig
    kept: SiftConfig = SiftConfig()
    mixture: MixConfig = MixConfig()
    student: TrainConfig
    weights: ExportConfig = ExportConfig()
    quantized: QuantizeConfig = QuantizeConfig()
    scores: ScoresConfig = ScoresConfig()
    report: ReportConfig = ReportConfig()

    def stage_configs(self) -> dict[str, Config]:
        """The configuration of each stage, by stage name."""
        return {stage.name: getattr(self, stage.name) for stage in STAGES}


def until(last: str | None, named: Sequence[str] = ()) -> Sequence[Stage]:
    """The stages up to and including `last`.

    Raises:
        InputError: `last` is no stage, or one of `named` is none or comes after it.
    """
    names = [stage.name for stage in STAGES]
    stages = STAGES if last is None else STAGES[: names.index(known_stage(last)) + 1]
    for name in named:
        if names.index(known_stage(name)) >= len(stages):
            raise InputError(f"{name} comes after {last}, where this run stops; leave --until {last} out")
    return stages


def known_stage(name: str) -> str:
    """`name` if it is a stage.

    Raises:
        InputError: it is not.
    """
    if name not in [stage.name for stage in STAGES]:
        raise InputError(f"{name!r} is no stage; stages are {', '.join(stage.name for stage in STAGES)}")
    return name


def problems(config: RunConfig) -> list[str]:
    """What would fail later, found before anything is spent: the `check` of every stage."""
    configs = config.stage_configs()
    found: list[str] = []
    for stage in STAGES:
        if stage.check is not None:
            found += [f"{stage.name}: {problem}" for problem in load(stage.check)(configs[stage.name])]
    return found


def run_folder(root: Path, name: str) -> Path:
    """Where a run's artifacts lie.

    Raises:
        InputError: the name could lead out of the folder.
    """
    if not re.match(NAME, name):
        raise InputError(f"--name {name!r} is no run's name; use letters, digits, '.', '_' and '-'")
    return root / name
