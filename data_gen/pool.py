"""Ray actors that sample, each with a ledger segment of its own: the only file that imports ray for the harvest."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_gen.ledger import Writer
from data_gen.teachers.base import Request, Teacher
from distill.base.errors import DistillError, InputError

Unit = tuple[Sequence[Request], int]  # what is sampled together, and the seed
UNITS_IN_FLIGHT = 2  # for each actor: one at work, one waiting, so that no actor idles between two
RESTARTS = 3


class Sampler:
    """Lives in an actor: samples a unit, makes it durable, and only then tells how it went."""

    def __init__(self, build: Callable[[], Teacher], ledger: Path) -> None:
        self.build = build
        self.teacher: Teacher | None = None
        self.writer = Writer(ledger)

    def run(self, requests: Sequence[Request], seed: int) -> dict[str, float]:
        """Sample one unit; returns counts of the rows that are now durable."""
        # Built here and not in the constructor: Ray passes on what a method raised, of a constructor only the text.
        self.teacher = self.teacher or self.build()
        traces = self.teacher.sample(requests, seed)
        self.writer.append(traces)
        return {
            "rows": len(traces),
            "failed": sum(trace.error is not None for trace in traces),
            "tokens": sum(trace.completion_tokens for trace in traces),
            "usd": sum(trace.cost_usd for trace in traces),
        }


@contextlib.contextmanager
def ray_running(address: str | None) -> Iterator[Any]:
    """The cluster at `address` (or `RAY_ADDRESS`), else Ray on this machine; left again, unless it was joined before.

    Raises:
        InputError: no cluster answers at the address.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)  # importing ray sets it to INFO
    if ray.is_initialized():
        yield ray
        return
    where = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"address": where} if where else {"include_dashboard": False}
    try:
        ray.init(configure_logging=False, log_to_driver=False, **options)
    except ConnectionError as error:
        raise InputError(f"no Ray cluster answers at {where}: {error}; check traces.ray_address") from None
    try:
        yield ray
    finally:
        ray.shutdown()


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
        InputError: the cluster is not there, or has not the GPUs.
        DistillError: an actor died more often than it may be restarted.
    """
    with ray_running(address) as ray:
        resources = ray.cluster_resources()
        count = _places(resources, min(actors, max(1, len(units))), gpus_per_actor)
        share = min(1.0, float(resources.get("CPU", 1)) / count)
        remote = ray.remote(num_cpus=share, num_gpus=gpus_per_actor, max_restarts=RESTARTS, max_task_retries=0)(Sampler)
        threads = max(1, (os.cpu_count() or 1) // count)
        workers = [remote.remote(build(threads), ledger.resolve()) for _ in range(count)]
        try:
            yield from _drive(workers, list(units))
        finally:
            for worker in workers:
                ray.kill(worker)


def _places(resources: dict[str, float], actors: int, gpus_per_actor: float) -> int:
    """How many actors the cluster can hold at once; more would wait for ever, and their share of the work with them."""
    if gpus_per_actor == 0:
        return actors
    gpus = resources.get("GPU", 0)
    if gpus < gpus_per_actor:
        raise InputError(
            f"traces.gpus_per_actor is {gpus_per_actor:g}, but Ray has {gpus:g} GPUs; set it to 0 to sample on CPUs, "
            "or join a cluster with traces.ray_address"
        )
    return min(actors, int(gpus / gpus_per_actor))


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
