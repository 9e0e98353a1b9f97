"""The judge: three-valued, exact where it can be, never hung."""

import pytest

from distill.base import equality
from distill.base.answers import final_answer, judge


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{3} and then \boxed{4}", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{cut in the mid", None),
        ("work <answer> 12 </answer>", "12"),
        ("worked\n#### 1,234", "1,234"),
        ("The final answer is: 42.", "42"),
        ("no idea", None),
    ],
)
def test_the_final_answer_is_found(text: str, expected: str | None) -> None:
    assert final_answer(text) == expected


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("12", "12"), ("12", "12.0"), ("1234", "1,234"), ("1/2", r"\frac{1}{2}"), ("0.5", r"\dfrac12"),
        ("x+1", "1 + x"), ("50%", "0.5"), ("255", "0xff"), ("-3", "\u22123"), (r"\frac{3}{4}", "6/8"),
        ("Olivia is a pioneer.", "olivia is a pioneer"), ("x**2 + 1", "1 + x**2"), ("-3.0 - 3.0i", "-3.0-3.0i"),
    ],
)  # fmt: skip
def test_equal_answers_are_right(gold: str, answer: str) -> None:
    assert judge(gold, f"<think>\nx\n</think>\n\n\\boxed{{{answer}}}").verdict == "right"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("16", "1/16"), ("50", "50%"), ("100", "1"), ("9", "9%"), ("12", "21"), ("0x23c8b81", "0x2636cfb"),
        ("191880*y**4 - 575952*y**3", "191880*y**4 - 575652*y**3"), ("Tuesday", "Monday"), ("1", "10**400"), ("5", ""),
    ],
)  # fmt: skip
def test_other_answers_are_never_right(gold: str, answer: str) -> None:
    assert judge(gold, f"\\boxed{{{answer}}}").verdict != "right"


def test_only_what_follows_the_thought_counts() -> None:
    assert judge("7", "<think>\n\\boxed{7}\n</think>\n\n\\boxed{8}").verdict == "wrong"
    assert judge("7", "<think>\n\\boxed{7}").verdict == "wrong"
    assert judge("7", "<think>\n\\boxed{8}\n</think>\n\n\\boxed{7}").verdict == "right"


def test_a_check_that_hangs_is_killed_and_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equality, "TIMEOUT_SECONDS", 1.0)
    judged = judge("10^{10^{10}}", r"\boxed{10^{10^{11}}}")
    assert judged.verdict == "unknown" and "took over" in judged.reason
    assert judge("x+1", r"\boxed{1+x}").verdict == "right", "the next check has a new child"


def test_a_check_that_dies_is_unknown() -> None:
    assert judge("x", "\\boxed{" + "(" * 1500 + "}").verdict in ("unknown", "wrong")
    assert judge("x", "\\boxed{" + "9" * 5000 + "}").verdict == "unknown"


def test_an_answer_kind_without_a_check_is_unknown() -> None:
    assert judge("x", r"\boxed{x}", "code").verdict == "unknown"


def test_choice_and_exact_answers() -> None:
    assert judge("B", r"\boxed{(B) four}", "choice").verdict == "right"
    assert judge("B", r"\boxed{C}", "choice").verdict == "wrong"
    assert judge("ab c", r"\boxed{ab  c}", "exact").verdict == "right"
    assert judge("0.5", r"\boxed{1/2}", "exact").verdict == "wrong"
