"""Distillation: in each step the student learns what teachers say of the very images that it sees.

That is function matching (Beyer et al., 2022, Knowledge distillation: a good teacher is patient and consistent): the teachers
see the image varied and mixed as the student sees it, at their own resolution. Predictions of the unvaried image, made once,
gave nothing (docs/accuracy.md).

Shapes: B images, A = 121 age bins.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from agegender.artifact import NetworkConfig
from agegender.model.batches import Batch
from agegender.model.network import FaceNetwork
from agegender.model.transforms import resized
from agegender.options import Precision


class Teachers:
    """Networks that are asked about each micro-batch.

    A teacher sees as much of the face as it was made to score, and at least what the student sees. So images are augmented
    at the largest side of all inputs, and wide enough for all; the student's view is cut out of the middle and downscaled.

    A teacher with two views is asked for one: the student meets the mirror images as well, so that over the epochs it is
    taught the mean of both, in half the time.

    Args:
        networks: with a distribution head, on the device; put into eval mode, and asked for one view from now on.
        student: as it is trained.
        precision: of the training.
    """

    def __init__(self, networks: Sequence[FaceNetwork], student: NetworkConfig, precision: Precision) -> None:
        self.networks = [network.eval().requires_grad_(False) for network in networks]
        for network in self.networks:
            network.config = network.config.model_copy(update={"views": 1})
        self._precision, self._student_px = precision, student.crop_size_px
        seen = student.crop_size_px / student.image_size_px
        fields = [max(seen, each.config.crop_size_px / each.config.image_size_px) for each in self.networks]
        self.side_px = max(student.image_size_px, *(each.config.image_size_px for each in self.networks))
        """Side of the whole image in the pixels that images are augmented in."""

        self._student_crop_px = _central_px(self.side_px, seen)
        self._crops_px = [_central_px(self.side_px, field) for field in fields]
        self.crop_px = max(self._crops_px)
        """Side of the central crop of ``side_px`` that ``teach`` needs."""

    def teach(self, batch: Batch) -> Batch:
        """Ask the teachers.

        Args:
            batch: augmented, with images of ``crop_px`` or, if the recipe varies nothing, of ``side_px``.

        Returns:
            The batch with the student's view of the images, and the mean of the teachers' probabilities.
        """
        asked = zip(self.networks, self._crops_px, strict=True)
        answers = [self._probabilities(network, _middle(batch.images, crop_px)) for network, crop_px in asked]
        view = resized(_middle(batch.images, self._student_crop_px), self._student_px)
        return batch._replace(images=view, soft_targets_BX=torch.stack(answers).mean(dim=0))

    @torch.no_grad()
    def _probabilities(self, teacher: FaceNetwork, images: Tensor) -> Tensor:
        """Probability of each age, then that of female: float32[B, A + 1]."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
            outputs = teacher(resized(images, teacher.config.crop_size_px))
        assert outputs.age_logits_BA is not None  # callers refuse teachers with a scalar head
        return torch.cat([outputs.age_logits_BA.softmax(dim=1), outputs.gender_logit_B.sigmoid().unsqueeze(1)], dim=1)


def _central_px(side_px: int, fraction: float) -> int:
    """Side of a central crop, with margins of whole pixels, as ``NetworkConfig.crop_size_px``."""
    return side_px - 2 * round(side_px * (1 - fraction) / 2)


def _middle(images: Tensor, crop_px: int) -> Tensor:
    start = (images.shape[-1] - crop_px) // 2
    return images[:, :, start : start + crop_px, start : start + crop_px]
