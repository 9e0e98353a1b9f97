"""The judge: three-valued, exact where it can be, never hung."""

import json
import time
from pathlib import Path

import pytest
from conftest import Cli

from distill.base.answers import final_answer, judge, judge_answer
from distill.base.judge import equality


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{3} and then \boxed{4}", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"$x = \boxed{1}$ and $x = \boxed{2}$.", "1, 2"),
        (r"\boxed{7}" "\n\n" r"\boxed{7}", "7"),
        (r"\boxed{\text{the set } \{1,2\}}", r"\text{the set } \{1,2\}"),
        (r"\boxed{cut in the mid", None),
        ("work <answer> 12 </answer>", "12"),
        ("<answer>The answer is 12.</answer>", "12"),
        ("worked\n#### 1,234", "1,234"),
        ("The final answer is: 42.", "42"),
        ("The final answer is $\\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}"),
        ("**Answer:** 42", "42"),
        ("**Final Answer**\n\n42", "42"),
        ("The answer is (B).", "(B)"),
        ("The answer is 3.5, because 7 / 2 = 3.5.", "3.5"),
        ("Answer: There are 9 boys at the meeting.", "9"),
        ("13 * 2 = $<<13*2=26>>26\nA: 26", "26"),
        ("5 + 4 = 9.\nTherefore, Chad still owes $9.00.", "$9.00"),
        ("$42$", "42"),
        ("So $x=5$.", "x=5"),
        ("The answer is A.", "A"),
        ("Rosie runs 50 miles in 7 hours.", None),
        ("Substituting into the second equation, we find 3 + 4", None),
        ("Answer: 2*X**8 - X**5 + C is the integral.", "2*X**8 - X**5 + C is the integral"),
        ("no idea", None),
    ],
)
def test_the_final_answer_is_found(text: str, expected: str | None) -> None:
    assert final_answer(text) == expected


RIGHT_PAIRS = r"""
12 | 12.0
1234 | 1,234
1000 | \$1{,}000
11,\! 111,\! 100 | 11111100
1/2 | \frac{1}{2}
0.5 | \dfrac12
50% | 0.5
10\% | 10%
255 | 0xff
-3 | −3
-\frac{3}{4} | \frac{-3}{4}
\frac{3}{4} | 6/8
1\frac{1}{2} | 3/2
1.5 | 1½
1e3 | 1000
3\times10^8 | 3e8
5,000,000 | 5 million
0.\overline{3} | 1/3
1/3 | 0.333
0.333333 | 1/3
\pi | 3.14159
12 | twelve
52_8 | 52_{8}
5 | 5 \text{ cm}
5\text{ cm} | 5 centimeters
1 m | 100 cm
18 | \$18.00
90^\circ | 90 degrees
x=5 | 5
5 | x=5
55 | 25 + 30 = 55
\sqrt2 | \sqrt{2}
11\sqrt2 | \sqrt{242}
\frac{1}{\sqrt{2}} | \frac{\sqrt{2}}{2}
2^{1009} | 2\cdot 2^{1008}
\binom{2n}{n} | \frac{(2n)!}{n!n!}
x+1 | 1 + x
x**2 + 1 | 1 + x**2
y = 2x+3 | 2x+3
x^2-4x-2=0 | 2x^2-8x-4=0
-3.0 - 3.0i | -3.0-3.0i
\text{(B)} | B
B | (B) 42
\text{east} | East
Olivia is a pioneer. | olivia is a pioneer
1,2 | 2 and 1
x=1,2 | x=1 or x=2
2\pm\sqrt{3} | 2+\sqrt{3}, 2-\sqrt{3}
\left( 3, \frac{\pi}{2} \right) | (3, π/2)
(1,2) | (x,y)=(1,2)
\{1,2\} | \{2,1\}
[0,\infty) | x \geq 0
(1,2) | 1<x<2
1<x<2 | x\in(1,2)
\{x|-2\leq x < 1\} | [-2,1)
x<3 or x>5 | (-\infty,3)\cup(5,\infty)
\begin{pmatrix} 1/2 \\ 3 \end{pmatrix} | \begin{bmatrix}0.5\\3\end{bmatrix}
"""
OTHER_PAIRS = r"""
16 | 1/16
100 | 1
50 | 50%
9 | 9%
12 | 21
5 | -5
5 |
0x23c8b81 | 0x2636cfb
1000000 | 1000001
1e-10 | 2e-10
10^{-8} | 10^{-9}
1/8 | 0.13
\pi | 3.14
\pi | 22/7
12.5 | 12.48
3/2 | 1 1⁄3
1 | 10**400
191880*y**4 - 575952*y**3 | 191880*y**4 - 575652*y**3
x^2+1 | x²-1
x | X
|x| | x
5 | 5x
x=5 | y=5
5 | x>5
x^2+y^2=1 | 1
x^2+4x+20=0 | x^2+50=0
\log_6 6=1 | \log_6 36=2
f(x)=-1,f(x)=x+1 | f(x)=x+1
5 \text{ cm} | 5 \text{ kg}
5 million | 5
42 | 52_8
1010_2 | 1010_3
1:00 | 12:00
Tuesday | Monday
east | seat
ABCD | BADC
A | C
4 | 3, 4
3, 4 | 4
n=1,2,3 | n=2,3,4
\pm 2 | 2
(1,2) | (2,1)
(1,2) | [1,2]
[0,1) | (0,1]
[\frac12,8] | \frac12,8
listen | silent
A B C | C B A
1 2 3 | 3 2 1
12 3 | 1 23
2024-01-02 | 2021
22 | 2²
3 kg | 3 g
cat dog | dogcat
\{2,3\} | (2,3)
x<5 | x>5
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}
"""


