"""The sections of the report that say what happened: traces, cost, training, scores, quantization.

Numbers come from the records of finished artifacts; nothing is measured or judged again here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill.base.artifacts import Inputs
from evals import figures
from evals.page import (
    Block,
    Cell,
    Figure,
    Section,
    Table,
    Text,
    count,
    dollars,
    duration,
    megabytes,
    percent,
    points,
)


def funnel(inputs: Inputs) -> Section:
    """From prompts to training examples; who refused what, and of which task."""
    prompts, traces, kept, mixture = (inputs[name].record for name in ("prompts", "traces", "kept", "mixture"))
    read = prompts.rows_in
    rows: list[list[Cell]] = [_step("Prompts read", read, 0, read, "plain")]
    left = read
    for reason, number in prompts.rejected.items():
        rows.append(_step(f"set aside by {reason}", number, left - number, read, "refused"))
        left -= number
    rows.append(_step("Prompts asked", prompts.rows_out, 0, read, "plain"))
    sampled = left = kept.rows_in
    # Stored completions can be fewer than were asked for.
    limit = "" if sampled == traces.summary["samples"] * traces.summary["prompts"] else "at most "
    rows.append(_step(f"Traces ({limit}{traces.summary['samples']} a prompt)", sampled, 0, sampled, "plain"))
    for reason, number in kept.rejected.items():
        rows.append(_step(f"refused by {reason}", number, left - number, sampled, "refused"))
        left -= number
    rows.append(_step("Traces kept", kept.rows_out, 0, sampled, "kept"))
    left = kept.rows_out
    for reason, number in mixture.rejected.items():
        rows.append(_step(f"left out: {reason}", number, left - number, sampled, "refused"))
        left -= number
    rows.append(_step("Training examples", mixture.rows_out, 0, sampled, "kept"))
    failed = traces.summary["failed"]
    blocks: list[Block] = [
        Text(
            "Prompts are counted as shares of the prompts read, traces as shares of all traces. A refused trace is "
            "counted once, under the first filter that refused it. "
            + (f"Failed calls: {count(failed)}; a failed call is a trace too." if failed else "No call failed.")
        ),
        Table(("Step", "Rows", "Share", ""), "lrrn", rows),
        Text(
            f"Of {count(kept.summary['prompts'])} prompts with traces, {count(kept.summary['prompts_kept'])} have at "
            f"least one kept trace; the training mixture holds {count(mixture.summary['prompts'])} prompts and "
            f"{count(mixture.summary['tokens'])} completion tokens."
        ),
    ]
    return Section("From prompts to training examples", [*blocks, *_overlap(kept.summary), *_tasks(kept.summary)])


def _step(name: str, number: int, start: int, whole: int, tone: str) -> list[Cell]:
    share = number / max(1, whole)
    svg = figures.bar(start / max(1, whole), (start + number) / max(1, whole), tone)
    return [name, count(number), percent(share), Figure(svg, "")]


def _overlap(summary: Mapping[str, Any]) -> Iterator[Block]:
    if not summary["overlap"]:
        return
    yield Text(
        f"Filters in use: {', '.join(summary['filters'])}. Which of them refused the same traces "
        '("complete + correct": both did, "correct": that one alone):'
    )
    rows = [[names, count(number)] for names, number in summary["overlap"].items()]
    yield Table(("Refused by", "Traces"), "lr", rows)


def _tasks(summary: Mapping[str, Any]) -> Iterator[Block]:
    rows = [
        [task, count(row["traces"]), count(row["kept"]), percent(row["kept"] / max(1, row["traces"])),
         Figure(figures.bar(0, row["kept"] / max(1, row["traces"]), "kept"), "")]
        for task, row in sorted(summary["by_source"].items())
    ]  # fmt: skip
    yield Text("Kept share by task (by source, where prompts have no task):")
    yield Table(("Task", "Traces", "Kept", "Share kept", ""), "nrrrn", rows)


def cost(inputs: Inputs) -> Section:
    """Tokens and dollars of the harvest, seconds of every stage."""
    traces, accepted = inputs["traces"].record, inputs["kept"].record.rows_out
    tokens = traces.tokens
    parts = {
        "Prompt tokens": tokens["prompt"],
        "Reasoning tokens": tokens["reasoning"],
        "Final answer tokens": max(0, tokens["completion"] - tokens["reasoning"]),
        "All tokens": tokens["prompt"] + tokens["completion"],
    }
    rows: list[list[Cell]] = [
        [name, count(number), _each(number, traces.rows_out), _each(number, accepted)] for name, number in parts.items()
    ]
    rows.append([
        "Dollars", dollars(traces.cost_usd), dollars(traces.cost_usd / max(1, traces.rows_out)),
        dollars(traces.cost_usd / max(1, accepted)),
    ])  # fmt: skip
    note = "An accepted trace bears the cost of the refused ones: the last column divides everything by traces kept."
    if not traces.cost_usd:
        note += " Dollars are 0 because the teacher has no price in the configuration."
    if not parts["All tokens"]:
        note += " Tokens are 0 because the stored completions do not say how many they have."
    spent = {name: artifact.record.seconds for name, artifact in inputs.items()}
    total = sum(spent.values())
    times: list[list[Cell]] = [
        [name, duration(seconds), Figure(figures.bar(0, seconds / max(total, 1e-9), "plain"), "")]
        for name, seconds in spent.items()
    ]
    times.append(["all stages before this report", duration(total), ""])
    return Section(
        "Cost",
        [
            Table(("Spent on the teacher", "All", "A trace", "An accepted trace"), "lrrr", rows),
            Text(note),
            Table(("Stage", "Time", ""), "lrn", times),
        ],
    )


def _each(number: float, among: int) -> str:
    return f"{number / max(1, among):,.1f}"


def training(inputs: Inputs) -> Section:
    """How the student was trained, and its loss."""
    s = inputs["student"].summary
    facts: dict[str, str] = {
        "Base model": s["base"],
        "Method": s["method"],
        "Parameters": f"{count(s['parameters'])}, of which {count(s['trained_parameters'])} trained",
        "Examples": count(s["examples"]),
        "Epochs": f"{s['epochs']:g}",
        "Optimizer steps": count(s["steps"]),
        "Tokens": count(s["tokens"]),
        "Tokens that carry loss": f"{count(s['trained_tokens'])} ({percent(s['trained_share'])})",
        "DeepSpeed ZeRO stage": str(s["zero_stage"]),
        "Precision": s["precision"],
        "Workers": count(s["workers"]),
        "Training time": duration(s["seconds_training"]),
        "Tokens a second": count(s["tokens_per_second"]),
        "Loss": f"{s['loss_first']:.4f} in the first step, {s['loss_last']:.4f} on average over the last ones",
    }
    blocks: list[Block] = [Table(("Setting", "Value"), "nl", [[name, value] for name, value in facts.items()])]
    finite = [point for point in s["curve"] if math.isfinite(point[1])]
    if finite:
        (first, start), (last, end) = finite[0], finite[-1]
        described = f"Training loss by optimizer step: {start:.4f} at step {first}, {end:.4f} at step {last}."
        blocks.append(Figure(figures.curve(finite, "Training loss", described), described))
    return Section("Training", blocks)


def scores(inputs: Inputs) -> Section:
    """Every model on the same questions, then every comparison."""
    summary = inputs["scores"].summary
    ranked = [_model_row(name, model) for name, model in summary["models"].items()]
    k = summary["protocol"]["k"]
    heads = (
        "Model", "pass@1", "95% interval", "0% to 100%", f"pass@{k}", f"majority@{k}",
        "Cut off", "Unknown", "Errored", "Mean tokens", "Size",
    )  # fmt: skip
    blocks: list[Block] = [
        Text(_protocol(summary["protocol"])),
        Table(heads, "nrnnrrrrrrr", ranked),
        Text(
            "pass@1 is the share of right samples. "
            f"pass@{k} is the share of questions with at least one right sample of {k}; majority@{k} the share whose "
            "most frequent answer is right. Cut off: no end within the token limit; it counts as not right. Unknown: "
            "the judge could not decide; it counts as not right. Errored: the question could not be put to the model; "
            "it counts neither way."
        ),
    ]
    return Section("Scores", [*blocks, *_comparisons(summary["comparisons"])])


def _protocol(protocol: Mapping[str, Any]) -> str:
    known = {
        "temperature": "temperature {}", "top_p": "top_p {}", "max_new_tokens": "at most {} new tokens",
        "seed": "seed {}", "task": "task {}", "task_version": "task version {}", "questions_digest": "questions {}",
    }  # fmt: skip
    said = [text.format(protocol[name]) for name, text in known.items() if protocol.get(name) is not None]
    return (
        f"{count(protocol['n'])} questions, {protocol['k']} samples each, {', '.join(said)}. "
        "Intervals are clustered by question: the samples of one question are not independent."
    )


def _model_row(name: str, model: Mapping[str, Any]) -> list[Cell]:
    scored = model["pass_at_1"] is not None
    span: Cell = "not scored"
    drawn: Cell = ""
    if scored:
        span = between(model)
        drawn = Figure(figures.interval(model["pass_at_1"], model["low"], model["high"], (0.0, 1.0)), "")
    tokens = model["mean_tokens"]
    return [
        name, percent(model["pass_at_1"]), span, drawn, percent(model["pass_at_k"]), percent(model["majority_at_k"]),
        percent(model["truncated"]), percent(model["unknown"]), percent(model["errored"]),
        "–" if tokens is None else f"{tokens:.1f}", megabytes(model["bytes"]),
    ]  # fmt: skip


def between(found: Mapping[str, Any]) -> str:
    """The interval of a score in words."""
    return f"{percent(found['low'])} to {percent(found['high'])}"


def _comparisons(found: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    if not found:
        yield Text("No two models were compared.")
        return
    reach = max(0.01, *(max(abs(c["low"]), abs(c["high"])) for c in found))
    rows: list[list[Cell]] = [
        [
            f"{c['b']} against {c['a']}",
            points(c["difference"]),
            f"{points(c['low'])} to {points(c['high'])}",
            Figure(figures.interval(c["difference"], c["low"], c["high"], (-reach, reach), zero=True), ""),
            probability(c["p_holm"]),
            c["verdict"],
            f"{c['better']} / {c['worse']} / {c['equal']}",
            "–" if c["smallest_detectable"] is None else f"{100 * c['smallest_detectable']:.1f}",
        ]
        for c in found
    ]
    scale = f"{points(-reach)} to {points(reach)}"
    heads = ("Compared", "Points", "95% interval", scale, "p", "Verdict", "Better / worse / equal", "Detectable")
    yield Text("Paired comparisons on the same questions. Positive points: the first-named model is better.")
    yield Table(heads, "lrnnrlrr", rows)
    yield Text(
        "p is the chance of a difference at least this large between two equally good models, corrected (Holm) for the "
        'number of comparisons. "Better / worse / equal" counts questions. "Detectable" is the smallest true '
        'difference, in points, that such a comparison finds four times out of five; "not distinguishable" does not '
        'mean "equal".'
    )


def probability(p: float) -> str:
    """A p value as papers print it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def quantization(inputs: Inputs) -> Section:
    """What each method saved, and how far the copy is from its parent."""
    rows: list[list[Cell]] = [
        [
            name, megabytes(m["bytes"]), percent(m["bytes"] / m["parent_bytes"]), count(m["modules"]),
            f"{m['kl']:.5f}", percent(m["top1"]), f"{m['cosine']:.5f}",
        ]
        for name, m in methods(inputs).items()
    ]  # fmt: skip
    if not rows:
        return Section("Quantization", [Text("No quantized copy was made.")])
    heads = ("Method", "Size", "Of its parent", "Modules", "KL", "Same top token", "Cosine")
    return Section(
        "Quantization",
        [
            Table(heads, "nrrrrrr", rows),
            Text(
                "KL is the mean divergence, in nats a token, of the copy's next-token distribution from its parent's; "
                '"same top token" the share of positions where both prefer the same token; cosine the similarity of '
                "the two models' logits. What the copies score stands in the table of scores."
            ),
        ],
    )


def methods(inputs: Inputs) -> dict[str, dict[str, Any]]:
    """What the quantized artifact says of each method, by name."""
    found: dict[str, dict[str, Any]] = inputs["quantized"].summary["methods"]
    return found
