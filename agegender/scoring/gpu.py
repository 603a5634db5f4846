"""Score with torch: on GPUs, and on CPUs to compare the ONNX graph with the network."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from agegender.artifact import ModelInfo
from agegender.errors import ConfigError, train_extra_missing
from agegender.scoring.load import LocalModel
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
    """The content of ``model.json``."""

    image_size_px: int
    """Side of the input images."""

    def __init__(self, model: LocalModel | Path, device: str = "cuda", batch_size: int = 256) -> None:
        """Load the weights of a model.

        Args:
            model: an open model, or the folder that training wrote, which is verified.
            device: ``cuda``, ``cuda:1`` or ``cpu``.
            batch_size: images per forward pass.

        Raises:
            ConfigError: the device is a GPU and torch sees none.
            InputError: the model is missing, damaged or not of this package.
        """
        self._device = torch.device(device)
        self._on_gpu = self._device.type == "cuda"
        if self._on_gpu and not torch.cuda.is_available():
            raise ConfigError(
                f"device {device!r}: torch {torch.__version__} sees no GPU; score on the CPU, or check nvidia-smi"
            )
        network, self.info = load_network(LocalModel.open(model).folder)
        self.image_size_px = self.info.network.image_size_px
        self._batch_size = batch_size
        self._has_distribution = self.info.network.age_head == "distribution"
        calibrated = CalibratedNetwork(network, self.info.calibration).eval()
        self._model = calibrated.to(self._device).to(memory_format=torch.channels_last)

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
            # transfer bytes, not floats, from pinned memory, so that the copy is asynchronous
            images = images.pin_memory().to(self._device, non_blocking=True)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._on_gpu):
            outputs = self._model(images)
        return [output.float().cpu().numpy() for output in outputs]