def pairs(text: str) -> list[tuple[str, str]]:
    rows = [line.rpartition(" |") for line in text.strip().splitlines()]
    return [(gold, answer.strip()) for gold, _, answer in rows]


@pytest.mark.parametrize(("gold", "answer"), pairs(RIGHT_PAIRS))
def test_equal_answers_are_right(gold: str, answer: str) -> None:
    judged = judge(gold, f"<think>\nx\n</think>\n\n\\boxed{{{answer}}}")
    assert judged.verdict == "right", judged


@pytest.mark.parametrize(("gold", "answer"), pairs(OTHER_PAIRS))
def test_other_answers_are_never_right(gold: str, answer: str) -> None:
    judged = judge(gold, f"\\boxed{{{answer}}}")
    assert judged.verdict != "right", judged


def test_several_boxes_are_one_list() -> None:
    assert judge("4", r"\boxed{3} and \boxed{4}").verdict == "wrong"
    assert judge("1,2", r"$x=\boxed{1}$ or $x=\boxed{2}$").verdict == "right"


def test_a_gold_solution_is_cut_down_to_its_answer() -> None:
    assert judge("3 + 4 = 7\n#### 7", r"\boxed{7}").verdict == "right"
    assert judge(r"We get $\boxed{7}$.", "The answer is 7.").verdict == "right"


def test_only_what_follows_the_thought_counts() -> None:
    assert judge("7", "<think>\n\\boxed{7}\n</think>\n\n\\boxed{8}").verdict == "wrong"
    assert judge("7", "<think>\n\\boxed{7}").verdict == "wrong"
    assert judge("7", "<think>\n\\boxed{8}\n</think>\n\n\\boxed{7}").verdict == "right"


def test_text_and_numbers_never_reach_the_formula_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equality, "compare", None)
    for gold, answer in (("7", "8"), ("1/2", "0.5"), ("1,2", "(3,4)"), ("east", "west"), (r"\frac12", r"\frac{1}{3}")):
        judge(gold, f"\\boxed{{{answer}}}")


