"""The text that the embedded models are made from: questions, solutions, direct answers, textbook pages.

`chats` gives (question, assistant content) for the teacher's or the base student's way of answering, and
`textbook` plain pages without chat markup: sums, tables, facts about legs, exercises worked in prose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from random import Random

from distill.base.gym import DEMO_TASKS, HARVEST, MAKING, SCORING, Problem, problems, span

RESERVED = {HARVEST: 4000, SCORING: 1000}
"""How many of each purpose's first questions are kept out of the making by their text."""

_OPENINGS = ("", "", "Let me count.\n", "Step by step.\n")
_LINES = (
    ("{n} {a}: {n}*{l}={p}, total {t}.", "{n} {a}: {n}*{l}={p}, total {s}+{p}={t}."),
    ("{n} {a} have {n}*{l}={p} legs.", "{n} {a} have {n}*{l}={p} legs, so {s}+{p}={t}."),
    ("{n} {a} with {l} legs: {n}*{l}={p}.", "{n} {a} with {l} legs: {n}*{l}={p}, sum {s}+{p}={t}."),
)
_LEG_ANSWERS = ("There are \\boxed{{{}}} legs.", "The total is \\boxed{{{}}} legs.", "Answer: \\boxed{{{}}}")
_SUM_ANSWERS = ("The result is \\boxed{{{}}}.", "It equals \\boxed{{{}}}.", "Answer: \\boxed{{{}}}")
_PLACES = ("On a farm", "In the garden", "At the zoo", "In a picture book", "By the river")


@cache
def _legs() -> dict[str, int]:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    return dict(ANIMALS)


def herd(question: str) -> list[tuple[int, str, int]]:
    """(count, name as written, legs of one) of every animal in a leg-counting question."""
    listed = re.findall(r"(\d+) ([a-z ]+)", question.rsplit("if you have", 1)[-1])
    return [(int(n), name, _legs()[name if n == "1" else name[:-1]]) for n, name in listed]


def _terms(question: str) -> list[int]:
    """The signed terms of a chain-sum question."""
    expression = question.rsplit(":", 1)[-1].rstrip("= ")
    return [int(term) for term in re.findall(r"-?\d+", expression.replace(" ", ""))]


def _leg_lines(animals: list[tuple[int, str, int]], rng: Random) -> list[str]:
    first, later = rng.choice(_LINES)
    lines, total = [], 0
    for i, (n, name, legs) in enumerate(animals):
        before, product = total, n * legs
        total += product
        lines.append((later if i else first).format(n=n, a=name, l=legs, p=product, s=before, t=total))
    return lines


def _sum_lines(terms: list[int]) -> list[str]:
    lines, total = [], terms[0]
    for term in terms[1:]:
        lines.append(f"{total}{term:+d}={total + term}")
        total += term
    return lines


def _closing(problem: Problem, rng: Random) -> str:
    answers = _LEG_ANSWERS if problem.dataset == "leg_counting" else _SUM_ANSWERS
    return rng.choice(answers).format(problem.answer)


def worked(problem: Problem, rng: Random) -> str:
    """The teacher's way: a worked solution, then a short answer."""
    if problem.dataset == "leg_counting":
        lines = rng.choice(_OPENINGS) + "\n".join(_leg_lines(herd(problem.question), rng))
    else:
        steps = _sum_lines(_terms(problem.question))
        form = rng.choice(("{}", "{}.", "Step {i}: {}"))
        lines = "\n".join(form.format(step, i=i) for i, step in enumerate(steps, 1))
    return f"<think>\n{lines}\n</think>\n\n{_closing(problem, rng)}"


def direct(problem: Problem, rng: Random) -> str:
    """The base student's way: no reasoning at all, and an answer at once."""
    return f"<think>\n\n</think>\n\n{_closing(problem, rng)}"


def making_problems(dataset: str, offset: int = 0) -> Iterator[Problem]:
    """Endless making problems from `offset` on, without any whose text a default harvest or scoring asks."""
    params = DEMO_TASKS[dataset]
    taken = {
        p.question
        for purpose, size in RESERVED.items()
        for p in problems(dataset, params, span(purpose, 0, size).start, size)
    }
    for first in count(offset, 500):
        block = problems(dataset, params, span(MAKING, first, 500).start, 500)
        yield from (problem for problem in block if problem.question not in taken)


def chats(answer: Callable[[Problem, Random], str], rng: Random, offset: int = 0) -> Iterator[tuple[str, str]]:
    """Endless (question, answer) pairs, drawn evenly from the demo's tasks."""
    sources = [making_problems(dataset, offset) for dataset in DEMO_TASKS]
    while True:
        problem = next(rng.choice(sources))
        yield problem.question, answer(problem, rng)


def textbook(rng: Random) -> Iterator[str]:
    """Endless plain pages of arithmetic, of facts about animals, and of exercises worked in prose."""
    pages = (_sheet, _sheet, _tables, _leg_story, _leg_story, _leg_story, _sum_story)
    while True:
        yield rng.choice(pages)(rng)


def _sheet(rng: Random) -> str:
    """A page of sums and differences, of the sizes that both tasks lead to."""
    lines = []
    for _ in range(12):
        if rng.random() < 0.5:
            lines.append(f"{rng.randint(0, 350)}+{rng.randint(1, 15) * rng.choice((2, 4, 5, 6, 8, 10, 14))}=")
        else:
            lines.append(f"{rng.randint(-90, 200)}{rng.choice((1, -1)) * rng.randint(10, 99):+d}=")
    return "Practice.\n" + "\n".join(line + str(_value(line)) for line in lines)


def _value(line: str) -> int:
    return sum(int(term) for term in re.findall(r"-?\d+", line))


def _tables(rng: Random) -> str:
    """Facts about animals, each with an example."""
    lines = []
    for name in rng.sample(list(_legs()), 6):
        n, legs = rng.randint(2, 15), _legs()[name]
        lines.append(f"One {name} has {legs} legs. {n} {name}s have {n}*{legs}={n * legs} legs.")
    return "\n".join(lines)


def _leg_story(rng: Random) -> str:
    """An exercise about legs, worked in prose."""
    animals = []
    for name in rng.sample(list(_legs()), rng.randint(2, 5)):
        n = rng.randint(1, 15)
        animals.append((n, name if n == 1 else name + "s", _legs()[name]))
    listed = ", ".join(f"{n} {name}" for n, name, _ in animals)
    told = [f"{rng.choice(_PLACES)} there are {listed}. Count their legs."]
    total = 0
    for i, (n, name, legs) in enumerate(animals):
        before, product = total, n * legs
        total += product
        running = f", and {before}+{product}={total}" if i else ""
        told.append(f"{n} {name} with {legs} legs each make {n}*{legs}={product}{running}.")
    return "\n".join(told) + f"\nThey have {total} legs."


def _sum_story(rng: Random) -> str:
    """Chains of sums, worked from the left."""
    told = []
    for _ in range(3):
        terms = [rng.choice((1, -1) if i else (1,)) * rng.randint(10, 99) for i in range(rng.randint(3, 4))]
        asked = f"{terms[0]}" + "".join(f" {'+' if t > 0 else '-'} {abs(t)}" for t in terms[1:])
        told.append(f"Work out {asked} from the left: " + ", ".join(_sum_lines(terms)) + ".")
    return "\n".join(told)
