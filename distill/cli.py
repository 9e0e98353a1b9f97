"""Words in, calls out; holds no logic.

Exit status: 0 done, 1 a run failed, 2 the user's input is wrong (one clear message, no traceback).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from distill.base.errors import ConfigError, shown
from distill.base.progress import printable, quiet_libraries

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

ConfigFile = Annotated[Path, typer.Argument(help="The run's configuration, a YAML file.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override one field: student.learning_rate=1e-4.")]
Name = Annotated[str | None, typer.Option("--name", help="The run's name; the configuration's name by default.")]
Root = Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")]
RunFolder = Annotated[Path, typer.Argument(help="A run's folder, for example runs/demo.")]


@app.callback()
def _about() -> None:
    """Distil a large reasoning teacher into small students that people can run themselves."""


@app.command()
def run(
    config: ConfigFile,
    name: Name = None,
    runs: Root = Path("runs"),
    until: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    rebuild: Annotated[list[str] | None, typer.Option(help="Make this stage again.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Use this stage as it is, though its settings changed.")
    ] = None,
    set_: Sets = None,
) -> None:
    """Make every artifact that is missing, up to the report; go on where a crash left off."""
    from distill import pipeline
    from distill.base.config import load_config
    from distill.base.runner import run_stages

    settings = load_config(pipeline.RunConfig, config, set_ or [])
    stages = pipeline.until(until, [*(rebuild or []), *(keep or [])])

    def preflight() -> None:
        found = pipeline.problems(settings)
        if found:
            raise ConfigError(str(config), found)

    done = run_stages(
        stages, settings.stage_configs(), pipeline.run_folder(runs, name or settings.name),
        rebuild=rebuild or [], keep=keep or [], before_work=preflight, say=typer.echo,
    )  # fmt: skip
    if "report" in done:
        typer.echo(str(done["report"].path / "report.html"))


@app.command()
def check(config: ConfigFile, set_: Sets = None) -> None:
    """Look for everything that could fail, before anything is spent."""
    from distill import pipeline
    from distill.base.config import load_config

    found = pipeline.problems(load_config(pipeline.RunConfig, config, set_ or []))
    if found:
        raise ConfigError(str(config), found)
    typer.echo(f"{config}: no problems found")


@app.command()
def status(run: RunFolder) -> None:
    """What is done, what it cost, what is left."""
    from distill.base import view
    from distill.pipeline import STAGES

    typer.echo(view.status(run, STAGES))


@app.command()
def show(
    run: RunFolder,
    stage: Annotated[str, typer.Argument(help="Which artifact.")] = "kept",
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="How many rows.")] = 5,
    reason: Annotated[str | None, typer.Option(help="Only traces refused for this reason (part of its text).")] = None,
) -> None:
    """Read what an artifact holds: prompts, traces with verdicts, examples, outcomes."""
    from distill import pipeline
    from distill.base import view

    typer.echo(view.show(run, pipeline.STAGES, pipeline.known_stage(stage), rows, reason))


@app.command()
def judge(
    file: Annotated[Path, typer.Argument(help="JSON lines {id, gold, prediction[, kind]}; kind is math by default.")],
) -> None:
    """Judge predictions against gold answers: JSON lines {id, verdict, extracted, reason}."""
    from collections import Counter

    from distill.base.judge.rows import summary, verdicts

    counts: Counter[str] = Counter()
    for line in verdicts(file, counts):
        typer.echo(line)
    typer.echo(summary(counts), err=True)


def main() -> None:
    """The `distill` command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Spinning OpenMP threads starve each other where several processes share the cores: ten times slower here.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    quiet_libraries()
    try:
        app(standalone_mode=True)
    except Exception as error:
        known = shown(error)
        if known is None:
            raise
        typer.echo(f"distill: {printable(str(known))}", err=True)
        sys.exit(known.exit_status)


if __name__ == "__main__":
    main()
