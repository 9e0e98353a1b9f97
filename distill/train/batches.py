"""Which traces are trained in which step, on which worker, in which pack: a pure function of data and seed.

The traces of a step depend on the seed alone; how they are packed depends on the workers and their memory too.
Every worker gets equally many packs (ZeRO-2 and 3 meet in each backward pass), balanced by arithmetic, not tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch

from distill.train.attention import Traces
from distill.train.tokens import Tokens


@dataclass(frozen=True)
class Pack:
    """Traces that go through the model together. An idle pack keeps a worker in step and counts for nothing."""

    traces: tuple[int, ...]
    idle: bool = False


@dataclass(frozen=True)
class Batch:
    """A pack as tensors on a device.

    `ids`, `positions`: [1, tokens]; `traces`: where they lie; `before`: [labels], the index of the token before each
    trained token; `labels`: [labels], the trained tokens; `weight`: 0 for an idle pack, else 1.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    traces: Traces
    before: torch.Tensor
    labels: torch.Tensor
    weight: float


@dataclass(frozen=True)
class Step:
    """One optimizer step. `tokens` and `trained` are counted over all workers; `packs` are this worker's."""

    number: int
    epoch: int
    traces: tuple[int, ...]
    packs: tuple[Pack, ...]
    tokens: int
    trained: int
    idle_tokens: int


@dataclass(frozen=True)
class Plan:
    """All steps of a training.

    Args:
        examples: traces a step, over all workers; the steps of an epoch differ by one trace at most.
        capacity: tokens a pack.
        span: length at which a trace's attention costs as much as the rest of the model.
    """

    data: Tokens
    epochs: int
    examples: int
    capacity: int
    span: float
    seed: int
    rank: int = 0
    workers: int = 1
    lengths: list[int] = field(init=False)
    epoch_steps: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", self.data.lengths)
        object.__setattr__(self, "epoch_steps", math.ceil(len(self.lengths) / self.examples))

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.epochs * self.epoch_steps

    def from_step(self, first: int) -> Iterator[Step]:
        """The steps after the first `first` ones; nothing is replayed to get there."""
        order: list[int] = []
        for number in range(first, self.steps):
            epoch, place = divmod(number, self.epoch_steps)
            if not order or place == 0:
                order = list(range(len(self.lengths)))
                Random(f"{self.seed}/{epoch}").shuffle(order)
            cut = [len(order) * bound // self.epoch_steps for bound in (place, place + 1)]
            yield self._step(number, epoch, tuple(order[cut[0] : cut[1]]))

    def _step(self, number: int, epoch: int, traces: tuple[int, ...]) -> Step:
        packs = pack(traces, self.lengths, self.capacity, self.span, self.workers)
        return Step(
            number=number,
            epoch=epoch,
            traces=traces,
            packs=tuple(packs[self.rank :: self.workers]),
            tokens=sum(self.lengths[trace] for trace in traces),
            trained=sum(self.data.labels[trace] for trace in traces),
            idle_tokens=sum(self.lengths[trace] for item in packs if item.idle for trace in item.traces),
        )


def pack(traces: Sequence[int], lengths: Sequence[int], capacity: int, span: float, workers: int) -> list[Pack]:
    """Fewest packs that hold the traces, a multiple of `workers` of them, each `workers` in a row of like cost.

    A trace longer than `capacity` gets a pack of its own.
    """
    longest_first = sorted(traces, key=lambda trace: (-lengths[trace], trace))
    cost = {trace: lengths[trace] * (1 + lengths[trace] / span) for trace in traces}
    rounds = math.ceil(sum(min(lengths[trace], capacity) for trace in traces) / (capacity * workers))
    while (bins := _fill(longest_first, lengths, cost, capacity, rounds * workers)) is None:
        rounds += 1
    bins.sort(key=lambda found: -sum(cost[trace] for trace in found))
    filler = Pack((longest_first[-1],), idle=True)
    return [Pack(tuple(sorted(found))) if found else filler for found in bins]


def _fill(
    longest_first: Sequence[int], lengths: Sequence[int], cost: dict[int, float], capacity: int, count: int
) -> list[list[int]] | None:
    """Longest trace first, each into the cheapest pack with room; None when one finds no room."""
    bins: list[list[int]] = [[] for _ in range(count)]
    room = [capacity] * count
    load = [0.0] * count
    for trace in longest_first:
        fitting = [i for i in range(count) if room[i] >= lengths[trace] or not bins[i]]
        if not fitting:
            return None
        chosen = min(fitting, key=lambda i: (load[i], i))
        bins[chosen].append(trace)
        room[chosen] -= lengths[trace]
        load[chosen] += cost[trace]
    return bins


def to_batch(data: Tokens, item: Pack, device: torch.device) -> Batch:
    """A pack's tensors, made on the host and copied at once."""
    pieces, masks = data.of(item.traces)
    lengths = [len(piece) for piece in pieces]
    ids = torch.from_numpy(np.concatenate(pieces).astype(np.int64))
    trained = torch.from_numpy(np.concatenate(masks))
    offsets = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    positions = torch.cat([torch.arange(length) for length in lengths])
    # A trace's first token would be predicted from the trace before it.
    chosen = (trained & (positions > 0)).nonzero()[:, 0]
    return Batch(
        ids=ids[None].to(device, non_blocking=True),
        positions=positions[None].to(device, non_blocking=True),
        traces=Traces(tuple(lengths), offsets.to(device, non_blocking=True)),
        before=(chosen - 1).to(device, non_blocking=True),
        labels=ids[chosen].to(device, non_blocking=True),
        weight=0.0 if item.idle else 1.0,
    )
