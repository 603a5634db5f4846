"""A network with its calibration, as scoring runs it: in torch on GPUs and as an ONNX graph on CPUs.

Shapes: B images, S side in pixels, A = 121 age bins.
"""

import torch
from torch import Tensor, nn

from agegender.artifact import Calibration
from agegender.model.network import FaceNetwork
from agegender.schema import MAX_AGE_YEARS


class CalibratedNetwork(nn.Module):
    """Decoded images in, calibrated predictions out, in the order of ``artifact.GRAPH_OUTPUTS``."""

    def __init__(self, network: FaceNetwork, calibration: Calibration) -> None:
        super().__init__()
        self.network = network
        self.gender_temperature = calibration.gender_temperature
        self.register_buffer("low_factor_A", torch.tensor(calibration.age_low_factors), persistent=False)
        self.register_buffer("high_factor_A", torch.tensor(calibration.age_high_factors), persistent=False)
        self.low_factor_A: Tensor
        self.high_factor_A: Tensor

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Score decoded images.

        Args:
            images: uint8[B, S, S, 3] RGB.

        Returns:
            Age, low and high end of its interval (years), probability of female, float32[B] each; with a distribution
            head also the probabilities of the ages, float32[B, A].
        """
        outputs = self.network(images.permute(0, 3, 1, 2))
        age_B = outputs.age_years_B.clamp(0.0, float(MAX_AGE_YEARS))
        year_B = (age_B + 0.5).floor().to(torch.int64).clamp(0, MAX_AGE_YEARS)
        spread_B = outputs.age_spread_years()
        low_B = (age_B - self.low_factor_A[year_B] * spread_B).clamp(min=0.0)
        high_B = (age_B + self.high_factor_A[year_B] * spread_B).clamp(max=float(MAX_AGE_YEARS))
        female_B = torch.sigmoid(outputs.gender_logit_B / self.gender_temperature)
        if outputs.age_logits_BA is None:
            return age_B, low_B, high_B, female_B
        return age_B, low_B, high_B, female_B, outputs.age_logits_BA.softmax(dim=1)
