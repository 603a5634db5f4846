import pytest

from agegender.pipelines.engine.unit_scorer import pool_shape


@pytest.mark.parametrize(
    ("workers", "threads", "nodes", "expected"),
    [
        (None, 1, [1.0], (1, 0.8)),
        (None, 1, [2.0], (2, 0.8)),
        (None, 2, [2.0], (1, 1.6)),
        (None, 4, [1.0], (1, 0.8)),
        (4, 1, [2.0], (4, 0.4)),
        (1, 1, [16.0], (1, 0.8)),
        (4, 1, [1.0, 1.0, 1.0], (4, 0.4)),
        (None, 1, [2.0, 1.0], (3, 0.8)),
    ],
)
def test_every_actor_fits_on_a_node_and_a_fifth_of_the_cpus_stays_free(
    workers: int | None, threads: int, nodes: list[float], expected: tuple[int, float]
) -> None:
    actors, cpus = pool_shape(workers, threads, nodes)
    assert (actors, cpus) == expected
    assert sum(int(node / cpus) for node in nodes) >= actors
    assert actors * cpus <= 0.8 * sum(nodes) + 1e-9
