"""Statistics of scores: pure functions on numbers between 0 and 1, one number a question.

The unit is the question, never the sample: k samples of one question are one cluster. Sources:

    [M] Miller 2024, "Adding error bars to evals", arXiv 2411.00640: clustered and paired standard errors
    [C] Chen et al. 2021, "Evaluating large language models trained on code", arXiv 2107.03374: pass@k
    [W] Wilson 1927; with the effective sample size of a clustered mean: Kish 1965, "Survey sampling"
    [H] Holm 1979, "A simple sequentially rejective multiple test procedure"
    [S] Schuirmann 1987: two one-sided tests of equivalence
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

ALPHA = 0.05
EXACT_UP_TO = 14
FLIPS = 10_000
TIE = 1e-12


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t: exact for 1 and 2 degrees of freedom, else Hill's expansion (1970, within 0.1%).

    Written out because scipy would be a dependency for this one number.
    """
    if freedom < 1:
        return math.inf
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        centred = 2 * probability - 1
        return centred * math.sqrt(2 / (1 - centred**2))
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / float(freedom**power) for power, term in enumerate(terms))


def standard_error(values: Sequence[float]) -> float:
    """SE of the mean, clustered by question when `values` are the questions' means: sd / sqrt(n) [M, sec. 2.2]."""
    n = len(values)
    if n < 2:
        return math.inf
    mean = sum(values) / n
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)


def score_interval(values: Sequence[float], k: int, alpha: float = ALPHA) -> tuple[float, float]:
    """Confidence interval of a mean of question scores in [0, 1].

    Wilson's interval [W] at the effective sample size m = p(1-p) / SE^2, with SE clustered by question and
    n <= m <= n k: unlike p +- 2 SE it stays inside [0, 1] and does not shrink to a point when every question is right.

    Args:
        values: one mean a question, in [0, 1]. One question alone says nothing about others: the whole range.
        k: samples a question.
    """
    n = len(values)
    if n == 0:
        raise ValueError("an interval needs at least one question; found none")
    if n == 1:
        return 0.0, 1.0
    p = min(1.0, max(0.0, sum(values) / n))
    error = standard_error(values)
    spread = p * (1 - p)
    m = n if spread < TIE else n * k if error < TIE else min(n * k, max(n, spread / error**2))
    z = t_quantile(1 - alpha / 2, n - 1)
    centre = (p + z**2 / (2 * m)) / (1 + z**2 / m)
    half = z / (1 + z**2 / m) * math.sqrt(spread / m + z**2 / (4 * m**2))
    # At 0 and 1 the bound is exact; rounding would leave 1e-17.
    return (0.0 if p == 0 else max(0.0, centre - half)), (1.0 if p == 1 else min(1.0, centre + half))


def pass_at(k: int, samples: int, right: int) -> float:
    """Unbiased pass@k from `samples` >= k samples of which `right` are right: 1 - C(n-c, k) / C(n, k) [C, eq. 1]."""
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs 1 <= k <= samples; found {samples} samples")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def difference_interval(differences: Sequence[float], alpha: float = ALPHA) -> tuple[float, float]:
    """Confidence interval of the mean paired difference: mean +- t SE [M, sec. 4.2].

    When all questions differ by the same, SE is 0 and says nothing; then the bound is what n equal questions allow.
    The share of questions that would do otherwise is below q (Clopper-Pearson with no event), and those could lie
    anywhere in [-1, 1]: from d - q (1 + d) to d + q (1 - d). Without a difference q = 1 - alpha^(1/n) (3/n at 95%);
    with one q = 1 - (alpha/2)^(1/n), which for d = 1 leaves out 0 just when the two-sided sign test does.
    """
    n = len(differences)
    mean = sum(differences) / n
    if n == 1:
        return -1.0, 1.0
    if _all_equal(differences):
        other = 1 - (alpha if abs(mean) < TIE else alpha / 2) ** (1 / n)
        return mean - other * (1 + mean), mean + other * (1 - mean)
    half = t_quantile(1 - alpha / 2, n - 1) * standard_error(differences)
    return max(-1.0, mean - half), min(1.0, mean + half)


