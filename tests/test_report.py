"""The report: what it says is what the artifacts say, and no text of a model can act in it."""

import contextlib
import html
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from distill.base.artifacts import Artifact, Made, append_json, finish_artifact, write_json
from distill.base.progress import Progress
from distill.base.records import Outcome, Prompt, Trace, Verdict, prompt_id, write_rows
from evals.page import Page, Section, Verbatim, fence, markdown
from evals.report import ReportConfig, report, score_table

STAGES = ("questions", "prompts", "traces", "kept", "mixture", "student", "weights", "quantized", "scores")
HOSTILE = (
    "<script>alert(1)</script> <img src=x onerror=alert(1)> </pre></details><style>*{display:none}</style>\n"
    "```\n# out of the fence\n````\n~~~~~\n]]> --> {{ 7*7 }} [link](http://evil.example) ![i](http://evil.example/i.png)\n"
    "\u202egnp.exe \x1b[31mred\x1b[0m \x00 | cell | <b>bold</b> &lt;kept&gt; \U0001f600"
)
MODELS = {"teacher": 0.81, "base": 0.31, "student": 0.523, "student-nf4": 0.508, "student-int8": 0.52}
SIZES = {"teacher": 8.1e6, "base": 2.4e6, "student": 1.2e6, "student-nf4": 0.5e6, "student-int8": 0.8e6}


def prompt(number: int) -> Prompt:
    task = "leg_counting" if number % 2 else "chain_sum"
    messages = [{"role": "user", "content": f"Question {number}: what is {number} + {number}? {HOSTILE}"}]
    return Prompt(prompt_id(messages), messages, str(2 * number), "math", f"gym/{task}", "Apache-2.0", {"task": task})


def trace(of: Prompt, index: int, **fields: Any) -> Trace:
    text = {"reasoning": f"Let me see.\n{HOSTILE}", "answer": f"\\boxed{{{of.answer}}} {HOSTILE}", **fields}
    return Trace(
        id=f"{of.id[:12]}{index:04d}", prompt_id=of.id, sample_index=index, finish_reason="stop", prompt_tokens=20,
        reasoning_tokens=80, completion_tokens=100, cost_usd=0.001, teacher="big<b>teacher", sampling={}, seed=0,
        attempts=1, **text,
    )  # fmt: skip


def model_score(name: str) -> dict[str, Any]:
    share = MODELS[name]
    return {
        "n": 100, "k": 4, "samples": 400, "pass_at_1": share, "low": share - 0.06, "high": share + 0.07,
        "pass_at_k": share + 0.1, "majority_at_k": share + 0.02, "truncated": 0.01, "unknown": 0.0025, "errored": 0.0,
        "mean_tokens": 91.25, "quantization": name.partition("-")[2] or None, "bytes": SIZES[name], "dtype": "bfloat16",
        "seconds": 3.0,
    }  # fmt: skip


def comparison(a: str, b: str, verdict: str) -> dict[str, Any]:
    difference = MODELS[b] - MODELS[a]
    return {
        "a": a, "b": b, "questions": 100, "difference": difference, "low": difference - 0.041,
        "high": difference + 0.042, "p": 0.0001, "p_holm": 0.0004, "better": 40, "worse": 10, "equal": 50,
        "margin": 0.02, "within_margin": False, "smallest_detectable": 0.061, "verdict": verdict,
        "flips": {"right_to_wrong": 3, "wrong_to_right": 20},
    }  # fmt: skip


def scores_summary(teacher: bool = True) -> dict[str, Any]:
    found = [
        comparison("base", "student", "better"), comparison("teacher", "student", "worse"),
        comparison("student", "student-nf4", "not distinguishable"),
        comparison("student", "student-int8", "equivalent within ±2 points"),
    ]  # fmt: skip
    names = [name for name in MODELS if teacher or name != "teacher"]
    return {
        "protocol": {
            "n": 100, "k": 4, "temperature": 0.8, "top_p": 1.0, "max_new_tokens": 224, "seed": 0,
            "task": "distill_reasoning", "questions_digest": "0123456789abcdef", "template_digest": {},
        },
        "models": {name: model_score(name) for name in names},
        "comparisons": [c for c in found if c["a"] in names],
    }  # fmt: skip


