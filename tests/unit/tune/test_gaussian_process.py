"""The Gaussian process against closed forms, and expected improvement against integration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import check_grad
from scipy.stats import norm

from modelyard.tune import gaussian_process
from modelyard.tune.gaussian_process import GaussianProcess, Hyperparameters, Seen, expected_improvement

GROUPS = np.array([0, 1, 1])
HYPER = Hyperparameters(np.array([0.5, 2.0]), 1.3, 0.01)


def matern(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Equation 4.17 of Rasmussen and Williams with one length scale per knob."""
    scales = HYPER.scales[GROUPS]
    r = math.sqrt(float((((a - b) / scales) ** 2).sum()))
    return HYPER.signal * (1 + math.sqrt(5) * r + 5 * r * r / 3) * math.exp(-math.sqrt(5) * r)


def sample(n: int, seed: int = 0) -> Seen:
    rng = np.random.default_rng(seed)
    x = rng.random((n, 3))
    return Seen(x, np.sin(4 * x[:, 0]) + 0.1 * rng.standard_normal(n), np.full(n, 0.01))


def test_the_posterior_is_that_of_the_closed_form() -> None:
    """Equations 2.25 and 2.26, of standardised values."""
    seen = sample(7)
    x = np.random.default_rng(1).random((4, 3))
    mean, variance = GaussianProcess(seen, GROUPS, HYPER).posterior(x)
    centre, unit = seen.y.mean(), seen.y.std()
    covariance = np.array([[matern(a, b) for b in seen.x] for a in seen.x])
    inverse = np.linalg.inv(covariance + np.diag(seen.noise / unit**2 + HYPER.nugget))
    cross = np.array([[matern(a, b) for b in seen.x] for a in x])
    assert mean == pytest.approx(centre + unit * cross @ inverse @ ((seen.y - centre) / unit))
    assert variance == pytest.approx(unit**2 * (HYPER.signal - np.diag(cross @ inverse @ cross.T)))


def test_the_gradient_is_that_of_the_value() -> None:
    seen = sample(12, seed=4)
    squares = gaussian_process._squares(seen.x, seen.x, GROUPS)
    posterior = gaussian_process._Posterior(squares, (seen.y - seen.y.mean()) / seen.y.std(), seen.noise)
    rng = np.random.default_rng(2)
    for _ in range(5):
        at = posterior.middle + 0.5 * rng.standard_normal(len(posterior.middle))
        assert check_grad(lambda h: posterior(h)[0], lambda h: posterior(h)[1], at) < 1e-4


def test_a_fit_is_at_least_as_likely_as_what_it_started_from() -> None:
    seen = sample(20)
    model = GaussianProcess.fit(seen, GROUPS)
    squares = gaussian_process._squares(seen.x, seen.x, GROUPS)
    posterior = gaussian_process._Posterior(
        squares, (seen.y - seen.y.mean()) / seen.y.std(), seen.noise / seen.y.std() ** 2
    )
    fitted = np.log([*model.hyper.scales, model.hyper.signal, model.hyper.nugget])
    assert posterior(fitted)[0] < posterior(posterior.middle)[0]
    assert np.abs(posterior(fitted)[1]).max() < 0.05, "a maximum, within the bounds"


def test_a_knob_without_influence_gets_a_long_scale() -> None:
    model = GaussianProcess.fit(sample(40), GROUPS)
    assert model.hyper.scales[1] > 3 * model.hyper.scales[0]


def test_noisy_values_are_believed_less() -> None:
    """Two values at one place: the mean is nearly that of the precise one."""
    x = np.array([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0]])
    seen = Seen(x, np.array([1.0, 3.0, 2.0]), np.array([1e-4, 4.0, 1e-4]))
    mean, _ = GaussianProcess(seen, GROUPS, HYPER).posterior(x[:1])
    assert mean[0] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_or_equal_values_are_survived(count: int) -> None:
    seen = Seen(np.full((count, 3), 0.5), np.full(count, 2.0), np.zeros(count))
    mean, variance = GaussianProcess.fit(seen, GROUPS).posterior(np.array([[0.5, 0.5, 0.5], [1.0, 0.0, 0.0]]))
    assert mean == pytest.approx([2.0, 2.0])
    assert (variance > 0).all()


def test_believing_keeps_the_mean_and_narrows_the_variance() -> None:
    model = GaussianProcess(sample(9), GROUPS, HYPER)
    x = np.random.default_rng(5).random((6, 3))
    believing = model.believing(x[:2])
    before, after = model.posterior(x), believing.posterior(x)
    assert after[0] == pytest.approx(before[0], abs=1e-2)
    assert (after[1] < before[1]).all()
    assert (after[1][:2] < 0.5 * before[1][:2]).all()


@pytest.mark.parametrize(("mean", "deviation", "best", "xi"), [(1.0, 0.5, 1.2, 0.0), (2, 0.3, 1, 0), (0, 1, 0.5, 0.2)])
def test_expected_improvement_is_the_integral(mean: float, deviation: float, best: float, xi: float) -> None:
    integral, _ = quad(
        lambda y: max(best - xi - y, 0) * norm.pdf(y, mean, deviation), mean - 9 * deviation, best - xi, limit=200
    )
    found = expected_improvement(np.array([mean]), np.array([deviation**2]), best, xi)
    assert found[0] == pytest.approx(integral, rel=1e-6, abs=1e-9)


def test_a_model_of_smooth_values_predicts_them() -> None:
    """Of a smooth function, 40 points give the rest within a tenth of its deviation, and within their intervals."""
    rng = np.random.default_rng(8)
    x, new = rng.random((40, 3)), rng.random((200, 3))

    def truth(at: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.sin(3 * at[:, 0]) + 0.5 * at[:, 1], np.float64)

    seen = Seen(x, truth(x) + 0.02 * rng.standard_normal(40), np.full(40, 0.02**2))
    mean, variance = GaussianProcess.fit(seen, GROUPS).posterior(new)
    off = np.abs(mean - truth(new))
    assert math.sqrt(float((off**2).mean())) < 0.1 * float(truth(new).std())
    assert float((off < 1.96 * np.sqrt(variance)).mean()) > 0.85
