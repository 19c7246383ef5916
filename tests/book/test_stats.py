"""Student's t, the interval for a mean, and Holm's correction for many of them."""

import math
import random

import pytest

from cvattn.book.stats import holm, signs, t_cdf, t_interval, t_quantile, t_test

# Printed tables of Student's t (for one, NIST/SEMATECH Handbook, 1.3.6.7.2).
TABLE = [
    (0.975, 1, "12.706"), (0.975, 2, "4.303"), (0.975, 3, "3.182"),
    (0.975, 4, "2.776"), (0.975, 5, "2.571"), (0.975, 9, "2.262"),
    (0.975, 10, "2.228"), (0.975, 29, "2.045"), (0.975, 30, "2.042"),
    (0.975, 100, "1.984"), (0.95, 1, "6.314"), (0.95, 9, "1.833"),
    (0.995, 2, "9.925"), (0.995, 9, "3.250"), (0.90, 7, "1.415"),
    (0.999, 4, "7.173"),
]


@pytest.mark.parametrize("p, df, printed", TABLE)
def test_quantiles_are_the_printed_ones(p, df, printed):
    assert f"{t_quantile(p, df):.3f}" == printed
    assert t_quantile(1 - p, df) == pytest.approx(-t_quantile(p, df), rel=1e-9)


@pytest.mark.parametrize("t", [-7.0, -1.0, -0.1, 0.0, 0.5, 3.0])
def test_cdf_in_closed_form(t):
    assert t_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi)
    assert t_cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)))
    normal = 0.5 * (1 + math.erf(t / math.sqrt(2)))
    assert t_cdf(t, 10_000) == pytest.approx(normal, abs=1e-4)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 9, 10, 57])
@pytest.mark.parametrize("p", [0.001, 0.3, 0.5, 0.9, 0.9999])
def test_quantile_inverts_cdf(p, df):
    assert t_cdf(t_quantile(p, df), df) == pytest.approx(p, abs=1e-12)


def test_interval_by_hand():
    """Mean 5; squares 9 + 1 + 1 + 9 = 20; sd = sqrt(20/3); t(0.975, 3) = 3.182446."""
    mean, low, high = t_interval([2.0, 4.0, 6.0, 8.0])
    reach = 3.182446 * math.sqrt(20 / 3) / 2
    assert mean == 5
    assert (low, high) == pytest.approx((5 - reach, 5 + reach), rel=1e-6)
    assert (round(low, 3), round(high, 3)) == (0.891, 9.109)


def test_interval_moves_and_grows_with_its_values():
    values = [0.91, 0.905, 0.913, 0.908, 0.9]
    mean, low, high = t_interval(values)
    moved = t_interval([10 * v - 3 for v in values])
    assert moved == pytest.approx((10 * mean - 3, 10 * low - 3, 10 * high - 3))
    wide = t_interval(values, level=0.99)
    assert wide[1] < low < mean < high < wide[2]
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("level", [0.95, 0.5])
@pytest.mark.parametrize("n", [3, 10])
def test_it_covers_the_truth_as_often_as_it_says(n, level):
    rng, trials, hits = random.Random(0), 4000, 0
    factor = t_quantile((1 + level) / 2, n - 1)
    for _ in range(trials):
        values = [rng.gauss(1.0, 2.0) for _ in range(n)]
        mean = math.fsum(values) / n
        sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
        hits += abs(mean - 1.0) <= factor * sd / math.sqrt(n)
        if _ < 20:
            assert t_interval(values, level=level)[2] == pytest.approx(
                mean + factor * sd / math.sqrt(n))
    error = math.sqrt(level * (1 - level) / trials)
    assert hits / trials == pytest.approx(level, abs=3 * error)


@pytest.mark.parametrize("values, level", [([], 0.95), ([1.0], 0.95),
                                           ([1.0, 2.0], 0.0), ([1.0, 2.0], 1.0),
                                           ([1.0, 2.0], -0.5), ([1.0, 2.0], 95)])
