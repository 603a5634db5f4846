"""Select example images for the report."""

import numpy as np
import numpy.typing as npt

from agegender.evaluation.metrics import Observations, age_errors

Indices = npt.NDArray[np.int64]


def choose_examples(observations: Observations, seed: int, count: int) -> dict[str, Indices]:
    """Example images by category.

    Args:
        observations: N images.
        seed: of the random ones and of the order of ties.
        count: maximum per category.

    Returns:
        ``random``; ``best`` and ``worst`` by age error, which is to the nearest end of a range; ``gender_mistakes``, most
        confident first. Indices, int64.
    """
    shuffled = np.random.default_rng(seed).permutation(len(observations)).astype(np.int64)
    errors = age_errors(observations)
    aged = shuffled[~np.isnan(errors[shuffled])]
    by_error = aged[np.argsort(errors[aged], kind="stable")]
    confidence = np.abs(observations.female_probability - 0.5)
    is_mistake = observations.gender_labelled & (
        (observations.female_probability >= 0.5) != (observations.gender_true == 1)
    )
    mistakes = shuffled[is_mistake[shuffled]]
    return {
        "random": shuffled[:count],
        "best": by_error[:count],
        "worst": by_error[::-1][:count],
        "gender_mistakes": mistakes[np.argsort(-confidence[mistakes], kind="stable")][:count],
    }
