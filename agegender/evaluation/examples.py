"""Which images a reader should look at."""

import numpy as np
import numpy.typing as npt

from agegender.evaluation.metrics import Observations

Indices = npt.NDArray[np.int64]


def choose_examples(seen: Observations, seed: int, count: int) -> dict[str, Indices]:
    """Images to show, by why they are shown.

    Args:
        seen: N images.
        seed: draws the random ones and the order among equals.
        count: at most so many of each.

    Returns:
        ``random``; ``best`` and ``worst`` by age error; ``gender_mistakes``, the surest first. Positions, int64.
    """
    shuffled = np.random.default_rng(seed).permutation(len(seen)).astype(np.int64)
    aged = shuffled[seen.age_labelled[shuffled]]
    by_error = aged[np.argsort(np.abs(seen.age_pred - seen.age_true)[aged], kind="stable")]
    sureness = np.abs(seen.female_probability - 0.5)
    mistaken = seen.gender_labelled & ((seen.female_probability >= 0.5) != (seen.gender_true == 1))
    mistakes = shuffled[mistaken[shuffled]]
    return {
        "random": shuffled[:count],
        "best": by_error[:count],
        "worst": by_error[::-1][:count],
        "gender_mistakes": mistakes[np.argsort(-sureness[mistakes], kind="stable")][:count],
    }
