"""The report: what it says is what the artifacts say, and no text of a model can act in it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from report_run import MODELS, Run, model_score, scores_summary

from evals.page import Page, Section, Verbatim, fence, markdown, plain
from evals.report import score_table


def unescaped(written: str) -> str:
    """Markdown as a reader sees it, as far as signs go."""
    return re.sub(r"\\([^\w\s])", r"\1", written)


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


@pytest.mark.parametrize(
    "text",
    [
        "# no heading",
        "- no list",
        "1234. no list",
        "100.0% of it",
        "> no quote",
        "---",
        "*a* _b_ a_b",
        "a | b",
        "&amp;",
        "<b>",
        "`c`",
    ],
)
def test_text_in_a_paragraph_means_nothing_to_markdown(text: str) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(plain(text))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children or []} <= {"text", "text_special"}
    assert "".join(child.content for child in tokens[1].children or []) == text


def test_the_headline_says_what_the_scores_say(tmp_path: Path) -> None:
    page, written, terminal, made = Run(tmp_path).report()
    expected = [
        "The student answers 52.3% of 100 questions right (pass@1) and its base 31.0%; the student is better than its "
        "base by 21.3 points (95% interval +17.2 to +25.5).",
        "The teacher answers 81.0% right; the student is worse than the teacher by 28.7 points (95% interval −32.8 to "
        "−24.5).",
        "The student's 4-bit copy (nf4) answers 50.8% right; it is not distinguishable from the student (−1.5 points, "
        "95% interval −5.6 to +2.7).",
        "Each of the 70 accepted traces (90 sampled) cost 154 tokens of the teacher and 0.00129 USD.",
    ]
    assert made.summary["headline"] == " ".join(expected)
    shown, words = Elements(page).text, unescaped(written)
    for sentence in expected:
        assert sentence in shown
        assert sentence in words
        assert sentence in terminal


def test_every_model_and_comparison_is_in_both_files(tmp_path: Path) -> None:
    page, written, terminal, _ = Run(tmp_path).report()
    shown, words = Elements(page).text, unescaped(written)
    for name in MODELS:
        score = model_score(name)
        interval = f"{100 * score['low']:.1f}% to {100 * score['high']:.1f}%"
        assert interval in shown
        assert interval in words
        assert re.search(rf"^report: {name} +100 +4 +{100 * score['pass_at_1']:.1f}%  {interval}$", terminal, re.M)
    for pair in ("student against base", "student against teacher", "student-nf4 against student"):
        assert pair in shown
        assert pair in words
    assert "equivalent within ±2 points" in shown


def test_without_a_teacher_that_can_be_scored_the_page_says_so(tmp_path: Path) -> None:
    page, _, _, made = Run(tmp_path, teacher=False).report()
    assert "The teacher was not scored beside it." in made.summary["headline"]
    assert "student against teacher" not in Elements(page).text


def test_the_funnel_adds_up(tmp_path: Path) -> None:
    _, written, _, _ = Run(tmp_path).report()
    words = unescaped(written)
    for row in (
        "| Prompts read | 32 | 100.0% |", "| set aside by contamination: a benchmark question | 2 | 6.2% |",
        "| Prompts asked | 30 | 93.8% |", "| Traces (3 a prompt) | 90 | 100.0% |",
        "| refused by correct: wrong answer | 19 | 21.1% |", "| refused by complete: the call failed | 1 | 1.1% |",
        "| Traces kept | 70 | 77.8% |", "| left out: over per_prompt | 10 | 11.1% |",
        "| Training examples | 60 | 66.7% |",
    ):  # fmt: skip
        assert row in words


def test_every_disagreement_with_the_labels_is_listed(tmp_path: Path) -> None:
    run = Run(tmp_path, disagreements=1000)
    page, written, _, _ = run.report()
    assert len(page.encode()) < 2_000_000
    for row in run.apart:
        assert page.count(row["trace_id"]) == 1
        assert written.count(row["trace_id"]) == 1
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
    for text in (Elements(page).text, unescaped(written)):
        assert text.index(warning) < text.index("The student answers")
        assert "traces.samples: 3 -> 4" in text


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
def browser(tmp_path: Path) -> list[str]:
    """A command that opens a page in a browser of its own that can resolve no name; skips where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    quiet = ["gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage"]
    return [
        found, "--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in quiet),
        f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr", "--v=0",
    ]  # fmt: skip


def opened(browser: list[str], page: Path, log: Path) -> tuple[str, str, set[str]]:
    """What the browser makes of a page, what it says on standard error, and which addresses the page asked for.

    The browser asks for some addresses by itself; those have no page as their initiator.
    """
    command = [*browser, f"--log-net-log={log}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    asked = {event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"}
    return done.stdout, done.stderr, {url for url in asked if not url.startswith("data:")}


def test_a_browser_opens_the_page_without_a_complaint_or_a_request(tmp_path: Path, browser: list[str]) -> None:
    Run(tmp_path / "run", disagreements=5).report()
    page = tmp_path / "run" / "10_report.partial" / "report.html"
    dom, complaints, asked = opened(browser, page, tmp_path / "net.json")
    elements = Elements(dom)
    assert not {tag for tag, _ in elements.found} & {"script", "img", "b"}
    assert "<script>alert(1)</script>" in elements.text
    assert "CONSOLE" not in complaints
    assert asked == set()


def test_the_browser_test_would_see_a_request_and_a_complaint(tmp_path: Path, browser: list[str]) -> None:
    page = tmp_path / "control.html"
    page.write_text("<img src=http://evil.example/i.png><script>console.error('no')</script>")
    _, complaints, asked = opened(browser, page, tmp_path / "net.json")
    assert "CONSOLE" in complaints
    assert asked == {"http://evil.example/i.png"}
