"""What an epoch of a training run sums up before anything is divided."""

import math
from dataclasses import dataclass, field

from agegender.model.trainer import Tally

TALLIED = ("images", "age_distribution", "age_error", "gender", "age_error_years", "gender_correct")
"""What is counted of the images, in this order on all ranks."""


@dataclass
class EpochSums:
    """What an epoch has summed so far; it travels in the checkpoint."""

    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    waited_s: float = 0.0
    """Of the seconds, those without a batch to train on."""

    timed_images: int = 0
    """Of all ranks."""

    def speed(self) -> dict[str, float]:
        """Images per second of all ranks, and the share of the time that went by waiting for data."""
        seconds = self.seconds or math.nan
        return {
            "images_per_s": self.timed_images / seconds,
            "data_wait_share": self.waited_s / seconds,
            "seconds": self.seconds,
        }

    def to_plain(self) -> dict[str, float]:
        """As the numbers that a checkpoint holds."""
        sums = {f"sum/{name}": value for name, value in self.tally.sums.items()}
        counts = {f"count/{name}": value for name, value in self.tally.counts.items()}
        timing = {"seconds": self.seconds, "waited_s": self.waited_s, "timed_images": float(self.timed_images)}
        return sums | counts | timing

    @classmethod
    def from_plain(cls, said: dict[str, float]) -> "EpochSums":
        """Back from ``to_plain``."""
        sums, counts = ({n: said.get(f"{kind}/{n}", 0.0) for n in TALLIED} for kind in ("sum", "count"))
        return cls(Tally(sums, counts), said["seconds"], said["waited_s"], int(said["timed_images"]))
