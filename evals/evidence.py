"""The sections of the report that let a reader check it: labels, sample traces, loading, provenance."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from distill.base.artifacts import Artifact, Inputs
from distill.base.records import Prompt, Trace, Verdict, content_id
from evals.page import Block, Fold, Section, Table, Text, Verbatim, count, duration, listed, percent, shortened
from evals.sections import methods

EVIDENCE_CHARS = 300


def labels(kept: Artifact) -> Section | None:
    """Where our verdicts and the labels of stored traces part ways; None when the traces carry no labels."""
    found = kept.summary["labels"]
    if found is None:
        return None
    apart: dict[str, list[dict[str, Any]]] = {}
    for row in disagreements(kept):
        apart.setdefault(row["task"] or "no task", []).append(row)
    said = Text(
        f"{count(found['labelled'])} traces carry a label of somebody else. Our judge agrees with "
        f"{count(found['agreed'])} of them ({percent(found['agreed'] / max(1, found['labelled']))}); it calls "
        f"{count(found['right_but_labelled_wrong'])} right that are labelled wrong, and does not accept "
        f"{count(found['refused_but_labelled_right'])} that are labelled right. "
        + ("Every disagreement stands below." if apart else "There is no disagreement.")
    )
    folds = [
        Fold(
            f"{task}: {count(len(rows))} disagreements",
            [
                Table(
                    ("Trace", "Label", "Ours", "Evidence"),
                    "nnlw",
                    [
                        [row["trace_id"], "right" if row["label"] else "wrong", row["ours"],
                         shortened(row["evidence"], EVIDENCE_CHARS)]
                        for row in rows
                    ],
                )
            ],
        )
        for task, rows in sorted(apart.items())
    ]  # fmt: skip
    return Section("Agreement with stored labels", [said, *folds])


def disagreements(kept: Artifact) -> Iterator[dict[str, Any]]:
    """The rows of disagreements.jsonl; none when there is no such file."""
    path = kept.path / "disagreements.jsonl"
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)


def samples(inputs: Inputs, kept_samples: int, samples_per_reason: int, shown_chars: int) -> Section:
    """Some kept and some refused traces, chosen by the hash of their id: the same ones every time."""
    kept = inputs["kept"]
    refusals: dict[str, Verdict] = {}
    for verdict in kept.rows(Verdict, "verdicts.parquet"):
        if verdict.verdict != "kept":
            refusals.setdefault(verdict.trace_id, verdict)
    chosen = {"kept": heapq.nsmallest(kept_samples, kept.rows(Trace, "kept.parquet"), key=_lot)}
    refused: dict[str, list[Trace]] = {reason: [] for reason in kept.record.rejected}
    for trace in kept.rows(Trace, "rejected.parquet"):
        group = refused.setdefault(_reason(refusals[trace.id]), [])
        group.append(trace)
        if len(group) > samples_per_reason:
            group.remove(max(group, key=_lot))
    chosen |= {reason: sorted(group, key=_lot) for reason, group in refused.items()}
    wanted = {trace.prompt_id for group in chosen.values() for trace in group}
    prompts = {p.id: p for p in inputs["prompts"].rows(Prompt, "prompts.parquet") if p.id in wanted}
    folds = [
        Fold(
            f"{reason} · {prompts[trace.prompt_id].meta.get('task') or prompts[trace.prompt_id].source} · {trace.id}",
            _trace(trace, prompts[trace.prompt_id], refusals.get(trace.id), shown_chars),
        )
        for reason, group in chosen.items()
        for trace in group
    ]
    note = (
        "Traces as the teacher wrote them, drawn by the hash of their id, not by looks: some that were kept, then some "
        "for each reason of refusal. Control characters are shown as \N{REPLACEMENT CHARACTER}; the middle of "
        "long texts is left out."
    )
    return Section("Sample traces", [Text(note), *folds])


def _lot(trace: Trace) -> str:
    return content_id("report", trace.id)


def _reason(verdict: Verdict) -> str:
    return f"{verdict.filter}: {verdict.reason}"


def _trace(trace: Trace, prompt: Prompt, refusal: Verdict | None, limit: int) -> list[Block]:
    facts = f"Sample {trace.sample_index} of {trace.teacher}, {count(trace.completion_tokens)} tokens, "
    facts += f"finish reason {trace.finish_reason}."
    said: list[Block] = [Text(facts)]
    if refusal is not None:
        evidence = f"{_reason(refusal)}\n{refusal.evidence}" if refusal.evidence else _reason(refusal)
        said.append(Verbatim(shortened(evidence, limit), "Refused because"))
    parts = {"Question": prompt.text, "Reasoning": trace.reasoning, "Answer": trace.answer, "Error": trace.error or ""}
    said += [Verbatim(shortened(text, limit), label) for label, text in parts.items() if text]
    gold = prompt.answer if prompt.answer is not None else "none: the prompt has no gold answer"
    return [*said, Verbatim(shortened(gold, limit), "Gold answer")]


def loading(inputs: Inputs) -> Section:
    """How to use the student from the run's folder."""
    model = f"{inputs['weights'].path.name}/model"
    weights = inputs["weights"].summary
    code = f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{model}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", device_map="auto")