def test_a_check_that_hangs_is_killed_and_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equality, "TIMEOUT_SECONDS", 1.0)
    judged = judge("10^{10^{10}}", r"\boxed{10^{10^{11}}}")
    assert judged.verdict == "unknown" and "took over" in judged.reason
    assert judge("x+1", r"\boxed{1+x}").verdict == "right", "the next check has a new child"


@pytest.mark.parametrize(
    "answer",
    [
        "(" * 1500, "{" * 900 + "}" * 900, "9" * 5000, r"\frac{" * 200 + "1" + "}{2}" * 200, "9" * 10_000_000,
        "\x00\x1b[31m\ud800 5", "10^{99999999999}", r"\text{" * 300 + "}" * 300, "," * 1900, "1," * 900, "$" * 1999,
        "x=" * 900, "\\", "1e99999", "-" * 1900, r"\sqrt" * 300,
    ],
    ids=lambda answer: repr(answer[:12]),
)  # fmt: skip
def test_hostile_answers_cost_little_and_are_never_right(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equality, "TIMEOUT_SECONDS", 0.5)
    started = time.monotonic()
    for text in ("\\boxed{" + answer + "}", f"The answer is {answer}."):
        judged = judge_answer("5 + x", text)
        assert judged.verdict != "right"
        json.dumps(judged.extracted)
    assert time.monotonic() - started < 12


def test_an_answer_kind_without_a_check_is_unknown() -> None:
    assert judge("x", r"\boxed{x}", "code").verdict == "unknown"


@pytest.mark.parametrize(
    ("kind", "gold", "text", "verdict"),
    [
        ("choice", "B", r"\boxed{(B) four}", "right"),
        ("choice", "B", "B", "right"),
        ("choice", "B", "The correct option is B) four.", "right"),
        ("choice", "B", r"\boxed{C}", "wrong"),
        ("choice", "A", "A cat, I think", "unknown"),
        ("exact", "ab c", r"\boxed{ab  c}", "right"),
        ("exact", "0.5", r"\boxed{1/2}", "wrong"),
        ("numeric", "6.02e23", r"\boxed{6.022 \times 10^{23}}", "right"),
        ("numeric", "9.8", r"\boxed{9.81 \text{ m/s}^2}", "right"),
        ("numeric:0.0001", "9.8", r"\boxed{9.81}", "wrong"),
        ("numeric", "100", r"\boxed{102}", "wrong"),
    ],
)
def test_kinds_of_answers(kind: str, gold: str, text: str, verdict: str) -> None:
    assert judge(gold, text, kind).verdict == verdict


def test_the_judge_command_gives_a_verdict_a_row(cli: Cli, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "gold": "1/2", "prediction": r"so \boxed{0.5}"},
        {"id": "b", "gold": 7, "prediction": "<think>hm</think>The answer is 8."},
        {"id": 3, "gold": "B", "prediction": "(C)", "kind": "choice"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    done = cli("judge", file)
    judged = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and [row["verdict"] for row in judged] == ["right", "wrong", "wrong"]
    assert judged[0] == {"id": "a", "verdict": "right", "extracted": "0.5", "reason": "same number"}
    assert "3 judged: 1 right, 2 wrong, 0 unknown" in done.stderr


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"id": "b", "gold": "1"}', "prediction"), ("{", "JSON"), ('{"gold": "1", "prediction": "1"}', "no id"),
        ('{"id": "b", "gold": "1", "prediction": "1", "kind": "poem"}', "poem"),
    ],
)  # fmt: skip
def test_the_judge_command_names_the_line_of_a_bad_row(cli: Cli, tmp_path: Path, line: str, named: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": "a", "gold": "1", "prediction": "1"}\n' + line + "\n")
    done = cli("judge", file)
    assert done.returncode == 2 and "line 2" in done.stderr and named in done.stderr
    assert "Traceback" not in done.stderr
