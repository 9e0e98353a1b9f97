"""A model that writes: loading, seeded sampling, batches that long thoughts do not hold up.

What lm-eval's own loop does not give is kept here: token counts, whether the model stopped by itself, samples that
do not depend on the batch they were drawn in.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from distill.base.chat import load_tokenizer, stop_token_id, tokenizer_problems
from distill.base.errors import DistillError, InputError, loading
from distill.base.fingerprint import fingerprint
from distill.base.records import content_id
from evals.outcomes import Completion

SMALL_MODEL = 50_000_000
NUCLEUS = 128
LARGEST_BATCH = 128
MEMORY_SHARE = 0.3
FEW = 8
"""Batches of so few run to their end: splitting them saves less than reading the text again costs."""
CHATTY = ("lm_eval", "lm-eval", "datasets", "bitsandbytes", "transformers")

Tell = Callable[[int, int, int], None]
"""Called with completions done, completions in all, tokens generated so far."""


@dataclass(frozen=True)
class Sampling:
    """How every model is sampled; part of the protocol."""

    k: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be scored."""

    name: str
    model: PreTrainedModel
    tokenizer: Any

    @property
    def window(self) -> int:
        """Prompt and completion together must fit into this many tokens."""
        return window_of(self.model.config)

    @property
    def template_digest(self) -> str:
        """Names the chat template, so that scores taken with another one can be told apart."""
        return fingerprint(str(self.tokenizer.chat_template))


