"""Make the embedded default models from nothing: a tokenizer, a reasoning teacher, a smaller base student.

    python -m students.embedded.make [--only teacher|base] [--seed 0] [--threads 2] [--out students/embedded]

Each model is trained on text from corpus.py, scored on fresh problems, and written with its tokenizer to
OUT/teacher or OUT/base; what was measured goes to OUT/made.json. Files are replaced only when complete.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, set_seed

from distill.base.gym import DEMO_TASKS, MAKING
from students.embedded import corpus
from students.embedded.tokenizer import END, PAD, train_tokenizer

EVAL_OFFSET = len(MAKING) - 100_000


@dataclass(frozen=True)
class Recipe:
    """One model's shape and training."""

    hidden: int
    inner: int
    layers: int
    heads: int
    offset: int
    textbook: float
    tokens: int
    lr: float = 4e-3
    batch: int = 32


RECIPES = {
    "teacher": Recipe(128, 384, 5, 4, offset=0, textbook=0.4, tokens=8_000_000),
    "base": Recipe(128, 384, 3, 4, offset=2_000_000, textbook=0.75, tokens=11_000_000),
}


def make_tokenizer(seed: int) -> Any:
    """The tokenizer both models share; made again for each, and equal by its seed."""
    rng = Random(seed)
    chats = [f"{q}\n{a}" for q, a in islice(corpus.chats(corpus.worked, rng, offset=1_000_000), 2000)]
    roles = ["user\nassistant\nsystem\n"] * 100
    pages = list(islice(corpus.textbook(rng), 2000))
    return train_tokenizer([text.replace("<think>", "").replace("</think>", "") for text in chats + roles + pages])


def make_model(recipe: Recipe, tokenizer: Any) -> Qwen2ForCausalLM:
    """An untrained Qwen2 of the recipe's shape."""
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.inner,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.8,
        top_p=1.0,
        top_k=0,
        max_new_tokens=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def documents(name: str, recipe: Recipe, tokenizer: Any, rng: Random) -> Iterator[str]:
    """Endless training text of one model: chats in its way of answering, among textbook pages."""
    chats = corpus.chats(corpus.worked if name == "teacher" else corpus.direct, rng, recipe.offset)
    pages = corpus.textbook(rng)
    while True:
        if rng.random() < recipe.textbook:
            yield next(pages) + PAD
        else:
            question, answer = next(chats)
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            yield tokenizer.apply_chat_template(turns, tokenize=False).removesuffix("\n")


def batches(texts: Iterator[str], tokenizer: Any, size: int, rng: Random) -> Iterator[tuple[Any, Any]]:
    """Endless (ids, labels) of texts of like length: padded on the right, causal attention needs no mask."""
    while True:
        rows = sorted(tokenizer(list(islice(texts, size * 32)))["input_ids"], key=len)
        groups = [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(groups)
        for group in groups:
            width = max(map(len, group))
            ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in group])
            labels = torch.tensor([row + [-100] * (width - len(row)) for row in group])
            yield ids, labels


def optimizers(model: PreTrainedModel, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, which it teaches in fewer tokens than AdamW, and AdamW for the rest."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def train(model: PreTrainedModel, stream: Iterator[tuple[Any, Any]], recipe: Recipe, log: Any = print) -> int:
    """About `recipe.tokens` tokens of training, with a short warm-up and linear decay of the rate."""
    steppers = optimizers(model, recipe.lr)
    seen, step, started, running = 0, 0, time.monotonic(), 0.0
    model.train()
    while seen < recipe.tokens:
        ids, labels = next(stream)
        rate = recipe.lr * min(1.0, (step + 1) / 50) * max(0.02, 1 - seen / recipe.tokens)
        for group in (group for stepper in steppers for group in stepper.param_groups):
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        seen, step = seen + int((labels != -100).sum()), step + 1
        running = loss.item() if step == 1 else 0.95 * running + 0.05 * loss.item()
        if step % 100 == 0:
            log(
                f"step {step} tokens {seen} loss {running:.4f} seconds {time.monotonic() - started:.0f}",
                flush=True,
            )
    model.eval()
    return seen


def answers(model: PreTrainedModel, tokenizer: Any, questions: list[str], batch: int = 100) -> list[str]:
    """One sampled completion of each question, as text up to and including the end mark if it came."""
    texts: list[str] = []
    for i in range(0, len(questions), batch):
        chats = [[{"role": "user", "content": question}] for question in questions[i : i + batch]]
        prompts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        with torch.inference_mode():
            out: Any = model.generate(**inputs)
        texts += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :])
    return [text.replace(PAD, "") for text in texts]


def interval(right: int, n: int) -> list[float]:
    """Wilson's 95% interval of a share."""
    z, p = 1.96, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [round((middle + sign * half) / (1 + z * z / n), 4) for sign in (-1, 1)]


