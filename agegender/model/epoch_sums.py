"""The running sums of a training epoch, from which its means are computed."""

import math
from dataclasses import dataclass, field

from agegender.model.trainer import Tally

TALLIED = ("images", "age_distribution", "age_error", "gender", "age_error_years", "gender_correct", "years_to_range")
"""Names of the sums, in the same order on all ranks."""


@dataclass
class EpochSums:
    """The sums of an epoch so far; part of the checkpoint."""

    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    waited_s: float = 0.0
    """Part of ``seconds`` spent waiting for data."""

    timed_images: int = 0
    """Images of all ranks that ``seconds`` covers."""

    def speed(self) -> dict[str, float]:
        """Images per second of all ranks, and the share of time spent waiting for data."""
        seconds = self.seconds or math.nan
        return {
            "images_per_s": self.timed_images / seconds,
            "data_wait_share": self.waited_s / seconds,
            "seconds": self.seconds,
        }

    def to_plain(self) -> dict[str, float]:
        """Flatten to the numbers that a checkpoint holds."""
        sums = {f"sum/{name}": value for name, value in self.tally.sums.items()}
        counts = {f"count/{name}": value for name, value in self.tally.counts.items()}
        timing = {"seconds": self.seconds, "waited_s": self.waited_s, "timed_images": float(self.timed_images)}
        return sums | counts | timing

    @classmethod
    def from_plain(cls, plain: dict[str, float]) -> "EpochSums":
        """Inverse of ``to_plain``."""
        sums, counts = ({n: plain.get(f"{kind}/{n}", 0.0) for n in TALLIED} for kind in ("sum", "count"))
        return cls(Tally(sums, counts), plain["seconds"], plain["waited_s"], int(plain["timed_images"]))
