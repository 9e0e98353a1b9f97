"""What a user can set about the student's training.

Fields marked EXECUTION say where and how the work runs; changing one keeps a finished student. Sums are taken in
another order then, so weights agree to rounding, not to the bit.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill.base.config import EXECUTION, Config, ModelName

Positive = Annotated[int, Field(ge=1)]


class RandomModel(Config):
    """A student without pre-training: a Qwen2 with random weights, for demonstrations and tests."""

    kind: Literal["random"] = "random"
    tokenizer: ModelName
    hidden_size: Positive = 128
    layers: Positive = 4
    heads: Positive = 4
    kv_heads: Positive = 2
    intermediate_size: Positive = 384
    max_position_embeddings: Positive = 1024

    @model_validator(mode="after")
    def _heads_fit(self) -> RandomModel:
        if self.hidden_size % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of twice the heads ({self.heads}), "
                f"and heads a multiple of kv_heads ({self.kv_heads})"
            )
        return self


class LoraConfig(Config):
    """Low-rank adapters. `targets`: names of linear layers, or "all-linear"."""

    rank: Positive = 32
    alpha: Positive = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str | tuple[str, ...] = "all-linear"


class TrainConfig(Config):
    """The `student` stage."""

    base: ModelName | RandomModel = Field(description="folder or hub name of the model to start from, or a random one")
    revision: str | None = Field(None, description="commit, branch or tag of a hub model")
    window: Positive | None = Field(None, description="new max_position_embeddings of the base")
    rope_theta: Annotated[float, Field(gt=0)] | None = Field(None, description="new rotary base, with a wider window")
    method: Literal["full", "lora"] = Field("full", description="train all weights, or adapters beside them")
    lora: LoraConfig = LoraConfig()
    epochs: Positive = Field(3, description="how often each trace is trained, exactly")
    learning_rate: Annotated[float, Field(gt=0)] = Field(4e-5, description="at its peak; 10 times more for LoRA")
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = Field(0.03, description="share of steps with a rising rate")
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="where the cosine ends, of the peak")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="AdamW's, on matrices only")
    grad_clip: Annotated[float, Field(gt=0)] = Field(1.0, description="largest norm of the gradient")
    batch_examples: Positive = Field(
        96, description="traces a step over all workers; as recipes state it, and independent of how traces are packed"
    )
    max_tokens: Positive | None = Field(None, description="longest trace allowed; default: the model's window")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="of the arithmetic; master weights are fp32")
    seed: int = Field(0, description="of the order of traces, new weights and dropout")

    micro_batch_tokens: Annotated[Positive, EXECUTION] = Field(
        32768, description="tokens a worker holds at a time; the batch is accumulated. A longer trace goes alone"
    )
    recompute: Annotated[bool, EXECUTION] = Field(False, description="keep no activations: a quarter less speed")
    zero_stage: Annotated[Literal[0, 1, 2, 3], EXECUTION] = Field(
        0, description="what workers share: 1 optimizer states, 2 gradients too, 3 weights too"
    )
    offload: Annotated[bool, EXECUTION] = Field(False, description="optimizer states in the host's memory")
    launcher: Annotated[Literal["ray", "none"], EXECUTION] = Field("ray", description="none: this very process")
    workers: Annotated[Positive, EXECUTION] = Field(1, description="processes, one a GPU where there are GPUs")
    gpus_per_worker: Annotated[Literal[0, 1] | None, EXECUTION] = Field(None, description="default: 1 if there are any")
    threads: Annotated[Positive | None, EXECUTION] = Field(None, description="CPU threads a worker; default: its share")
    ray_address: Annotated[str | None, EXECUTION] = Field(None, description="of a cluster; default: this machine alone")
    checkpoint_minutes: Annotated[float, Field(ge=0), EXECUTION] = Field(
        15.0, description="most work that a crash can cost"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.method == "lora" and isinstance(self.base, RandomModel):
            raise ValueError("method lora adapts a trained base; random weights need method full")
        if self.offload and self.zero_stage == 0:
            raise ValueError("offload needs zero_stage 1, 2 or 3, which own the optimizer states")
        if self.launcher == "none" and self.workers > 1:
            raise ValueError(f"launcher none runs in one process; workers {self.workers} need launcher ray")
        return self
