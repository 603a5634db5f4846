from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray of two CPUs for all integration tests of a run."""
    from agegender.pipelines.runtime.session import ray_session

    with ray_session(num_cpus=2):
        yield
