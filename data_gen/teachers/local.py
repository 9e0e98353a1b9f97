"""A transformers model in the worker's own process, on its CPU or GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from data_gen.teachers.base import Request, Sampling
from distill.base import chat
from distill.base.config import EXECUTION, Config, ModelName
from distill.base.errors import InputError
from distill.base.records import Trace


class LocalTeacher(Config):
    """`model`: a folder or a hub name. Prices are in dollars a million tokens (of your own machine's hours).

    A price does not change a trace: traces keep the price at which they were sampled. `batch_size` decides which
    random numbers a sample gets, not how it is distributed.
    """

    kind: Literal["local"] = "local"
    model: ModelName
    revision: str | None = None
    prompt_price: Annotated[float, EXECUTION] = Field(0.0, ge=0)
    completion_price: Annotated[float, EXECUTION] = Field(0.0, ge=0)
    batch_size: Annotated[int, EXECUTION] = Field(64, ge=1)

    @property
    def name(self) -> str:
        """How traces name their teacher."""
        return Path(self.model).name if Path(self.model).is_dir() else self.model

    @property
    def scorable(self) -> str | None:
        """The model that the scores stage can load beside the student."""
        return self.model

    def placed(self) -> LocalTeacher:
        """The same teacher for a worker in another folder."""
        return self.model_copy(update={"model": str(Path(self.model).resolve())}) if Path(self.model).is_dir() else self


class LocalSampler:
    """Answers batches with `generate`, prompts padded on the left."""

    def __init__(self, config: LocalTeacher, sampling: Sampling, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(max(1, threads))
        self._torch = torch
        self.config = config
        self.sampling = sampling
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = chat.load_tokenizer(config.model, config.revision)
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token  # masked, so any token does
        self.model = AutoModelForCausalLM.from_pretrained(
            config.model,
            revision=config.revision,
            dtype="auto",
            device_map="auto" if self.device == "cuda" else None,
            trust_remote_code=False,
            use_safetensors=True,
        ).eval()
        stops = self.model.generation_config.eos_token_id
        self.stops = {chat.stop_token_id(self.tokenizer), *(stops if isinstance(stops, list) else [stops])} - {None}

    def sample(self, requests: Sequence[Request], seed: int) -> list[Trace]:
        torch = self._torch
        texts = [chat.prompt_text(self.tokenizer, request.prompt.messages) for request in requests]
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(self.device)
        torch.manual_seed(seed)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], do_sample=True, top_k=0,
                temperature=self.sampling.temperature, top_p=self.sampling.top_p,
                max_new_tokens=self.sampling.max_new_tokens, eos_token_id=sorted(self.stops),
                pad_token_id=self.tokenizer.pad_token_id,
            )  # fmt: skip
        width = batch["input_ids"].shape[1]
        used = batch["attention_mask"].sum(dim=1).tolist()
        rows = zip(requests, texts, used, output[:, width:].tolist(), strict=True)
        return [self._trace(request, text, int(n), ids, seed) for request, text, n, ids in rows]

    def _trace(self, request: Request, prompt: str, prompt_tokens: int, ids: list[int], seed: int) -> Trace:
        end = next((i for i, token in enumerate(ids) if token in self.stops), None)
        body = ids if end is None else ids[:end]
        text = self.tokenizer.decode(body, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        parts = chat.split_thought(text, opened=prompt.rstrip().endswith(chat.OPEN))
        thought = self.tokenizer(parts.reasoning, add_special_tokens=False)["input_ids"]
        completion_tokens = len(body) + (end is not None)
        price = self.config.prompt_price * prompt_tokens + self.config.completion_price * completion_tokens
        return Trace(
            id=request.id, prompt_id=request.prompt.id, sample_index=request.sample_index,
            reasoning=parts.reasoning, answer=parts.answer, finish_reason="length" if end is None else "stop",
            prompt_tokens=prompt_tokens, reasoning_tokens=len(thought), completion_tokens=completion_tokens,
            cost_usd=price / 1e6, teacher=self.config.name, sampling=self.sampling.identity(), seed=seed,
            attempts=1, thought=parts.thought, closed=parts.closed, meta={"worker": os.getpid()},
        )  # fmt: skip


def check(config: LocalTeacher, sampling: Sampling) -> list[str]:
    """Problems with the teacher's folder, tokenizer, template and window."""
    from transformers import AutoConfig

    try:
        tokenizer = chat.load_tokenizer(config.model, config.revision)
        found = AutoConfig.from_pretrained(config.model, revision=config.revision, trust_remote_code=False)
    except InputError as error:
        return [str(error)]
    except (OSError, ValueError) as error:
        return [f"{config.model}: no model configuration can be read ({str(error).splitlines()[0]})"]
    problems = chat.tokenizer_problems(tokenizer, config.model, training=False)
    window = getattr(found.get_text_config(), "max_position_embeddings", None)
    if window is not None and sampling.max_new_tokens >= window:
        problems.append(
            f"traces.sampling.max_new_tokens is {sampling.max_new_tokens}, but {config.model} has a window of {window} "
            "tokens for prompt and answer together; choose a smaller number"
        )
    return problems