def evaluate(model: PreTrainedModel, tokenizer: Any, n: int) -> dict[str, Any]:
    """pass@1 at the generation config's temperature on fresh making problems, n of each task."""
    scores: dict[str, Any] = {}
    every, complete, length = 0, 0, 0
    for dataset in DEMO_TASKS:
        asked = list(islice(corpus.making_problems(dataset, EVAL_OFFSET), n))
        texts = answers(model, tokenizer, [problem.question for problem in asked])
        right = 0
        for problem, text in zip(asked, texts, strict=True):
            found = re.fullmatch(r"<think>\n.*\n</think>\n\n.*\\boxed\{(-?\d+)\}[^{}]*" + re.escape(END), text, re.S)
            complete += found is not None
            right += found is not None and int(found[1]) == int(problem.answer)
        length += sum(map(len, tokenizer(texts)["input_ids"]))
        scores[dataset] = {"pass@1": right / n, "n": n, "interval95": interval(right, n)}
        every += right
    total = n * len(DEMO_TASKS)
    scores["all"] = {"pass@1": every / total, "n": total, "interval95": interval(every, total)}
    return scores | {"complete": complete / total, "tokens_per_answer": round(length / total, 1)}


def write(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Save a model and its tokenizer, replacing file by file so that a reader never meets half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        settings = Path(scratch, "tokenizer_config.json")
        # transformers 5 writes a class name of its own here that transformers 4 does not know.
        named = json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
        settings.write_text(json.dumps(named, indent=2) + "\n")
        for path in Path(scratch).iterdir():
            path.chmod(0o644)
            os.replace(path, folder / path.name)


def make(name: str, out: Path, seed: int, n: int, tokens: int | None) -> dict[str, Any]:
    """Train, score and write one model; returns what is to be recorded of it."""
    recipe = RECIPES[name] if tokens is None else Recipe(**asdict(RECIPES[name]) | {"tokens": tokens})
    set_seed(seed)
    rng, started = Random(f"{seed} {name}"), time.monotonic()
    tokenizer = make_tokenizer(seed)
    model = make_model(recipe, tokenizer)
    seen = train(model, batches(documents(name, recipe, tokenizer, rng), tokenizer, recipe.batch, rng), recipe)
    trained = time.monotonic() - started
    scores = evaluate(model, tokenizer, n) if n else {}
    write(model, tokenizer, out / name)
    return {
        "parameters": model.num_parameters(),
        "recipe": asdict(recipe),
        "seed": seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "tokens_seen": seen,
        "train_seconds": round(trained),
        "scores": scores,
    }


def table(made: dict[str, Any]) -> str:
    """What was measured, as a table for the README."""
    lines = [
        "| model | parameters | tokens | seconds | task | pass@1 | 95% interval | n |",
        "|" + " --- |" * 8,
    ]
    for name, one in sorted(made.items()):
        about = f"| {name} | {one['parameters']:,} | {one['tokens_seen']:,} | {one['train_seconds']} "
        for task in (*DEMO_TASKS, "all"):
            score = one["scores"][task]
            low, high = score["interval95"]
            lines.append(f"{about}| {task} | {score['pass@1']:.1%} | {low:.1%} to {high:.1%} | {score['n']} |")
            about = "| | | | "
    notes = []
    for name, one in sorted(made.items()):
        kept, length = one["scores"]["complete"], one["scores"]["tokens_per_answer"]
        how = f"seed {one['seed']}, {one['threads']} thread(s), torch {one['torch']}"
        notes.append(f"- {name}: {kept:.1%} complete, {length} tokens an answer; {how}.")
    return "\n".join([*lines, "", *notes])


def record(name: str, made: dict[str, Any], out: Path) -> None:
    """Put what was measured of one model into OUT/made.json and, where there is one, OUT/README.md."""
    facts, readme = out / "made.json", out / "README.md"
    every = (json.loads(facts.read_text()) if facts.exists() else {}) | {name: made}
    facts.write_text(json.dumps(every, indent=2, sort_keys=True) + "\n")
    if readme.exists() and all(one["scores"] for one in every.values()):
        head, mark, rest = readme.read_text().partition("<!-- measured -->\n")
        tail = rest[rest.index("<!-- /measured -->") :]
        readme.write_text(f"{head}{mark}\n{table(every)}\n\n{tail}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(RECIPES), help="make just this one of the two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--problems", type=int, default=200, help="problems of each task to score on; 0 skips")
    parser.add_argument("--tokens", type=int, help="tokens to train on, not the recipe's; 0 leaves it untrained")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in [args.only] if args.only else list(RECIPES):
        made = make(name, args.out, args.seed, args.problems, args.tokens)
        print(json.dumps({name: made}, indent=2), flush=True)
        record(name, made, args.out)


if __name__ == "__main__":
    main()
