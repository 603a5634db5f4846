import pytest

from agegender.pipelines.runtime.placement import cpus_per_elastic_worker, cpus_per_worker, pool_shape


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


@pytest.mark.parametrize(
    ("workers", "nodes", "cpus"),
    [(1, [2], 2), (2, [2], 1), (3, [2], 0.6), (3, [8, 8], 4), (1, [1, 16], 16), (2, [4, 1], 2), (4, [1, 1], 0.45)],
)
def test_all_workers_find_room(workers: int, nodes: list[float], cpus: float) -> None:
    assert cpus_per_worker(workers, nodes) == pytest.approx(cpus)


@pytest.mark.parametrize(
    ("workers", "min_workers", "nodes", "cpus"),
    [(2, 1, [1], 1), (2, 1, [1, 1], 1), (2, 1, [4], 2), (4, 2, [1], 0.45), (4, 2, [2], 1)],
)
def test_elastic_workers_wait_for_nodes_rather_than_share_a_cpu(
    workers: int, min_workers: int, nodes: list[float], cpus: float
) -> None:
    assert cpus_per_elastic_worker(workers, min_workers, nodes) == pytest.approx(cpus)
