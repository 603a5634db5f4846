import pytest

from agegender.pipelines.engine.gpu_actors import target_decoders


@pytest.mark.parametrize(
    ("decoders", "busy_share", "capacity", "target"),
    [
        (2, 0.0, 16, 2),  # nothing was scored yet
        (2, 0.1, 16, 4),  # at most twice as many at once
        (4, 0.8, 16, 5),
        (5, 0.95, 16, 5),
        (12, 0.5, 16, 16),
        (16, 0.5, 8, 16),  # nodes have gone; those that are up end with them
    ],
)
def test_so_many_decoders_as_keep_a_gpu_busy(decoders: int, busy_share: float, capacity: int, target: int) -> None:
    assert target_decoders(decoders, busy_share, capacity) == target
