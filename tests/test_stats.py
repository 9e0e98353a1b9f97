"""Statistics: known values, coverage, and verdicts that mean what they say."""

import math
import random

import pytest

from evals import stats


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (29, 2.045), (99, 1.984), (10_000, 1.960)],
)
def test_t_quantiles_are_those_of_the_table(freedom: int, expected: float) -> None:
    assert stats.t_quantile(0.975, freedom) == pytest.approx(expected, rel=2e-3)


def test_the_standard_error_is_clustered_by_question() -> None:
    assert stats.standard_error([0.5, 0.25, 0.0]) == pytest.approx(0.25 / math.sqrt(3))


def test_pass_at_k_is_the_unbiased_estimate() -> None:
    assert stats.pass_at(1, 4, 1) == pytest.approx(0.25)
    assert stats.pass_at(2, 4, 1) == pytest.approx(0.5)
    assert stats.pass_at(4, 4, 0) == 0
    with pytest.raises(ValueError, match="found 4 samples"):
        stats.pass_at(5, 4, 1)


def test_one_sample_a_question_gives_wilsons_interval() -> None:
    low, high = stats.score_interval([1.0] * 8 + [0.0] * 2, 1)
    assert (low, high) == pytest.approx((0.45, 0.95), abs=0.02)


def test_a_perfect_score_is_not_certain() -> None:
    low, high = stats.score_interval([1.0] * 20, 4)
    assert high == 1.0
    assert 0.7 < low < 0.9
    assert stats.score_interval([0.0] * 20, 4)[0] == 0.0


@pytest.mark.parametrize(("n", "k", "mean"), [(30, 4, 0.5), (100, 4, 0.9), (30, 1, 0.95), (500, 1, 0.02)])
def test_the_score_interval_covers_the_truth_as_often_as_it_says(n: int, k: int, mean: float) -> None:
    dice = random.Random(n + k)
    covered = 0
    for _ in range(400):
        chances = [dice.betavariate(2 * mean, 2 * (1 - mean)) for _ in range(n)]
        low, high = stats.score_interval([sum(dice.random() < c for _ in range(k)) / k for c in chances], k)
        covered += low <= mean <= high
    assert covered / 400 > 0.92


def test_the_difference_interval_covers_the_truth_as_often_as_it_says() -> None:
    dice = random.Random(1)
    covered = 0
    for _ in range(400):
        differences = []
        for _ in range(40):
            chance = 0.9 * dice.random()
            a = sum(dice.random() < chance for _ in range(4)) / 4
            b = sum(dice.random() < chance + 0.1 for _ in range(4)) / 4
            differences.append(b - a)
        low, high = stats.difference_interval(differences)
        covered += low <= 0.1 <= high
    assert 0.92 < covered / 400 < 0.98


def test_sign_flips_are_exact_for_few_and_close_for_many_questions() -> None:
    assert stats.sign_flip_p([1.0] * 5) == pytest.approx(2 / 32)
    assert stats.sign_flip_p([1.0, -1.0]) == 1.0
    assert stats.sign_flip_p([0.0] * 50) == 1.0
    assert stats.sign_flip_p([1.0] * 20 + [0.0] * 80) == pytest.approx(1 / 10_001)


def test_false_alarms_are_as_rare_as_promised() -> None:
    dice = random.Random(2)
    alarms = sum(
        stats.paired([dice.choice((-0.5, 0.0, 0.5)) for _ in range(12)], margin=0.001)["verdict"] in ("better", "worse")
        for _ in range(300)
    )
    assert alarms / 300 < 0.08


def test_holm_corrects_stepwise() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_a_clear_difference_is_better_one_way_and_worse_the_other() -> None:
    better = [0.5] * 30 + [0.0] * 20
    assert stats.paired(better, margin=0.02)["verdict"] == "better"
    assert stats.paired([-value for value in better], margin=0.02)["verdict"] == "worse"


@pytest.mark.parametrize("n", [2, 3, 5, 6, 10, 20])
@pytest.mark.parametrize("gap", [1.0, -1.0, 0.25])
@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_interval_and_verdict_agree_when_all_questions_differ_alike(n: int, gap: float, noise: float) -> None:
    found = stats.paired([gap * (1 - noise * (number % 2)) for number in range(n)], margin=0.02)
    assert found["low"] <= found["difference"] + 1e-12 and found["difference"] <= found["high"] + 1e-12
    assert found["high"] - found["low"] > (0.05 if noise == 0 else 0)
    holds_zero = found["low"] <= 0 <= found["high"]
    assert holds_zero == (found["verdict"] == "not distinguishable")
    assert found["smallest_detectable"] > 0
    if n < 6:
        assert holds_zero, "no test of five questions or fewer reaches 5%"


def test_equal_differences_are_bounded_by_what_their_number_allows() -> None:
    other = 1 - 0.025 ** (1 / 5)
    assert stats.difference_interval([1.0] * 5) == pytest.approx((1 - 2 * other, 1.0))
    assert stats.difference_interval([0.5] * 5) == pytest.approx((0.5 - 1.5 * other, 0.5 + 0.5 * other))
    assert stats.difference_interval([0.0] * 5) == pytest.approx((-(1 - 0.05**0.2), 1 - 0.05**0.2))


def test_fewer_questions_never_say_more() -> None:
    for score in (0.0, 0.5, 1.0):
        widths = [high - low for low, high in (stats.score_interval([score] * n, 1) for n in range(1, 9))]
        assert widths == sorted(widths, reverse=True)
    assert stats.score_interval([1.0], 4) == (0.0, 1.0)
    assert stats.difference_interval([0.0]) == stats.difference_interval([1.0]) == (-1.0, 1.0)


def test_identical_models_are_equivalent_only_when_there_are_enough_questions() -> None:
    assert stats.paired([0.0] * 20, margin=0.02)["verdict"] == "not distinguishable"
    assert stats.paired([0.0] * 200, margin=0.02)["verdict"] == "equivalent within ±2 points"


def test_noise_is_not_distinguishable_and_says_what_could_have_been_found() -> None:
    dice = random.Random(3)
    found = stats.paired([dice.choice((-0.25, 0.0, 0.25)) for _ in range(30)], margin=0.02)
    assert found["verdict"] == "not distinguishable"
    assert 0.05 < found["smallest_detectable"] < 0.2
    assert found["better"] + found["worse"] + found["equal"] == 30


def test_a_verdict_is_taken_from_the_corrected_p() -> None:
    one = stats.paired([1.0] * 6 + [0.0] * 10, margin=0.02)
    assert (one["p"], one["verdict"]) == (pytest.approx(2 / 64), "better")
    settled = stats.settle([one, one, one])
    assert [found["verdict"] for found in settled] == ["not distinguishable"] * 3
    assert settled[0]["p_holm"] == pytest.approx(6 / 64)


def test_no_question_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one question"):
        stats.paired([], margin=0.02)
    with pytest.raises(ValueError, match="at least one question"):
        stats.score_interval([], 1)
