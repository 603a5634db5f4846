"""Soft targets for distillation (Hinton et al., 2015): the mean predictions of teacher networks for training images.

A label is one annotator's guess. The mean prediction of networks trained on many such guesses is a better target, and it
carries the uncertainty.

Shapes: N images, A = 121 age bins.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from agegender.model.batches import Samples, load_batch, resized
from agegender.model.network import FaceNetwork
from agegender.schema import AGE_BINS

SOFT_TARGET_COLUMNS = AGE_BINS + 1
"""Probability of each age, then the probability of female."""

BATCH_SIZE = 256


@torch.no_grad()
def teacher_predict(
    teachers: Sequence[FaceNetwork], samples: Samples, device: torch.device
) -> Iterator[npt.NDArray[np.float16]]:
    """The mean of the teachers' predictions for each image, without augmentation.

    Args:
        teachers: with a distribution head, in eval mode, on ``device``; images are resized to each one's input size.
        samples: the training part.
        device: of the teachers.

    Yields:
        float16[K, SOFT_TARGET_COLUMNS] for consecutive chunks of K rows, N in all.
    """
    for start in range(0, len(samples), BATCH_SIZE):
        rows = np.arange(start, min(start + BATCH_SIZE, len(samples)))
        images = load_batch(samples, rows, 0, 1, device).images
        probabilities = torch.stack([_probabilities(teacher, images) for teacher in teachers]).mean(dim=0)
        yield probabilities.cpu().numpy().astype(np.float16)


def _probabilities(teacher: FaceNetwork, images: torch.Tensor) -> torch.Tensor:
    outputs = teacher(resized(images, teacher.config.image_size_px))
    assert outputs.age_logits_BA is not None  # callers refuse teachers with a scalar head
    return torch.cat([outputs.age_logits_BA.softmax(dim=1), outputs.gender_logit_B.sigmoid().unsqueeze(1)], dim=1)