STUDENT = {
    "base": "students/embedded/base", "base_folder": True, "method": "full", "steps": 400, "epochs": 8,
    "examples": 90, "tokens": 120_000, "trained_tokens": 90_000, "trained_share": 0.75, "parameters": 600_000,
    "trained_parameters": 600_000, "zero_stage": 1, "precision": "float32", "workers": 2, "loss_first": 3.125,
    "loss_last": 0.25, "curve": [[step, 0.2 + 3 / (1 + step / 20)] for step in range(1, 401, 2)],
    "seconds_training": 61.0, "tokens_per_second": 1967.2,
}  # fmt: skip
QUANTIZED = {
    name: {"bytes": SIZES[f"student-{name}"], "parent_bytes": 1.2e6, "modules": 14, "positions": 512, "cosine": 0.9987,
           "kl": 0.00321, "top1": 0.981}
    for name in ("nf4", "int8")
}  # fmt: skip


class Run:
    """A run folder with finished artifacts of real row types, from hostile prompts and traces."""

    def __init__(self, root: Path, teacher: bool = True, disagreements: int = 0) -> None:
        self.root = root
        self.inputs: dict[str, Artifact] = {}
        prompts = [prompt(number) for number in range(1, 31)]
        traces = [trace(of, index) for of in prompts for index in range(3)]
        traces[0] = replace(traces[0], error=f"HTTP 500 {HOSTILE}", reasoning="", answer="", finish_reason="error")
        self.refused = {t.id: ("complete", "the call failed") for t in traces[:1]}
        self.refused |= {t.id: ("correct", "wrong answer") for t in traces[1:20]}
        self._rows("questions", Prompt, [prompt(1000)], Made(1, 1, {}, {"by_source": {}}))
        aside = {"contamination: a benchmark question": 2}
        self._rows("prompts", Prompt, prompts, Made(32, 30, aside, {"by_source": {}}))
        told = {"kind": "local", "name": "big<b>teacher", "model": "teacher" if teacher else None}
        harvest = {"teacher": told, "teachers": {told["name"]: 90}, "samples": 3, "sampling": {}, "prompts": 30, "failed": 1}
        tokens = {"prompt": 1800, "reasoning": 7200, "completion": 9000}
        self._rows("traces", Trace, traces, Made(30, 90, {}, harvest, 0.09, tokens))
        self._kept(traces, disagreements)
        self._plain("mixture", Made(70, 60, {"over per_prompt": 10}, {"prompts": 24, "tokens": 6000}))
        self._plain("student", Made(60, 1, {}, STUDENT))
        weights = {"parameters": 600_000, "dtype": "bfloat16", "bytes": 1_200_000, "shards": 1, "tensors": 20}
        self._plain("weights", Made(1, 1, {}, weights))
        self._plain("quantized", Made(1, 2, {}, {"methods": QUANTIZED}))
        outcome = Outcome("q", "student", 0, HOSTILE, 9, "stop", "right", "2", "")
        self._rows("scores", Outcome, [outcome], Made(1, 1, {}, scores_summary(teacher)), "outcomes.parquet")

    def _kept(self, traces: list[Trace], disagreements: int) -> None:
        partial = self._partial("kept")
        write_rows(partial / "kept.parquet", Trace, (t for t in traces if t.id not in self.refused))
        write_rows(partial / "rejected.parquet", Trace, (t for t in traces if t.id in self.refused))
        verdicts = [
            Verdict(t.id, name, 1, "rejected", reason, f"gold '2', found {HOSTILE!r}") if wrong else Verdict(t.id, "complete", 1, "kept", "")
            for t in traces
            for wrong, name, reason in [(t.id in self.refused, *self.refused.get(t.id, ("", "")))]
        ]  # fmt: skip
        write_rows(partial / "verdicts.parquet", Verdict, verdicts)
        self.apart = [
            {"trace_id": f"apart{n:06d}", "task": "leg_counting" if n % 3 else "chain_sum", "label": bool(n % 2),
             "ours": "wrong answer" if n % 2 else "right", "evidence": f"gold '{n}', found {HOSTILE!r}"}
            for n in range(disagreements)
        ]  # fmt: skip
        if disagreements:
            append_json(partial / "disagreements.jsonl", self.apart)
        labels = {
            "labelled": 2000, "agreed": 2000 - disagreements, "right_but_labelled_wrong": (disagreements + 1) // 2,
            "refused_but_labelled_right": disagreements // 2,
        }  # fmt: skip
        rejected = {"correct: wrong answer": 19, "complete: the call failed": 1}
        summary = {
            "filters": ["complete", "correct"], "overlap": {"correct": 19, "complete + correct": 1},
            "by_source": {"chain_sum": {"traces": 45, "kept": 30}, "leg_counting": {"traces": 45, "kept": 40}},
            "labels": labels if disagreements else None, "kept_tokens": 7000, "prompts": 30, "prompts_kept": 24,
        }  # fmt: skip
        self._finish("kept", Made(90, 70, rejected, summary))

    def _partial(self, stage: str) -> Path:
        partial = self.root / f"{STAGES.index(stage) + 1:02d}_{stage}.partial"
        partial.mkdir(parents=True)
        return partial

    def _plain(self, stage: str, made: Made) -> None:
        self._partial(stage)
        self._finish(stage, made)

    def _rows(self, stage: str, cls: Any, rows: Any, made: Made, name: str | None = None) -> None:
        write_rows(self._partial(stage) / (name or f"{stage}.parquet"), cls, rows)
        self._finish(stage, made)

    def _finish(self, stage: str, made: Made) -> None:
        final = self.root / f"{STAGES.index(stage) + 1:02d}_{stage}"
        identity = {"config": {}, "inputs": {name: a.id for name, a in self.inputs.items()}, "version": 1}
        versions = {"torch": "2.13.0", "ray": "2.60.0"}
        partial = final.with_name(final.name + ".partial")
        self.inputs[stage] = finish_artifact(partial, final, stage, identity, made, versions, 12.5)

    def keep_despite(self, stage: str, changes: list[str]) -> None:
        artifact = self.inputs[stage]
        record = replace(artifact.record, kept_despite=changes)
        write_json(artifact.path / "record.json", asdict(record))
        self.inputs[stage] = Artifact(artifact.path, record)

    def report(self, **config: Any) -> tuple[str, str, str, Made]:
        """The page, the Markdown, what the terminal shows, and what the stage returns."""
        out = self.root / "10_report.partial"
        out.mkdir()
        terminal = io.StringIO()
        made = report(ReportConfig(**config), self.inputs, out, Progress("report", terminal))
        return (out / "report.html").read_text(), (out / "report.md").read_text(), terminal.getvalue(), made