def window_of(config: Any) -> int:
    """How many tokens a model's configuration gives prompt and completion together."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", 2048))


def window(name: str, folder: str, revision: str | None = None) -> int:
    """A model's window from its configuration alone, without its weights.

    Raises:
        FileError: there is no configuration, or it asks for code of its own.
    """
    with quiet(), loading(folder, name):
        return window_of(AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=False))


def load(
    name: str, folder: str, device: str = "auto", tokenizer_folder: str | None = None, revision: str | None = None
) -> Loaded:
    """Load a folder (plain or quantized, as its config.json says) or a hub name, in the type it is stored in.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
        tokenizer_folder: whose tokenizer and template to use when the model's own has no template (base models).
        revision: commit, branch or tag of a hub name.

    Raises:
        FileError: nothing can be loaded from there.
        InputError: neither tokenizer has a usable chat template.
    """
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    with quiet(), loading(folder, name):
        tokenizer = load_tokenizer(folder, revision)
        if tokenizer_folder and not tokenizer.chat_template:
            tokenizer = load_tokenizer(tokenizer_folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            revision=revision,
            dtype="auto",
            device_map={"": place},
            use_safetensors=True,
            trust_remote_code=False,
        )
    problems = tokenizer_problems(tokenizer, name, training=False)
    if problems:
        raise InputError("\n".join(problems))
    return Loaded(name, model.eval(), tokenizer)


@dataclass
class Job:
    """One completion in the making: `ids` is the prompt and what is `made` so far."""

    ids: list[int]
    noise: numpy.random.Generator
    made: list[int] = field(default_factory=list)
    completion: Completion | None = None
    drawn: list[float] = field(default_factory=list)

    def dice(self, step: int) -> float:
        """The uniform number for the token that comes `step` tokens after those that are made."""
        place = len(self.made) + step
        while len(self.drawn) <= place:
            self.drawn += self.noise.random(256).tolist()
        return self.drawn[place]


def complete(loaded: Loaded, jobs: Sequence[Job], sampling: Sampling, batch_size: int, tell: Tell) -> None:
    """Give every job its completion; those that have one already (an error) are left alone."""
    stops = stop_ids(loaded)
    # Prompts of one length share a batch, the longest first: no memory surprise at the end of a long run.
    fresh = sorted((job for job in jobs if job.completion is None), key=lambda job: -len(job.ids))
    waiting: list[Job] = []
    tokens = 0
    while fresh or waiting:
        if fresh and len(waiting) < batch_size:
            batch, fresh = fresh[:batch_size], fresh[batch_size:]
        else:
            waiting.sort(key=lambda job: -len(job.ids))
            batch, waiting = waiting[:batch_size], waiting[batch_size:]
        extend(loaded, batch, sampling, stops)
        waiting += [job for job in batch if job.completion is None]
        tokens += sum(job.completion.tokens for job in batch if job.completion is not None)
        tell(len(jobs) - len(fresh) - len(waiting), len(jobs), tokens)


def extend(loaded: Loaded, jobs: Sequence[Job], sampling: Sampling, stops: list[int]) -> None:
    """Write on until half of the batch is done; the rest is for a later batch, with others that are as long.

    One long thought would otherwise keep a whole batch waiting: budgets are many times the mean length.
    """
    width = max(len(job.ids) for job in jobs)
    pad = loaded.tokenizer.pad_token_id if loaded.tokenizer.pad_token_id is not None else stops[0]
    ids = torch.tensor([[pad] * (width - len(job.ids)) + job.ids for job in jobs])
    mask = torch.tensor([[0] * (width - len(job.ids)) + [1] * len(job.ids) for job in jobs])
    # Every setting is ours: what the model's own generation_config.json asks for would differ between models.
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=min(sampling.max_new_tokens - len(job.made) for job in jobs),
        eos_token_id=stops,
        pad_token_id=pad,
        use_cache=True,
    )
    choose = LogitsProcessorList()
    if sampling.temperature > 0:
        choose.append(SeededSampling(jobs, sampling, loaded.name))
    device = loaded.model.device
    with torch.inference_mode():
        made = loaded.model.generate(
            ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config,
            logits_processor=choose,
            stopping_criteria=StoppingCriteriaList([HalfDone(stops)] if len(jobs) > FEW else []),
        )
    for job, row in zip(jobs, made[:, width:].tolist(), strict=True):
        _take(loaded, job, row, sampling, stops)


def _take(loaded: Loaded, job: Job, row: list[int], sampling: Sampling, stops: list[int]) -> None:
    """Add new tokens to a job, and finish it when it came to a stop token or to the end of its budget."""
    end = next((index for index, token in enumerate(row) if token in stops), None)
    job.made += row[:end]
    job.ids += row[:end]
    if end is None and len(job.made) < sampling.max_new_tokens:
        return
    # Special tokens stay in the text: a tokenizer that calls </think> special would otherwise lose it.
    text = loaded.tokenizer.decode(job.made, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    stopped = end is not None
    job.completion = Completion(text, len(job.made) + stopped, "stop" if stopped else "length")


def fitting_batch(loaded: Loaded, sampling: Sampling) -> int:
    """How many completions at a time: as many as have their keys and values in 30% of the free memory, at most 128."""
    config = loaded.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_a_token = 2 * config.num_hidden_layers * heads * width * loaded.model.dtype.itemsize
    device = loaded.model.device
    if device.type == "cuda":
        free = int(torch.cuda.mem_get_info(device)[0])
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    longest = min(loaded.window, 2 * sampling.max_new_tokens)
    return max(1, min(LARGEST_BATCH, int(MEMORY_SHARE * free / (bytes_a_token * longest))))


def stop_ids(loaded: Loaded) -> list[int]:
    """Tokens that end a completion: the template's, the tokenizer's and those of the model's generation config."""
    own = loaded.model.generation_config.eos_token_id
    found = [stop_token_id(loaded.tokenizer), loaded.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return list(dict.fromkeys(token for token in found if token is not None))


def noise(sampling: Sampling, question: str, sample: int) -> numpy.random.Generator:
    """The dice of one sample of one question: the same for every model, whatever batch it falls into.

    Common random numbers: two models that agree on the probabilities give the same text, so that paired differences
    show the models and not the dice.
    """
    return numpy.random.Generator(numpy.random.Philox(int(content_id("sample", sampling.seed, question, sample), 16)))


class HalfDone(StoppingCriteria):  # type: ignore[misc]
    """Stops a batch when half of its rows have come to a stop token."""

    def __init__(self, stops: Sequence[int]) -> None:
        self.stops, self.ended = torch.tensor(stops), torch.tensor(False)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Token ids (batch, length) -> the same answer for every row, (batch,)."""
        device = input_ids.device
        self.ended = self.ended.to(device) | torch.isin(input_ids[:, -1], self.stops.to(device))
        return (2 * self.ended.sum() >= len(self.ended)).expand(len(self.ended))


class SeededSampling(LogitsProcessor):  # type: ignore[misc]
    """Temperature and nucleus sampling with one uniform number a row and step, by inverting the sorted cumulative sum.

    Leaves one token a row, so that greedy decoding after it takes the sample.
    """

    def __init__(self, jobs: Sequence[Job], sampling: Sampling, name: str) -> None:
        self.jobs, self.sampling, self.name, self.step = jobs, sampling, name, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (batch, vocabulary) -> the same shape, 0 at the chosen token and -inf elsewhere."""
        chance = torch.softmax(scores.float() / self.sampling.temperature, dim=-1)
        # The nucleus of a trained model is small: the whole vocabulary is sorted only when it has to be.
        ranked, order = chance.topk(min(NUCLEUS, chance.shape[-1]), dim=-1)
        if not bool((ranked.sum(dim=-1) >= self.sampling.top_p).all()):
            ranked, order = chance.sort(dim=-1, descending=True)
        if not bool(torch.isfinite(ranked[:, 0]).all()):
            raise DistillError(f"{self.name}: the model's output is not a number (NaN); its weights are broken")
        reached = ranked.cumsum(dim=-1)
        kept = (reached - ranked) < self.sampling.top_p
        mass = torch.where(kept, reached, 0.0).amax(dim=-1)
        dice = torch.tensor([job.dice(self.step) for job in self.jobs], device=scores.device)
        point = dice * mass
        pick = torch.minimum((reached <= point[:, None]).sum(dim=-1), kept.sum(dim=-1) - 1)
        self.step += 1
        chosen = torch.full_like(scores, -torch.inf)
        return chosen.scatter(1, order.gather(1, pick[:, None]), 0.0)


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many CPU threads for torch, and as many as before afterwards; None leaves the choice open."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_few_threads(loaded: Loaded) -> None:
    """One thread for a small model: at 1.7M parameters a step took 12 ms with one, 415 ms with two on busy cores."""
    if sum(parameter.numel() for parameter in loaded.model.parameters()) < SMALL_MODEL:
        torch.set_num_threads(1)


@contextlib.contextmanager
def offline(local: bool) -> Iterator[None]:
    """No question to the hub about a folder on this disk; hub names are left alone."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or local
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No chatter of the libraries: their bars and warnings would break the progress line."""
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
