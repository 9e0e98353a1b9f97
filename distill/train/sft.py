"""The training loop, on one page. Everything it calls is in the file that its name says.

batches.py   which traces in which step and pack        attention.py   traces of a pack kept apart
models.py    the student, loaded and saved              loss.py        the head on trained tokens only
engine.py    DeepSpeed                                  checkpoint.py  exact continuation after a crash
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distill.base.artifacts import write_json
from distill.train.batches import Plan, Step, to_batch
from distill.train.checkpoint import Checkpoints, Layout, only_one
from distill.train.config import TrainConfig
from distill.train.engine import Engine, World, joined, partitioned_loading
from distill.train.log import MESSAGES, StepLog, check_times
from distill.train.models import attention_span, load_student, model_config, save_student, student_size
from distill.train.tokens import open_tokens

RESULT = "result.json"


@dataclass(frozen=True)
class Job:
    """What a worker needs. `base`: folder or hub name; `work`: tokens and checkpoints, removed at the end; `source`:
    names configuration and mixture."""

    config: TrainConfig
    base: str
    out: Path
    work: Path
    source: str
    gpu: bool


def train(job: Job) -> None:
    """Train the student and leave it in `out/final`; goes on from the last checkpoint. Every worker calls this.

    Raises:
        InputError: the model cannot be trained in packs, or the checkpoints belong to other workers.
        OSError: no space left; the checkpoints are intact.
    """
    with joined(job.gpu, job.config.threads) as world, only_one(job.work / f"worker-{world.rank}.lock"):
        _train(job, world)


def _train(job: Job, world: World) -> None:
    config = job.config
    data = open_tokens(job.work / "tokens")
    plan = Plan(
        data=data,
        epochs=config.epochs,
        examples=config.batch_examples,
        capacity=config.micro_batch_tokens,
        span=attention_span(model_config(config, job.base)),
        seed=config.seed,
        rank=world.rank,
        workers=world.workers,
    )
    torch.manual_seed(config.seed)
    with partitioned_loading(config, world):
        student = load_student(config, job.base, world.device)
    engine = Engine(student, config, world)
    layout = Layout(world.workers, config.zero_stage, config.offload)
    checkpoints = Checkpoints(job.work, layout, engine, world, lambda text: _say(job, text))
    done = checkpoints.restore()
    log = StepLog(job.out, done) if world.first else None
    saved = began = time.monotonic()
    for step in plan.from_step(done):
        torch.manual_seed(_seed(config.seed, step.number, world.rank))
        loss = torch.zeros((), device=world.device)
        for pack in step.packs:
            loss += engine.backward(to_batch(data, pack, world.device), step.trained)
        rate = learning_rate(config, step.number, plan.steps)
        norm = engine.step(rate)
        due = world.first and time.monotonic() - saved >= 60 * config.checkpoint_minutes
        total, save = world.sums(loss, due)
        if log:
            facts = _facts(step, total / step.trained, rate, norm, time.monotonic() - began)
            log.add(facts, [data.names[trace] for trace in step.traces])
        if save or step.number + 1 == plan.steps:
            if log:
                log.sync()
            checkpoints.save(step.number + 1)
            saved = time.monotonic()
        began = time.monotonic()
    if world.first:
        check_times(job.out, data.names, config.epochs)
    sizes = student_size(student)
    save_student(student, config, job.base, job.out / "final", engine.gather, world.first)
    if world.first:  # the last file: from here on nothing is trained again
        ran = {"examples": len(data.names), "zero_stage": config.zero_stage, "workers": world.workers}
        write_json(job.out / RESULT, {"source": job.source, **ran, **sizes})
    engine.close()


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to `min_lr_ratio` of the peak at the last step. Counts from 0."""
    warmup = math.ceil(config.warmup_ratio * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    way = (step - warmup) / max(1, steps - 1 - warmup)
    lowest = config.min_lr_ratio
    return config.learning_rate * (lowest + (1 - lowest) * (1 + math.cos(math.pi * way)) / 2)


def _seed(seed: int, step: int, rank: int) -> int:
    """Dropout of a step does not depend on the steps that this process has seen."""
    return (seed * 1_000_003 + step) * 4_099 + rank


def _facts(step: Step, loss: float, rate: float, norm: float, seconds: float) -> dict[str, Any]:
    return {
        "step": step.number + 1,
        "epoch": step.epoch + 1,
        "loss": round(loss, 6),
        "learning_rate": rate,
        "grad_norm": round(norm, 6),
        "trained_tokens": step.trained,
        "tokens": step.tokens,
        "padding": round(step.idle_tokens / (step.tokens + step.idle_tokens), 4),
        "seconds": round(seconds, 4),
        "tokens_per_second": round(step.tokens / seconds, 1),
    }


def _say(job: Job, text: str) -> None:
    with (job.work / MESSAGES).open("a", encoding="utf-8") as file:
        file.write(text + "\n")
