"""Score with torch: on GPUs, and on CPUs where the ONNX graph is to be compared with its origin."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from agegender.artifact import ModelInfo
from agegender.errors import ConfigError, train_extra_missing
from agegender.scoring.load import open_model
from agegender.scoring.predictions import Floats, Predictions, score_in_batches

try:
    import torch

    from agegender.model.calibrated import CalibratedNetwork
    from agegender.model.checkpoint import load_network
except ModuleNotFoundError as error:
    raise train_extra_missing("scoring on a GPU", str(error.name)) from error


class TorchScorer:
    """One loaded model, with the interface of ``CpuScorer``. bfloat16 on GPUs (heads in float32), float32 on CPUs."""

    info: ModelInfo
    """What the model says of itself."""

    image_size_px: int
    """Side of the images that ``score`` takes."""

    def __init__(self, folder: Path, device: str = "cuda", batch_size: int = 256) -> None:
        """Check the folder and load its weights.

        Args:
            folder: that training wrote.
            device: ``cuda``, ``cuda:1`` or ``cpu``.
            batch_size: images per forward pass.

        Raises:
            ConfigError: a GPU is asked for and torch sees none.
            InputError: a model that is missing, damaged or foreign.
        """
        self._device = torch.device(device)
        self._on_gpu = self._device.type == "cuda"
        if self._on_gpu and not torch.cuda.is_available():
            raise ConfigError(
                f"device {device!r}: torch {torch.__version__} sees no GPU; score on the CPU, or check nvidia-smi"
            )
        open_model(folder)
        network, self.info = load_network(folder)
        self.image_size_px = self.info.network.image_size_px
        self._batch_size = batch_size
        self._has_distribution = self.info.network.age_head == "distribution"
        model = CalibratedNetwork(network, self.info.calibration).eval()
        self._model = model.to(self._device).to(memory_format=torch.channels_last)

    def score(self, images: npt.NDArray[np.uint8]) -> Predictions:
        """Predict.

        Args:
            images: uint8[N, S, S, 3] RGB, S = ``image_size_px``; N may be 0.

        Raises:
            ValueError: images of another shape or type.
        """
        return score_in_batches(images, self.image_size_px, self._batch_size, self._has_distribution, self._run)

    @torch.inference_mode()
    def _run(self, batch: npt.NDArray[np.uint8]) -> list[Floats]:
        images = torch.from_numpy(batch)
        if self._on_gpu:
            # the bytes cross, not their floats; pinned, so that they cross by themselves
            images = images.pin_memory().to(self._device, non_blocking=True)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._on_gpu):
            outputs = self._model(images)
        return [output.float().cpu().numpy() for output in outputs]
