"""Small trainings for the tests: a mixture of sums, a configuration, one call."""

import io
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tiny import artifact

from distill.base.artifacts import Artifact, Made
from distill.base.progress import Progress
from distill.base.records import Example, write_rows
from distill.train.config import TrainConfig
from distill.train.launch import student

ROOT = Path(__file__).parent.parent


def example(number: int, terms: int) -> Example:
    """A sum with one line of reasoning a term."""
    rng = random.Random(number)
    values = [rng.randint(1, 9) for _ in range(terms)]
    lines, total = [], 0
    for value in values:
        lines.append(f"{total} + {value} = {total + value}")
        total += value
    text = "<think>\n" + "\n".join(lines) + f"\n</think>\n\n{total}"
    question = "Add " + " ".join(map(str, values))
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
    return Example(f"trace{number:04d}", f"prompt{number:04d}", messages, "sums")


def mixture(folder: Path, examples: Iterable[Example]) -> dict[str, Artifact]:
    """The stage's inputs."""
    made = artifact(folder, "mixture", {})
    write_rows(folder / "mixture.parquet", Example, examples)
    return {"mixture": made}


def sums(count: int) -> list[Example]:
    """Traces of unlike lengths."""
    return [example(number, 2 + number % 7) for number in range(count)]


def settings(base: Path, **changes: Any) -> TrainConfig:
    """A quick, exact training on this process alone."""
    plain: dict[str, Any] = {
        "base": str(base), "epochs": 2, "batch_examples": 4, "learning_rate": 1e-3, "precision": "fp32",
        "launcher": "none", "micro_batch_tokens": 256, "threads": 1,
    }  # fmt: skip
    return TrainConfig(**{**plain, **changes})


def train(config: TrainConfig, inputs: dict[str, Artifact], out: Path, told: io.StringIO | None = None) -> Made:
    """The stage, as the runner calls it; what a user would see goes to `told`."""
    out.mkdir(parents=True, exist_ok=True)
    return student(config, inputs, out, Progress("student", told or io.StringIO()))


def weights(out: Path) -> dict[str, Any]:
    """The finished student's tensors."""
    from safetensors.torch import load_file

    (file,) = (out / "final").glob("*.safetensors")
    return dict(load_file(file))


def untimed(out: Path) -> list[dict[str, Any]]:
    """The log without its clock."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in lines]


if __name__ == "__main__":  # a training in a process of its own: CONFIG.json MIXTURE OUT
    given = TrainConfig(**json.loads(Path(sys.argv[1]).read_text()))
    train(given, {"mixture": artifact(Path(sys.argv[2]), "mixture", {})}, Path(sys.argv[3]))
