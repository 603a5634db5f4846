"""What the weights that a training begins with have seen before it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from agegender.artifact import INFO_FILE
from agegender.pipelines.runtime.model_cache import localize_model
from agegender.scoring.load import open_model, training_images, weight_training_images


def seen_before(init: str | None, weights_file: str | None) -> npt.NDArray[np.uint64]:
    """Keys of the images that the initial weights, or choices about them, rest on.

    Args:
        init: model folder of ``--init``, whose calibration images count as well.
        weights_file: file of ``--weights``; if it is one of a model folder, the images that the weights were trained on are
            known, and of any other file they are not.

    Returns:
        uint64[N], sorted and unique.

    Raises:
        InputError: the model is damaged.
    """
    if init is not None:
        return training_images(localize_model(init).folder)
    folder = None if weights_file is None else Path(weights_file).parent
    if folder is None or not (folder / INFO_FILE).is_file():
        return np.zeros(0, np.uint64)
    open_model(folder)
    return weight_training_images(folder)
