"""Ray actors that sample, each with a ledger segment of its own: the only file that imports ray for the harvest."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_gen.ledger import Writer
from data_gen.teachers.base import Request, Teacher
from distill.base.errors import DistillError

Unit = tuple[Sequence[Request], int]  # what is sampled together, and the seed
UNITS_IN_FLIGHT = 2  # for each actor: one at work, one waiting, so that no actor idles between two
RESTARTS = 3


class Sampler:
    """Lives in an actor: samples a unit, makes it durable, and only then tells how it went."""

    def __init__(self, build: Callable[[], Teacher], ledger: Path) -> None:
        self.teacher = build()
        self.writer = Writer(ledger)

    def run(self, requests: Sequence[Request], seed: int) -> dict[str, float]:
        """Sample one unit; returns counts of the rows that are now durable."""
        traces = self.teacher.sample(requests, seed)
        self.writer.append(traces)
        return {
            "rows": len(traces),
            "failed": sum(trace.error is not None for trace in traces),
            "tokens": sum(trace.completion_tokens for trace in traces),
            "usd": sum(trace.cost_usd for trace in traces),
        }


def start_ray(address: str | None) -> None:
    """Join the cluster at `address` (or `RAY_ADDRESS`), or start Ray on this machine, without dashboard."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)  # importing ray sets it to INFO
    if ray.is_initialized():
        return
    where = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"address": where} if where else {"include_dashboard": False}
    ray.init(configure_logging=False, logging_level=logging.ERROR, log_to_driver=False, **options)


def sample_units(
    units: Sequence[Unit],
    build: Callable[[int], Callable[[], Teacher]],
    ledger: Path,
    *,
    actors: int,
    gpus_per_actor: float,
    address: str | None,
) -> Iterator[dict[str, float]]:
    """Run all units on `actors` Ray actors; yields the counts of each unit once it is durable.

    Args:
        build: threads for an actor -> what builds its teacher there.

    Raises:
        DistillError: an actor died more often than it may be restarted.
    """
    import ray

    start_ray(address)
    cpus = float(ray.cluster_resources().get("CPU", 1))
    count = min(actors, max(1, len(units)))
    share = min(1.0, cpus / count)
    remote = ray.remote(num_cpus=share, num_gpus=gpus_per_actor, max_restarts=RESTARTS, max_task_retries=0)(Sampler)
    threads = max(1, (os.cpu_count() or 1) // count)
    workers = [remote.remote(build(threads), ledger) for _ in range(count)]
    try:
        yield from _drive(workers, list(units))
    finally:
        for worker in workers:
            ray.kill(worker)


def _drive(workers: Sequence[Any], units: list[Unit]) -> Iterator[dict[str, float]]:
    import ray
    from ray.exceptions import RayActorError

    waiting = list(reversed(units))
    flying: dict[Any, tuple[Any, Any]] = {}
    deaths: dict[Any, int] = dict.fromkeys(workers, 0)

    def hand_out(worker: Any) -> None:
        if waiting:
            unit = waiting.pop()
            flying[worker.run.remote(*unit)] = (worker, unit)

    for _ in range(UNITS_IN_FLIGHT):
        for worker in workers:
            hand_out(worker)
    while flying:
        (ready,), _ = ray.wait(list(flying), num_returns=1)
        worker, unit = flying.pop(ready)
        try:
            counts: dict[str, float] = ray.get(ready)
        except RayActorError as error:
            deaths[worker] += 1
            if deaths[worker] > RESTARTS * UNITS_IN_FLIGHT:
                raise DistillError(
                    f"a harvest worker died {deaths[worker]} times: {str(error).splitlines()[0]}. What it "
                    "had harvested is kept; look for memory pressure (a smaller teacher batch_size, fewer actors), "
                    "then run again"
                ) from error
            waiting.append(unit)
            hand_out(worker)
            continue
        hand_out(worker)
        yield counts