messages = [{{"role": "user", "content": "What is 17 + 25?"}}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**ids.to(model.device))
print(tokenizer.decode(output[0], skip_special_tokens=False))"""
    blocks: list[Block] = [
        Text(
            f"Paths are relative to the run's folder. The student has {count(weights['parameters'])} parameters in "
            f"{weights['dtype']}, in {count(weights['shards'])} safetensors file(s)."
        ),
        Verbatim(code, "With transformers", "python"),
        Verbatim(f"vllm serve {model}", "With vLLM, behind an OpenAI-compatible endpoint", "bash"),
    ]
    copies = [f"{inputs['quantized'].path.name}/{name}" for name in methods(inputs)]
    if copies:
        blocks.append(Text("The quantized copies load in the same way (bitsandbytes must be installed):"))
        blocks.append(Verbatim("\n".join(copies), "Folders of the quantized copies"))
    return Section("Loading the student", blocks)


def provenance(inputs: Inputs) -> Section:
    """Which artifact was made from which, with what."""
    artifacts = [
        [
            artifact.path.name,
            artifact.id,
            ", ".join(artifact.record.identity["inputs"]) or "the configuration",
            count(artifact.record.rows_in),
            count(artifact.record.rows_out),
            duration(artifact.record.seconds),
            artifact.record.finished,
        ]
        for artifact in inputs.values()
    ]
    traces = inputs["traces"].summary
    teacher = traces["teacher"]
    named = Text(
        f"Teacher: {teacher['name']} (kind: {teacher['kind']}). Traces by the name they carry: "
        + listed([f"{name} ({count(number)})" for name, number in traces["teachers"].items()])
        + "."
    )
    return Section(
        "Provenance",
        [
            Table(("Folder", "Id", "Made from", "Rows in", "Rows out", "Time", "Finished"), "nnlrrrn", artifacts),
            named,
            Table(("Source", "Used for", "Licence", "Rows"), "lllr", _licences(inputs)),
            _versions(inputs),
        ],
    )


def _licences(inputs: Inputs) -> list[list[str]]:
    rows = []
    for name, use in (("prompts", "training"), ("questions", "benchmark")):
        found = Counter((p.source, p.licence) for p in inputs[name].rows(Prompt, f"{name}.parquet"))
        rows += [[source, use, licence or "not stated", count(rows_of)] for (source, licence), rows_of in found.items()]
    return rows


def _versions(inputs: Inputs) -> Table:
    """Versions of packages; where stages were made with different ones, all are named."""
    found: dict[str, list[str]] = {}
    for artifact in inputs.values():
        for package, version in artifact.record.versions.items():
            if version not in found.setdefault(package, []):
                found[package].append(version)
    rows = [[package, ", then ".join(versions)] for package, versions in sorted(found.items())]
    return Table(("Package", "Version"), "ll", rows)


def warnings(inputs: Inputs) -> list[str]:
    """What a reader must know before believing any number."""
    found = [
        f"{name} was made with other settings than the present ones and kept as it is (--keep {name}). Changed: "
        + "; ".join(change.replace("config.", f"{name}.", 1) for change in artifact.record.kept_despite)
        for name, artifact in inputs.items()
        if artifact.record.kept_despite
    ]
    found += [
        f"{percent(model['errored'])} of the samples of {name} ended in an error; they count neither as right nor as "
        "wrong."
        for name, model in inputs["scores"].summary["models"].items()
        if model["errored"]
    ]
    return found