def _all_equal(values: Sequence[float]) -> bool:
    return max(values) - min(values) < TIE


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p of "either model could have been the better one on each question".

    The mean difference against its distribution when every question's sign is drawn afresh: all 2^m sign patterns up
    to m = 14 questions that differ, else 10,000 seeded draws with (1 + hits) / (1 + draws).
    """
    import numpy

    moved = numpy.array([value for value in differences if abs(value) >= TIE])
    if not len(moved):
        return 1.0
    observed = abs(moved.sum()) - 1e-9
    if len(moved) <= EXACT_UP_TO:
        patterns = numpy.arange(2 ** len(moved))[:, None] >> numpy.arange(len(moved)) & 1
        return float((abs((1 - 2 * patterns) @ moved) >= observed).mean())
    draws = numpy.random.default_rng(seed).integers(0, 2, (FLIPS, len(moved)), dtype=numpy.int8)
    hits = int((abs((1 - 2 * draws) @ moved) >= observed).sum())
    return (1 + hits) / (1 + FLIPS)


def smallest_detectable(differences: Sequence[float]) -> float | None:
    """The true difference that is found in 80% of repetitions at 5%: (1.96 + 0.84) SE [M, sec. 5].

    With the same difference on every question, the bound of `difference_interval`; None for a single question.
    """
    if len(differences) < 2:
        return None
    if _all_equal(differences):
        low, high = difference_interval(differences)
        return (high - low) / 2
    return 2.8 * standard_error(differences)


def equivalent(differences: Sequence[float], margin: float) -> bool:
    """Whether the 90% interval lies within +-margin: two one-sided tests at 5% each [S]."""
    low, high = difference_interval(differences, 2 * ALPHA)
    return -margin < low and high < margin


def holm(p_values: Sequence[float]) -> list[float]:
    """p values that hold for all comparisons together [H]: step-down, never above 1, never out of order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    floor = 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return adjusted


def paired(differences: Sequence[float], *, margin: float, seed: int = 0) -> dict[str, Any]:
    """All that is said of one paired comparison; `differences` are b - a, one a question, in [-1, 1].

    Few questions give t intervals that leave out 0 where the exact test cannot (n < 6: p is never below 0.05), and
    the other way round. Interval and p are made to agree, each time for the weaker claim.
    """
    if not differences:
        raise ValueError("a comparison needs at least one question; found none")
    difference = sum(differences) / len(differences)
    low, high = difference_interval(differences)
    p = sign_flip_p(differences, seed)
    if p >= ALPHA:
        low, high = min(low, 0.0), max(high, 0.0)
    within = equivalent(differences, margin)
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "p": p,
        "better": sum(value >= TIE for value in differences),
        "worse": sum(value <= -TIE for value in differences),
        "equal": sum(abs(value) < TIE for value in differences),
        "margin": margin,
        "within_margin": within,
        "smallest_detectable": smallest_detectable(differences),
        "verdict": verdict(difference, low, high, p, within, margin),
    }


def verdict(difference: float, low: float, high: float, p: float, within: bool, margin: float) -> str:
    """One of: equivalent within the margin, better, worse, not distinguishable.

    Better and worse need both p and an interval without 0. Equivalence comes first: who sets a margin has said that
    what is smaller does not matter, significant or not.
    """
    if within:
        return f"equivalent within ±{100 * margin:g} points"
    if p < ALPHA and not low <= 0 <= high:
        return "better" if difference > 0 else "worse"
    return "not distinguishable"


def settle(comparisons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons with Holm's correction: `p_holm` added, the verdict taken from it."""
    adjusted = holm([comparison["p"] for comparison in comparisons])
    return [
        {
            **found,
            "p_holm": p,
            "verdict": verdict(
                found["difference"], found["low"], found["high"], p, found["within_margin"], found["margin"]
            ),
        }
        for found, p in zip(comparisons, adjusted, strict=True)
    ]
