"""What trained networks say of training images, for another to learn from: distillation (Hinton et al., 2015).

A label is one annotator's guess; the mean of several networks that saw many such guesses is a better target than the
label alone, and says how certain one can be.

Shapes: N images, A = 121 age bins.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from agegender.model.batches import Samples, load_batch, resized
from agegender.model.network import FaceNetwork
from agegender.schema import AGE_BINS

TAUGHT_COLUMNS = AGE_BINS + 1
"""Probabilities of the ages, then the probability of female."""

IMAGES_AT_ONCE = 256


@torch.no_grad()
def teach(teachers: Sequence[FaceNetwork], samples: Samples, device: torch.device) -> Iterator[npt.NDArray[np.float16]]:
    """The mean of what the teachers say of each image as it is, not varied.

    Args:
        teachers: with a distribution head, in eval mode, on ``device``; images are resized to what each takes.
        samples: the training part.
        device: where the teachers are.

    Yields:
        float16[K, TAUGHT_COLUMNS] for one run of rows after the other, N in all.
    """
    for start in range(0, len(samples), IMAGES_AT_ONCE):
        rows = np.arange(start, min(start + IMAGES_AT_ONCE, len(samples)))
        images = load_batch(samples, rows, 0, 1, device).images
        said = torch.stack([_said(teacher, images) for teacher in teachers]).mean(dim=0)
        yield said.cpu().numpy().astype(np.float16)


def _said(teacher: FaceNetwork, images: torch.Tensor) -> torch.Tensor:
    outputs = teacher(resized(images, teacher.config.image_size_px))
    assert outputs.age_logits_BA is not None  # callers take teachers with a distribution head alone
    return torch.cat([outputs.age_logits_BA.softmax(dim=1), outputs.gender_logit_B.sigmoid().unsqueeze(1)], dim=1)