def test_interval_errors(values, level):
    message = f"need at least 2 values and 1e-09 <= level <= 1 - 2e-09, " \
        f"got n={len(values)}, level={level}"
    with pytest.raises(ValueError, match=message):
        t_interval(values, level=level)


@pytest.mark.parametrize("p, df", [
    (0, 3), (1, 3), (1.5, 3), (-1, 3), (0.5, 0), (0.5, -2), (0.5, 2.5), (1e-17, 3),
    (1 - 1e-16, 3), (9e-10, 1), (math.nan, 3), (0.5, math.nan), (0.5, 10**9),
    (0.5, math.inf)])
def test_quantile_errors(p, df):
    with pytest.raises(ValueError, match=rf"whole df from 1 to 100000, got p={p}, "
                       rf"df={df}$"):
        t_quantile(p, df)


def test_t_test_by_hand():
    """Two values: t = mean / (difference / 2), and with one degree P is an arctangent.

    1 and 3: mean 2, standard error 1, t = 2.
    """
    assert t_test([1.0, 3.0]) == pytest.approx(1 - 2 * math.atan(2) / math.pi)
    assert t_test([-1.0, -3.0]) == t_test([1.0, 3.0])
    assert t_test([-1.0, 1.0]) == pytest.approx(1)
    assert (t_test([2.0, 2.0]), t_test([0.0, 0.0])) == (0, 1)
    assert 0 <= t_test([1.0] * 600 + [0.0] * 400) < 1e-12


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_p_is_small_exactly_when_the_interval_misses_zero(level):
    rng = random.Random(1)
    missed = 0
    for _ in range(200):
        values = [rng.gauss(0.5, 1.0) for _ in range(5)]
        _, low, high = t_interval(values, level=level)
        assert (t_test(values) < 1 - level) == (low > 0 or high < 0)
        missed += low > 0 or high < 0
    assert 0 < missed < 200


def test_holm_by_hand():
    """0.01 * 4; 0.015 * 3 = 0.045; 0.02 * 2 = 0.04, not below 0.045; 0.9 * 1."""
    assert holm([0.02, 0.01, 0.9, 0.015]) == pytest.approx([0.045, 0.04, 0.9, 0.045])
    assert holm([0.4, 0.6, 0.5]) == [1, 1, 1]       # none above 1
    assert holm([0.04]) == [0.04] and holm([]) == []
    assert holm([0.02, 0.02]) == [0.04, 0.04]


@pytest.mark.parametrize("p", [[0.1, -0.1], [1.1], [float("nan")]])
def test_holm_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match=r"every p must lie in \[0, 1\], got"):
        holm(p)


def test_signs_are_held_back_by_the_number_of_looks():
    """1, 2, 3, 4 has p = 0.030: a sign alone, none beside another that is open."""
    one, noise = [1.0, 2.0, 3.0, 4.0], [1.0, -1.0, 0.5, -0.4]
    assert signs([one]) == [1] and signs([[-v for v in one]]) == [-1]
    assert signs([one, noise]) == [0, 0]
    assert signs([one, noise], alpha=0.1) == [1, 0]
    with pytest.raises(ValueError, match="at least 2 values"):
        signs([one, [1.0]])


def test_chance_alone_seldom_makes_a_sign():
    """Of families of eleven looks at nothing, a twentieth calls any sign."""
    rng, trials, called, plain = random.Random(2), 400, 0, 0
    for _ in range(trials):
        looks = [[rng.gauss(0, 1) for _ in range(5)] for _ in range(11)]
        called += any(signs(looks))
        plain += any(t_test(values) <= 0.05 for values in looks)
    assert called / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert plain / trials > 0.3


@pytest.mark.parametrize("p", [1e-9, 1e-6, 1 - 1e-9])
def test_quantiles_far_out_in_closed_form(p):
    assert t_quantile(p, 1) == pytest.approx(-1 / math.tan(math.pi * p), rel=1e-6)
    exact = (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    assert t_quantile(p, 2) == pytest.approx(exact, rel=1e-6)
