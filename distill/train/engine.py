"""DeepSpeed, and nothing else imports it: joining the other workers, gradients, steps, saved states.

Gradients are accumulated in fp32 at every stage: stage 0 keeps fp32 weights (arithmetic under autocast), stages 1 to 3
keep bf16 weights with fp32 masters and `grad_accum_dtype` fp32. The caller owns the accumulation
(`managed_gradient_accumulation` off), so steps may hold different numbers of packs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distill.base.errors import InputError
from distill.train.batches import Batch
from distill.train.config import TrainConfig

BETAS, EPSILON = (0.9, 0.95), 1e-8


@dataclass(frozen=True)
class World:
    """This worker among all workers."""

    rank: int
    workers: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this worker writes what is written once."""
        return self.rank == 0

    def sums(self, *values: float | torch.Tensor) -> list[float]:
        """Each value, summed over all workers."""
        found = torch.tensor([float(value) for value in values], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(found)
        return [float(value) for value in found.tolist()]

    def wait(self) -> None:
        """Until every worker is here."""
        torch.distributed.barrier()


@contextlib.contextmanager
def joined(gpu: bool, threads: int | None = None) -> Iterator[World]:
    """Meet the other workers (their addresses stand in the environment, as Ray Train and torchrun set them), or be
    alone where the environment names none. Leaves the process as it was found."""
    before = dict(os.environ)
    threads_before = torch.get_num_threads()
    if "RANK" not in os.environ:
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    os.environ["LOCAL_SIZE"] = str(local)
    deepspeed = _import_deepspeed(gpu)
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // local))
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    deepspeed.init_distributed(dist_backend="nccl" if gpu else "gloo", verbose=False)
    try:
        yield World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), device)
    finally:
        deepspeed.comm.destroy_process_group()
        torch.set_num_threads(threads_before)
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _import_deepspeed(gpu: bool) -> Any:
    """DeepSpeed chooses its accelerator when it is imported."""
    os.environ["DS_ACCELERATOR"] = "cuda" if gpu else "cpu"
    if gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # The shared-memory collective is built with a compiler on first use; gloo needs none.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings(config: TrainConfig, world: World) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    stage = config.zero_stage
    chosen: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": world.workers,
        "managed_gradient_accumulation": False,
        "steps_per_print": None,
        "gradient_clipping": config.grad_clip if stage > 0 else 0.0,
        "zero_optimization": {"stage": stage},
        "zero_force_ds_cpu_optimizer": False,
        "data_types": {"grad_accum_dtype": "fp32"},
    }
    if stage > 0:
        chosen["bf16"] = {"enabled": config.precision == "bf16"}
        if stage != 2:
            chosen["zero_optimization"]["overlap_comm"] = False
        if config.offload:
            pinned = world.device.type == "cuda"
            chosen["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": pinned}
    return chosen


@contextlib.contextmanager
def partitioned_loading(config: TrainConfig, world: World) -> Iterator[None]:
    """While a model is loaded at stage 3, transformers splits each weight over the workers at once."""
    if config.zero_stage != 3:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig

    alive = HfDeepSpeedConfig(settings(config, world))  # transformers holds it by a weak reference
    try:
        yield
    finally:
        del alive


class Engine:
    """A student with its optimizer."""

    def __init__(self, student: Any, config: TrainConfig, world: World) -> None:
        self.config, self.world = config, world
        self._clipped_norm = 0.0
        deepspeed = _import_deepspeed(world.device.type == "cuda")
        trained = [value for value in student.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(
            _groups(trained, config.weight_decay), lr=config.learning_rate, betas=BETAS, eps=EPSILON, fused=True
        )
        if config.zero_stage == 0:
            optimizer.register_step_pre_hook(self._clip(trained))
        self._engine, *_ = deepspeed.initialize(
            model=student, optimizer=optimizer, config=settings(config, world), dist_init_required=False
        )
        self._engine.checkpoint_engine = _durable_files(self._engine)
        self._gathered = deepspeed.zero.GatheredParameters

    def _clip(self, trained: list[Any]) -> Callable[..., None]:
        """At stage 0 DeepSpeed clips, but keeps the norm to itself."""

        def clip(*_: Any) -> None:
            self._clipped_norm = float(torch.nn.utils.clip_grad_norm_(trained, self.config.grad_clip))

        return clip

    def backward(self, batch: Batch, trained_in_step: int) -> torch.Tensor:
        """Add a pack's gradients of the mean over the whole step's trained tokens; returns the pack's summed loss,
        still on the device."""
        total: torch.Tensor = self._engine(batch)
        # DeepSpeed averages over the workers, so the mean over all tokens needs their number back.
        self._engine.backward(total * (self.world.workers / trained_in_step), scale_wrt_gas=False)
        return total.detach()

    def step(self, learning_rate: float) -> float:
        """Update the weights; returns the norm of the gradient before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        if self.config.zero_stage == 0:
            return self._clipped_norm
        return float(self._engine.get_global_grad_norm())

    def gather(self, values: list[Any]) -> contextlib.AbstractContextManager[Any]:
        """Makes the full values of parameters readable; they lie in slices at stage 3."""
        if self.config.zero_stage < 3:
            return contextlib.nullcontext()
        manager: contextlib.AbstractContextManager[Any] = self._gathered(values)
        return manager

    def save(self, folder: Path, tag: str) -> None:
        """Write this worker's part of the state to `folder/tag`; returns when all workers have, on disk.

        Raises:
            OSError: the disk is full or broken.
        """
        self._engine.save_checkpoint(
            str(folder), tag=tag, save_latest=False, exclude_frozen_parameters=self.config.method == "lora"
        )

    def load(self, folder: Path, tag: str) -> None:
        """Take up a state that `save` wrote.

        Raises:
            InputError: DeepSpeed finds nothing there.
        """
        found, _ = self._engine.load_checkpoint(str(folder), tag=tag, load_module_strict=self.config.method == "full")
        if found is None:
            raise InputError(f"{folder / tag}: DeepSpeed finds no state there; start over with --rebuild student")

    def close(self) -> None:
        """Free what DeepSpeed holds."""
        self._engine.destroy()


def _groups(trained: list[Any], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases do not."""

    def is_matrix(value: Any) -> bool:
        return len(getattr(value, "ds_shape", value.shape)) > 1

    matrices = [value for value in trained if is_matrix(value)]
    vectors = [value for value in trained if not is_matrix(value)]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _durable_files(engine: Any) -> Any:
    """DeepSpeed's own checkpoint files, on disk when written, and a full disk seen as what it is."""
    parent: Any = type(engine.checkpoint_engine)

    class DurableFiles(parent):  # type: ignore[misc]
        def save(self, state_dict: Any, path: str) -> None:
            # torch.save to a path turns a full disk into a RuntimeError without errno.
            with Path(path).open("wb") as file:
                torch.save(state_dict, file)
                file.flush()
                os.fsync(file.fileno())

    return DurableFiles(engine._config)
