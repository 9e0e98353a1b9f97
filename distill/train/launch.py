"""The `student` stage: mixture -> student. Prepares, starts the workers, sums up. The training itself is `sft.py`.

With launcher ray, Ray Train places the workers, on this machine or on a cluster whose nodes see the run's folder;
nothing else of the training imports ray. With launcher none, the work happens in this process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.base.artifacts import Inputs, Made, read_json
from distill.base.chat import load_tokenizer
from distill.base.errors import DistillError, InputError, shown
from distill.base.fingerprint import fingerprint
from distill.base.progress import Progress
from distill.train.config import RandomModel, TrainConfig
from distill.train.preflight import base_problems

WORK = "checkpoints"


def student(config: TrainConfig, inputs: Inputs, out: Path, progress: Progress) -> Made:
    """Train the student of `inputs["mixture"]` into `out`; the same call after a crash goes on.

    Leaves `final/` (weights or adapters, tokenizer, configuration), `log.jsonl`, `samples.jsonl`, `result.json`
    (written last: with it nothing is trained again), and `base/` for a student that started from random weights.

    Raises:
        InputError: the base or the mixture cannot be used, with every problem found.
        OSError: no space left; checkpoints are intact.
    """
    from distill.train.log import sums
    from distill.train.sft import RESULT

    out = out.resolve()
    work = out / WORK
    source = fingerprint({"config": config.identity(), "mixture": inputs["mixture"].id})
    if (out / RESULT).is_file():
        progress.say("trained before the restart")
    else:
        _train(config, inputs, out, source, progress)
    result = read_json(out / RESULT)
    if result.pop("source") != source:
        raise InputError(
            f"{out / RESULT}: this student was trained with another configuration or mixture; "
            "start over with --rebuild student"
        )
    facts = sums(out)
    if work.is_dir():
        shutil.rmtree(work)
    random_base = isinstance(config.base, RandomModel)
    summary = {
        "base": f"random Qwen2, {result['parameters']:,} weights" if random_base else config.base,
        "base_folder": "base" if random_base else None,
        "revision": config.revision,
        "window": config.window,
        "rope_theta": config.rope_theta,
        "method": config.method,
        "epochs": config.epochs,
        "precision": config.precision,
        **result,
        **facts,
    }
    tokens = {"trained": facts["trained_tokens"], "read": facts["tokens"]}
    return Made(result["examples"], result["examples"], summary=summary, tokens=tokens)


def _train(config: TrainConfig, inputs: Inputs, out: Path, source: str, progress: Progress) -> None:
    """Everything up to `result.json`."""
    from distill.train.log import MESSAGES, Watch
    from distill.train.sft import Job

    work = out / WORK
    work.mkdir(parents=True, exist_ok=True)
    base = _base(config, out)
    examples = _prepare(config, base, inputs, work, progress)
    steps = config.epochs * -(-examples // config.batch_examples)
    job = Job(config, base, out, work, source, config.launcher == "none" and _has_gpu(config))
    with Watch(out, work / MESSAGES, steps, progress):
        if config.launcher == "none":
            _here(job)
        else:
            _on_ray(job)


def _base(config: TrainConfig, out: Path) -> str:
    """Folder or hub name of the model to start from; random weights are written down first."""
    from distill.train.models import write_random

    if isinstance(config.base, str):
        return str(Path(config.base).resolve()) if Path(config.base).is_dir() else config.base
    write_random(config.base, out / "base", config.seed)
    return str(out / "base")


def _prepare(config: TrainConfig, base: str, inputs: Inputs, work: Path, progress: Progress) -> int:
    """Check the base, turn the mixture into tokens; returns the number of traces."""
    from distill.train.models import model_config
    from distill.train.tokens import Limits, open_tokens, write_tokens

    if problems := base_problems(config, base):
        raise InputError("the student cannot be trained:\n" + "\n".join(f"  - {problem}" for problem in problems))
    found = model_config(config, base).get_text_config()
    limits = Limits(config.max_tokens or found.max_position_embeddings, found.vocab_size)
    mixture = inputs["mixture"].path / "mixture.parquet"
    write_tokens(work / "tokens", load_tokenizer(base, config.revision), mixture, limits)
    data = open_tokens(work / "tokens")
    tokens, trained = sum(data.lengths), sum(data.labels)
    progress.say(f"{len(data.names)} traces, {tokens} tokens, {trained / tokens:.0%} of them trained")
    return len(data.names)


def _here(job: Any) -> None:
    from distill.train.sft import train

    train(job)


def _has_gpu(config: TrainConfig) -> bool:
    import torch

    return torch.cuda.is_available() if config.gpus_per_worker is None else config.gpus_per_worker > 0


def _on_ray(job: Any) -> None:
    """Start the workers, wait for them, and raise what they raised.

    Raises:
        InputError: the cluster has not the resources asked for.
        DistillError: a worker failed.
    """
    config = job.config
    with _ray(config) as ray, tempfile.TemporaryDirectory(prefix="distill-ray-") as storage:
        gpus = _gpus(config, ray.cluster_resources())
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "config": config.model_dump(),
                "base": job.base,
                "out": str(job.out),
                "work": str(job.work),
                "source": job.source,
                "gpu": gpus > 0,
            },
            scaling_config=ScalingConfig(
                num_workers=config.workers, use_gpu=gpus > 0, resources_per_worker={"CPU": 1, "GPU": gpus}
            ),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            run_config=RunConfig(
                name="student", storage_path=storage, worker_runtime_env={"env_vars": _worker_environment()}
            ),
        )
        try:
            trainer.fit()
        except ray.train.v2.api.exceptions.TrainingFailedError as error:
            known = shown(error)
            if known is not None:
                raise known from error
            raise DistillError(f"training failed; finished checkpoints are kept in {job.work}.\n{error}") from error


def _worker(settings: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    from distill.train.sft import Job, train

    config = TrainConfig.model_validate(settings["config"])
    out, work = Path(settings["out"]), Path(settings["work"])
    train(Job(config, settings["base"], out, work, settings["source"], settings["gpu"]))


def _worker_environment() -> dict[str, str]:
    """Workers import this very code, also when it is not installed, and wait for each other without burning cores:
    on a busy machine spinning threads made small students ten times slower."""
    paths = os.pathsep.join(dict.fromkeys(str(Path(path or ".").resolve()) for path in sys.path))
    return {"PYTHONPATH": paths, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}


@contextlib.contextmanager
def _ray(config: TrainConfig) -> Iterator[Any]:
    """Ray as it runs already, or joined or started for this training and left after it.

    Raises:
        InputError: no cluster answers at the address.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.train

    logging.getLogger("ray").setLevel(logging.ERROR)  # importing ray sets it to INFO
    if ray.is_initialized():
        yield ray
        return
    where = config.ray_address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"address": where} if where else {"include_dashboard": False}
    try:
        ray.init(configure_logging=False, log_to_driver=False, **options)
    except ConnectionError as error:
        raise InputError(f"no Ray cluster answers at {where}: {error}; check student.ray_address") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _gpus(config: TrainConfig, resources: dict[str, float]) -> int:
    """GPUs a worker, 0 or 1."""
    there = int(resources.get("GPU", 0))
    wanted = config.gpus_per_worker if config.gpus_per_worker is not None else int(there > 0)
    needs = {"GPU": wanted * config.workers, "CPU": config.workers}
    for kind, needed in needs.items():
        if needed > resources.get(kind, 0):
            raise InputError(
                f"{config.workers} workers need {needed} {kind}s, Ray has {resources.get(kind, 0):g}; lower "
                "student.workers, or join a larger cluster with student.ray_address"
            )
    return wanted
