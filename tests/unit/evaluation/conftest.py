import numpy as np
import pytest

from agegender.evaluation.metrics import Observations
from tests.support.observed import of_exact_ages


def observe(n: int, seed: int = 0) -> Observations:
    """Images as a fair model would see them; one in ten has no age, one in ten no gender, one in five no race."""
    rng = np.random.default_rng(seed)
    age = rng.integers(0, 105, n).astype(np.float32)
    estimate = np.clip(age + rng.normal(0, 1 + age / 10), 0, 120).astype(np.float32)
    gender = rng.integers(0, 2, n).astype(np.int8)
    logit = (2 * gender - 1) * 2 + rng.normal(0, 1.5, n)
    race = rng.integers(0, 5, n).astype(np.int8)
    age[rng.random(n) < 0.1] = np.nan
    gender[rng.random(n) < 0.1] = -1
    race[rng.random(n) < 0.2] = -1
    female = (1 / (1 + np.exp(-logit))).astype(np.float32)
    return of_exact_ages(age, gender, race, estimate, estimate - 6, estimate + 8, female)


@pytest.fixture
def observations() -> Observations:
    return observe(3000)