class Elements(HTMLParser):
    """Every element with its attributes, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_text_of_a_model_is_text_in_the_page(tmp_path: Path) -> None:
    page, _, _, _ = Run(tmp_path, disagreements=5).report()
    elements = Elements(page)
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "img", "b", "iframe", "object", "form"}
    assert [tag for tag, _ in elements.found].count("style") == 1
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script> <img src=x onerror=alert(1)> </pre></details>" in elements.text
    assert "{{ 7*7 }}" in elements.text
    assert not set("\u202e\x1b\x00") & set(page)
    assert "\N{REPLACEMENT CHARACTER}gnp.exe \N{REPLACEMENT CHARACTER}[31mred" in elements.text


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    page, _, _, _ = Run(tmp_path).report()
    elements = Elements(page)
    fetching = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}
    addresses = [value for _, attributes in elements.found for name, value in attributes.items() if name in fetching]
    assert [a for a in addresses if not (a or "").startswith(("#", "data:"))] == []
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    policies = [a["content"] for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_links_of_the_page_lead_to_its_own_sections(tmp_path: Path) -> None:
    elements = Elements(Run(tmp_path, disagreements=2).report()[0])
    anchors = {attributes["id"] for _, attributes in elements.found if "id" in attributes}
    links = {str(attributes["href"]) for tag, attributes in elements.found if tag == "a"}
    assert len(links) == 9
    assert {link.removeprefix("#") for link in links} <= anchors


def test_text_of_a_model_stays_in_its_fence_in_markdown(tmp_path: Path) -> None:
    _, written, _, _ = Run(tmp_path, disagreements=5).report()
    tokens = MarkdownIt("commonmark").enable("table").parse(written)
    inner = [child for token in tokens for child in token.children or []]
    kinds = {token.type for token in [*tokens, *inner]}
    assert not kinds & {"html_block", "html_inline", "image", "link_open"}
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert not [heading for heading in headings if "out of the fence" in heading]
    quoted = [token.content for token in tokens if token.type == "fence"]
    assert any("<script>alert(1)</script>" in text and "# out of the fence\n````\n" in text for text in quoted)
    assert not set("\u202e\x1b\x00") & set(written)


@pytest.mark.parametrize("text", ["```", "`````", "a ```` b\n```\n", "~~~", "`" * 40, "", "\n"])
def test_no_text_closes_its_fence(text: str) -> None:
    page = Page("t", [], [Section("s", [Verbatim(text), Verbatim("after")])])
    found = [token.content for token in MarkdownIt("commonmark").parse(markdown(page)) if token.type == "fence"]
    assert [content.strip("\n") for content in found] == [text.strip("\n"), "after"]
    assert fence(text) not in text


def test_the_headline_says_what_the_scores_say(tmp_path: Path) -> None:
    page, written, terminal, made = Run(tmp_path).report()
    expected = [
        "The student answers 52.3% of 100 questions right (pass@1), its base 31.0%: the student is better by 21.3 points "
        "(95% interval +17.2 to +25.5).",
        "The teacher answers 81.0% right: beside it the student is worse by 28.7 points (95% interval −32.8 to −24.5).",
        "The student's 4-bit copy (nf4) answers 50.8% right: beside it, it is not distinguishable (−1.5 points, "
        "95% interval −5.6 to +2.7).",
        "Each of the 70 accepted traces (90 sampled) cost 154 tokens of the teacher and 0.00129 USD.",
    ]
    assert made.summary["headline"] == " ".join(expected)
    shown, plain = Elements(page).text, html.unescape(re.sub(r"\\(.)", r"\1", written))
    for sentence in expected:
        assert sentence in shown
        assert sentence in plain
        assert sentence in terminal


def test_every_model_and_comparison_is_in_both_files(tmp_path: Path) -> None:
    page, written, terminal, _ = Run(tmp_path).report()
    shown, plain = Elements(page).text, re.sub(r"\\(.)", r"\1", written)
    for name in MODELS:
        score = model_score(name)
        interval = f"{100 * score['low']:.1f}% to {100 * score['high']:.1f}%"
        assert interval in shown
        assert interval in plain
        assert re.search(rf"^report: {name} +100 +4 +{100 * score['pass_at_1']:.1f}%  {interval}$", terminal, re.M)
    for pair in ("student against base", "student against teacher", "student-nf4 against student"):
        assert pair in shown
        assert pair in plain
    assert "equivalent within ±2 points" in shown


def test_without_a_teacher_that_can_be_scored_the_page_says_so(tmp_path: Path) -> None:
    page, _, _, made = Run(tmp_path, teacher=False).report()
    assert "The teacher was not scored beside it." in made.summary["headline"]
    assert "student against teacher" not in Elements(page).text


def test_the_funnel_adds_up(tmp_path: Path) -> None:
    _, written, _, _ = Run(tmp_path).report()
    plain = re.sub(r"\\(.)", r"\1", written)
    for row in (
        "| Prompts read | 32 | 100.0% |", "| set aside by contamination: a benchmark question | 2 | 6.2% |",
        "| Prompts asked | 30 | 93.8% |", "| Traces (3 a prompt) | 90 | 100.0% |",
        "| refused by correct: wrong answer | 19 | 21.1% |", "| refused by complete: the call failed | 1 | 1.1% |",
        "| Traces kept | 70 | 77.8% |", "| left out: over per_prompt | 10 | 11.1% |",
        "| Training examples | 60 | 66.7% |",
    ):  # fmt: skip
        assert row in plain


def test_every_disagreement_with_the_labels_is_listed(tmp_path: Path) -> None:
    run = Run(tmp_path, disagreements=1000)
    page, written, _, _ = run.report()
    assert len(page.encode()) < 2_000_000
    for row in run.apart:
        assert page.count(row["trace_id"]) == 1
        assert written.count(row["trace_id"]) == 1
    assert "1,000" not in Elements(page).text.partition("Sample traces")[0].partition("stored labels")[0]
    assert "chain_sum: 334 disagreements" in page
    assert "it calls 500 right that are labelled wrong" in page


def test_without_labels_the_page_says_nothing_of_them(tmp_path: Path) -> None:
    page, written, _, _ = Run(tmp_path).report()
    assert "stored labels" not in page
    assert "stored labels" not in written


def test_a_stage_kept_despite_changed_settings_is_warned_of_before_everything_else(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.keep_despite("traces", ["config.samples: 3 -> 4"])
    page, written, _, _ = run.report()
    warning = "traces was made with other settings than the present ones and kept as it is"
    for text in (Elements(page).text, re.sub(r"\\(.)", r"\1", written)):
        assert text.index(warning) < text.index("The student answers")
        assert "config.samples: 3 -> 4" in text


def test_sample_traces_cover_every_reason_and_do_not_change(tmp_path: Path) -> None:
    first = Run(tmp_path / "a").report(samples_per_reason=2, kept_samples=3)[0]
    second = Run(tmp_path / "b").report(samples_per_reason=2, kept_samples=3)[0]
    summaries = [re.findall(r"<summary>(.*?)</summary>", page) for page in (first, second)]
    assert summaries[0] == summaries[1]
    reasons = [summary.partition(" · ")[0] for summary in summaries[0]]
    assert reasons == ["kept"] * 3 + ["correct: wrong answer"] * 2 + ["complete: the call failed"]


def test_long_traces_lose_their_middle(tmp_path: Path) -> None:
    page, _, _, _ = Run(tmp_path).report(shown_chars=200)
    assert "characters left out ...]" in page


def test_a_model_that_was_not_scored_stands_in_the_table() -> None:
    summary = scores_summary()
    nothing = dict.fromkeys(("pass_at_1", "low", "high", "pass_at_k", "majority_at_k"))
    summary["models"]["student-int8"] |= nothing
    table = score_table(summary)
    assert table.splitlines()[0].split() == ["model", "n", "k", "pass@1", "95%", "interval"]
    assert table.splitlines()[-1].endswith("not scored")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[list[str]]:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, tmp_path / "profile", ignore_errors=True)
        yield [
            found, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
            "--v=0", f"--log-net-log={tmp_path / 'net.json'}",
        ]  # fmt: skip


def test_a_browser_opens_the_page_without_a_complaint_or_a_request(tmp_path: Path, browser: list[str]) -> None:
    Run(tmp_path / "run", disagreements=5).report()
    address = (tmp_path / "run" / "10_report.partial" / "report.html").as_uri()
    done = subprocess.run([*browser, "--dump-dom", address], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    elements = Elements(done.stdout)
    assert not {tag for tag, _ in elements.found} & {"script", "img", "b"}
    assert "<script>alert(1)</script>" in elements.text
    log = json.loads((tmp_path / "net.json").read_text())
    asked = {event["params"]["url"] for event in log["events"] if "url" in event.get("params", {})}
    assert address in asked
    assert {url for url in asked if not url.startswith(("file:", "data:"))} == set()
