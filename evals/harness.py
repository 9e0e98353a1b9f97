"""Models through lm-eval: the only file that imports lm_eval.

lm-eval builds the requests from our task, repeats each k times, filters, judges through `process_results` and
aggregates. Its own generation loop is replaced (`evals/generate.py`), because it gives back decoded text only: how
many tokens there were and whether the model stopped by itself are lost, stop strings fire inside the thought, prompts
that do not fit are cut from the left without a word, and samples depend on the batch they were drawn in.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from distill.base.chat import prompt_text
from distill.base.errors import InputError
from distill.base.records import Outcome, Prompt
from evals.generate import Job, Loaded, Sampling, Tell, complete, noise, quiet
from evals.outcomes import TASK, Completion, outcome

TASK_FILE = Path(__file__).parent / "tasks" / "reasoning.yaml"


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

    def get_model_info(self) -> dict[str, Any]:
        """Nothing: lm-eval would ask the hub for the revision of a model that is in memory."""
        return {}

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[Completion]:
        """A `Completion` for each request, in order; a prompt that does not fit gives one with finish "error"."""
        jobs = self._jobs(requests)
        complete(self.loaded, jobs, self.sampling, int(self.batch_size_per_gpu), self.tell)
        return [job.completion for job in jobs if job.completion is not None]

    def _jobs(self, requests: Sequence[Any]) -> list[Job]:
        seen: dict[str, int] = {}
        jobs = []
        room = self.loaded.window - self.sampling.max_new_tokens
        for request in requests:
            question = request.doc["id"]
            sample = seen[question] = seen.get(question, -1) + 1
            job = Job(
                self.tokenizer(request.args[0], add_special_tokens=False)["input_ids"],
                noise(self.sampling, question, sample),
            )
            if len(job.ids) > room:
                note = f"the prompt has {len(job.ids)} tokens; window less max_new_tokens leaves {room}"
                job.completion = Completion("", 0, "error", note)
            jobs.append(job)
        return jobs


@contextlib.contextmanager
def _local_data(work: Path) -> Iterator[None]:
    """The data set is a local file: nothing to ask the hub for, nothing to leave in the user's caches."""
    before = datasets.config.HF_DATASETS_OFFLINE, datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_OFFLINE, datasets.config.HF_DATASETS_CACHE = True, work / "datasets"
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_OFFLINE, datasets.config.HF_DATASETS_CACHE = before
