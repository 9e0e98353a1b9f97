"""Models through lm-eval: the only file that imports lm_eval.

lm-eval builds the requests from our task, repeats each k times, filters, judges through `process_results` and
aggregates. Its own generation loop is replaced, because it gives back decoded text only: how many tokens there were
and whether the model stopped by itself are lost, stop strings fire inside the thought, prompts that do not fit are
cut from the left without a word, and samples depend on the batch they were drawn in.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy
import torch
import transformers
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)

from distill.base.chat import prompt_text, stop_token_id, tokenizer_problems
from distill.base.errors import DistillError, FileError, InputError
from distill.base.fingerprint import fingerprint
from distill.base.records import Outcome, Prompt, content_id
from evals.outcomes import TASK, Completion, outcome

TASK_FILE = Path(__file__).parent / "tasks" / "reasoning.yaml"
SMALL_MODEL = 50_000_000
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
        return int(getattr(self.model.config, "max_position_embeddings", 2048))

    @property
    def template_digest(self) -> str:
        """Names the chat template, so that scores taken with another one can be told apart."""
        return fingerprint(str(self.tokenizer.chat_template))


def load(name: str, folder: str, device: str = "auto", tokenizer_folder: str | None = None) -> Loaded:
    """Load a folder (plain or quantized, as its config.json says) or a hub name, in the type it is stored in.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
        tokenizer_folder: whose tokenizer and template to use when the model's own has no template (base models).

    Raises:
        FileError: nothing can be loaded from there.
        InputError: neither tokenizer has a usable chat template.
    """
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if tokenizer_folder and not tokenizer.chat_template:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", device_map={"": place})
    except (OSError, ValueError) as error:
        raise FileError(f"{name}: no model can be loaded from {folder}: {error}") from error
    problems = tokenizer_problems(tokenizer, name, training=False)
    if problems:
        raise InputError("\n".join(problems))
    return Loaded(name, model.eval(), tokenizer)


def outcomes(
    loaded: Loaded, questions: Sequence[Prompt], sampling: Sampling, work: Path, batch_size: int, tell: Tell
) -> tuple[list[Outcome], dict[str, Any]]:
    """Score one model; returns one row a completion, and lm-eval's own table of metrics.

    Args:
        work: an empty folder for the data set and lm-eval's caches; the caller removes it.
        batch_size: completions at a time; does not change what is sampled (up to floating-point rounding).

    Raises:
        InputError: the token budget leaves no room for a prompt.
    """
    if sampling.max_new_tokens >= loaded.window:
        raise InputError(
            f"{loaded.name}: scores.max_new_tokens is {sampling.max_new_tokens}, but prompt and answer together must "
            f"fit into the model's window of {loaded.window} tokens; set it to {loaded.window // 2} or less"
        )
    task = _write_task(loaded, questions, sampling, work)
    lm = SeededLM(loaded, sampling, batch_size, tell)
    # Its bars cannot be switched off by itself; our progress keeps the stream that it was made with.
    with quiet(), _local_data(work), contextlib.redirect_stderr(io.StringIO()):
        results = simple_evaluate(
            model=lm,
            tasks=[TASK],
            task_manager=TaskManager(include_path=str(task.parent), include_defaults=False),
            bootstrap_iters=0,
            log_samples=True,
            random_seed=sampling.seed,
            numpy_random_seed=sampling.seed,
            torch_random_seed=sampling.seed,
            fewshot_random_seed=sampling.seed,
        )
    rows = [
        outcome(sample["doc"], loaded.name, index, completion)
        for sample in results["samples"][TASK]
        for index, completion in enumerate(sample["resps"][0])
    ]
    return rows, {key: value for key, value in results["results"][TASK].items() if isinstance(value, float)}


def _write_task(loaded: Loaded, questions: Sequence[Prompt], sampling: Sampling, work: Path) -> Path:
    """The data set as this model sees it, and a task file that includes ours and says what is particular to the run."""
    work.mkdir(parents=True, exist_ok=True)
    data = work / "questions.jsonl"
    with data.open("w", encoding="utf-8") as file:
        for question in questions:
            row = {
                "id": question.id,
                "prompt": prompt_text(loaded.tokenizer, question.messages),
                "answer": question.answer,
                "kind": question.answer_kind,
            }
            file.write(json.dumps(row) + "\n")
    task = work / "task" / "run.yaml"
    task.parent.mkdir(exist_ok=True)
    particular = {
        "include": str(TASK_FILE),
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(work / "datasets")},
        "repeats": sampling.k,
        "generation_kwargs": {
            "until": [],
            "do_sample": sampling.temperature > 0,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_gen_toks": sampling.max_new_tokens,
        },
    }
    task.write_text(json.dumps(particular), encoding="utf-8")  # JSON is YAML
    return task


class SeededLM(HFLM):  # type: ignore[misc]
    """lm-eval's model of a Hugging Face model, with a generation loop that keeps what it knows of a completion."""

    def __init__(self, loaded: Loaded, sampling: Sampling, batch_size: int, tell: Tell) -> None:
        with quiet():
            super().__init__(
                pretrained=loaded.model,
                tokenizer=loaded.tokenizer,
                batch_size=batch_size,
                max_length=loaded.window,
                add_bos_token=False,
            )
        self.loaded, self.sampling, self.tell = loaded, sampling, tell
        self.stops = stop_ids(loaded)

    def get_model_info(self) -> dict[str, Any]:
        """Nothing: lm-eval would ask the hub for the revision of a model that is in memory."""
        return {}

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[Completion]:
        """A `Completion` for each request, in order; a prompt that does not fit gives one with finish "error"."""
        seen: dict[str, int] = {}
        jobs: list[tuple[int, list[int], int]] = []
        done: dict[int, Completion] = {}
        for position, request in enumerate(requests):
            question = request.doc["id"]
            sample = seen[question] = seen.get(question, -1) + 1
            ids = self.tokenizer(request.args[0], add_special_tokens=False)["input_ids"]
            room = self.loaded.window - self.sampling.max_new_tokens
            if len(ids) > room:
                note = f"the prompt has {len(ids)} tokens; window less max_new_tokens leaves {room}"
                done[position] = Completion("", 0, "error", note)
            else:
                jobs.append((position, ids, noise_seed(self.sampling.seed, question, sample)))
        # Prompts of one length share a batch, the longest first: no memory surprise at the end of a long run.
        jobs.sort(key=lambda job: -len(job[1]))
        size, tokens = int(self.batch_size_per_gpu), 0
        for start in range(0, len(jobs), size):
            batch = jobs[start : start + size]
            completions = self._complete([job[1] for job in batch], [job[2] for job in batch])
            done |= {job[0]: completion for job, completion in zip(batch, completions, strict=True)}
            tokens += sum(completion.tokens for completion in completions)
            self.tell(len(done), len(requests), tokens)
        return [done[position] for position in range(len(requests))]

    def _complete(self, prompts: list[list[int]], seeds: list[int]) -> list[Completion]:
        """Completions of one batch of prompts (token ids), left-padded."""
        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.stops[0]
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        budget = self.sampling.max_new_tokens
        # Every setting is ours: what the model's own generation_config.json asks for would differ between models.
        config = GenerationConfig(
            do_sample=False, max_new_tokens=budget, eos_token_id=self.stops, pad_token_id=pad, use_cache=True
        )
        choose = LogitsProcessorList()
        if self.sampling.temperature > 0:
            choose.append(SeededSampling(seeds, self.sampling, self.loaded.name))
        device = self.loaded.model.device
        with torch.inference_mode():
            made = self.loaded.model.generate(
                ids.to(device), attention_mask=mask.to(device), generation_config=config, logits_processor=choose
            )
        return [self._completion(row) for row in made[:, width:].tolist()]

    def _completion(self, row: list[int]) -> Completion:
        stops = set(self.stops)
        end = next((index for index, token in enumerate(row) if token in stops), None)
        # Special tokens stay in the text: a tokenizer that calls </think> special would otherwise lose it.
        text = self.tokenizer.decode(row[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if end is None:
            return Completion(text, len(row), "length")
        return Completion(text, end + 1, "stop")


def stop_ids(loaded: Loaded) -> list[int]:
    """Tokens that end a completion: the template's, the tokenizer's and those of the model's generation config."""
    own = loaded.model.generation_config.eos_token_id
    found = [stop_token_id(loaded.tokenizer), loaded.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return list(dict.fromkeys(token for token in found if token is not None))


def noise_seed(seed: int, question: str, sample: int) -> int:
    """The seed of one sample of one question: the same for every model, whatever batch it falls into.

    Common random numbers: two models that agree on the probabilities give the same text, so that paired differences
    show the models and not the dice.
    """
    return int(content_id("sample", seed, question, sample), 16)


class SeededSampling(LogitsProcessor):  # type: ignore[misc]
    """Temperature and nucleus sampling with one uniform number a row and step, by inverting the sorted cumulative sum.

    Leaves one token a row, so that greedy decoding after it takes the sample.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling, name: str) -> None:
        draws = [numpy.random.Generator(numpy.random.Philox(seed)) for seed in seeds]
        steps = sampling.max_new_tokens
        self.uniform = torch.from_numpy(numpy.stack([draw.random(steps, dtype=numpy.float32) for draw in draws]))
        self.sampling, self.name, self.step = sampling, name, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (batch, vocabulary) -> the same shape, 0 at the chosen token and -inf elsewhere."""
        chance = torch.softmax(scores.float() / self.sampling.temperature, dim=-1)
        ranked, order = chance.sort(dim=-1, descending=True, stable=True)
        if not bool(torch.isfinite(ranked[:, 0]).all()):
            raise DistillError(f"{self.name}: the model's output is not a number (NaN); its weights are broken")
        reached = ranked.cumsum(dim=-1)
        kept = (reached - ranked) < self.sampling.top_p
        mass = torch.where(kept, reached, 0.0).amax(dim=-1)
        point = self.uniform[:, self.step].to(scores.device) * mass
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


@contextlib.contextmanager
def _local_data(work: Path) -> Iterator[None]:
    """The data set is a local file: nothing to ask the hub for, nothing to leave in the user's caches."""
    before = datasets.config.HF_DATASETS_OFFLINE, datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_OFFLINE, datasets.config.HF_DATASETS_CACHE = True, work / "datasets"
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_OFFLINE, datasets.config.HF_DATASETS_CACHE = before
