"""The pool alone: workers that are scripted, and a clock that moves only while the pool waits."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from agegender.errors import ResourceError
from agegender.pipelines.engine.actor_pool import (
    PENDING_WARN_S,
    REPORT_INTERVAL_S,
    RESIZE_INTERVAL_S,
    START_S,
    TASKS_IN_FLIGHT,
    RunStats,
    UnitPool,
    WorkerDied,
)
from agegender.pipelines.engine.poison import Task

LOGGER = "agegender.pipelines.engine.actor_pool"
IMAGES = 16
"""In each unit."""


class Clock:
    """Seconds that pass where the backend says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Future:
    """What a worker owes; ``done_s`` is when it is there."""

    number: int
    done_s: float
    answer: Any = None
    error: Exception | None = None

    def __hash__(self) -> int:
        return self.number


@dataclass
class Worker:
    number: int
    started_s: float
    futures: list[Future] = field(default_factory=list)
    free_s: float = 0.0
    killed: bool = False


class ScriptedWorkers:
    """Workers as a test says: when each is up, how long a task takes, and which tasks end their process.

    Args:
        clock: moved forward by ``wait``, as a real wait would.
        up_after_s: seconds from a worker's start until it is up; infinite: it stays pending. Called with its number.
        task_s: seconds that a task takes.
        dies: what a worker's process ends with at a task, if it does. Called with its number and the task.
        dies_at_start: the same of a worker that never comes up.
    """

    def __init__(
        self,
        clock: Clock,
        up_after_s: Callable[[int], float] = lambda _: 1.0,
        task_s: float = 1.0,
        dies: Callable[[int, Task], Exception | None] = lambda _, __: None,
        dies_at_start: Callable[[int], Exception | None] = lambda _: None,
        node: Callable[[int], str] = lambda _: "node",
    ) -> None:
        self.clock, self.up_after_s, self.task_s, self.dies, self.dies_at_start = (
            clock,
            up_after_s,
            task_s,
            dies,
            dies_at_start,
        )
        self.node_of = node
        self.started: list[Worker] = []
        self.submitted: list[tuple[int, Task]] = []
        self.most_in_flight = 0
        self._numbers = itertools.count()

    def start(self) -> Worker:
        worker = Worker(len(self.started), self.clock())
        self.started.append(worker)
        return worker

    def node(self, worker: Worker) -> Future:
        up_s = worker.started_s + self.up_after_s(worker.number)
        worker.free_s = up_s
        return Future(next(self._numbers), up_s, self.node_of(worker.number), self.dies_at_start(worker.number))

    def submit(self, worker: Worker, task: Task) -> Future:
        assert not worker.killed, "a task for a worker that was ended"
        assert worker.free_s <= self.clock() or worker.futures, "a task for a worker that is not up"
        self.submitted.append((worker.number, task))
        worker.free_s = max(worker.free_s, self.clock()) + self.task_s
        whole = f"{task.unit}{list(task.poison_rows)}" if task.rows is None else None
        future = Future(next(self._numbers), worker.free_s, whole, self.dies(worker.number, task))
        worker.futures.append(future)
        self.most_in_flight = max(self.most_in_flight, sum(each.done_s > self.clock() for each in worker.futures))
        return future

    def wait(self, futures: Sequence[Future], timeout_s: float) -> list[Future]:
        first_s = min(future.done_s for future in futures)
        self.clock.now_s = max(self.clock.now_s, min(first_s, self.clock.now_s + timeout_s))
        return [future for future in futures if future.done_s <= self.clock.now_s]

    def result(self, future: Future) -> Any:
        assert future.done_s <= self.clock(), "asked before it was done"
        if future.error is not None:
            raise future.error
        return future.answer

    def kill(self, worker: Worker) -> None:
        worker.killed = True

    @property
    def living(self) -> list[int]:
        return [worker.number for worker in self.started if not worker.killed]


@dataclass
class Played:
    """A pool that has done its units."""

    workers: ScriptedWorkers
    stats: RunStats
    results: list[tuple[str, Any]]

    @property
    def units(self) -> list[str]:
        return [unit for unit, _ in self.results]


def pool(workers: ScriptedWorkers, size: Callable[[], int], stats: RunStats | None = None) -> UnitPool:
    return UnitPool(workers, size, lambda _: IMAGES, stats or RunStats(), "predict", workers.clock)


def units(count: int) -> list[str]:
    return [f"u{number}" for number in range(count)]


def play(workers: ScriptedWorkers, count: int, size: int | Callable[[], int] = 2) -> Played:
    stats = RunStats()
    ask = size if callable(size) else lambda: size
    results = list(pool(workers, ask, stats).results(iter(units(count))))
    assert not workers.living, "a worker outlives the pool"
    return Played(workers, stats, results)


def kills_on(unit: str, *rows: int) -> Callable[[int, Task], Exception | None]:
    """A process ends where it decodes one of these rows."""

    def dies(_: int, task: Task) -> Exception | None:
        first, end = task.rows or (0, IMAGES)
        deadly = [row for row in rows if first <= row < end and row not in task.poison_rows]
        return WorkerDied("signal 11") if task.unit == unit and deadly else None

    return dies


def test_every_unit_once_and_no_more_workers_than_there_is_work_for() -> None:
    played = play(ScriptedWorkers(Clock()), 20)
    assert sorted(played.units) == sorted(units(20))
    assert len(played.workers.started) == 2
    assert (played.stats.workers_lost, played.stats.unit_retries) == (0, 0)
    assert len(play(ScriptedWorkers(Clock()), 1, size=8).workers.started) == 1
    assert play(ScriptedWorkers(Clock()), 0).workers.started == []


def test_a_worker_has_one_task_ahead_and_none_more() -> None:
    played = play(ScriptedWorkers(Clock(), up_after_s=lambda _: 0.0), 30, size=3)
    assert played.workers.most_in_flight == TASKS_IN_FLIGHT


def test_units_are_taken_as_they_are_needed() -> None:
    clock, taken = Clock(), 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for taken in itertools.count(1):
            yield f"u{taken}"

    workers = ScriptedWorkers(clock)
    with closing(pool(workers, lambda: 3).results(endless())) as results:
        for done, _ in enumerate(results, 1):
            assert taken - done <= 3 * TASKS_IN_FLIGHT + 1
            if done == 100:
                break


def test_none_at_the_moment_is_asked_again_and_what_is_there_is_done_meanwhile() -> None:
    workers = ScriptedWorkers(Clock())
    source: list[str | None] = ["u0", None, None, "u1", None, "u2"]
    assert sorted(unit for unit, _ in pool(workers, lambda: 2).results(iter(source))) == units(3)


def test_a_worker_that_is_not_up_gets_nothing_and_what_is_left_is_not_piled_up_on_the_first() -> None:
    played = play(ScriptedWorkers(Clock(), up_after_s=lambda number: 0.5 + 4 * number, task_s=1.0), 12)
    by_worker = [sum(worker == number for worker, _ in played.workers.submitted) for number in range(2)]
    assert by_worker == [8, 4], "the second is 4 s late, and takes half from then on"
    assert START_S > 4


@pytest.mark.parametrize(("up_after_s", "of_the_first"), [(START_S - 1, ["u0"]), (START_S + 20, ["u0", "u1"])])
def test_work_is_left_to_a_worker_that_is_about_to_be_up_but_not_to_one_that_waits_for_a_node(
    up_after_s: float, of_the_first: list[str]
) -> None:
    workers = ScriptedWorkers(Clock(), up_after_s=lambda number: up_after_s if number else 1.0, task_s=14.0)
    played = play(workers, 2)
    assert [task.unit for worker, task in played.workers.submitted if worker == 0] == of_the_first


def test_the_pool_grows_with_the_cluster() -> None:
    clock = Clock()
    room = [1]
    workers = ScriptedWorkers(clock, node=lambda number: f"node {number}")
    seen: list[int] = []
    with closing(pool(workers, lambda: room[0]).results(iter(units(60)))) as results:
        for _ in results:
            if clock() >= 1005:
                room[0] = 3  # two nodes join
            seen.append(len(workers.started))
    assert seen[0] == 1
    assert max(seen) == 3
    third_s = workers.started[2].started_s
    assert 1005 <= third_s <= 1005 + 2 * RESIZE_INTERVAL_S
    assert clock() < 1060, "three are faster than one"


def test_the_pool_shrinks_by_those_that_are_pending_and_ends_none_that_is_up() -> None:
    clock = Clock()
    room = [4]
    workers = ScriptedWorkers(clock, up_after_s=lambda number: 1.0 if number < 2 else float("inf"))
    living: set[tuple[int, ...]] = set()
    with closing(pool(workers, lambda: room[0]).results(iter(units(60)))) as results:
        for _ in results:
            if 1003 <= clock() < 1015:
                room[0] = 3  # a node leaves
            if clock() >= 1003 + 2 * RESIZE_INTERVAL_S:
                living.add(tuple(workers.living))
            if clock() >= 1015:
                room[0] = 1
            if clock() >= 1015 + 2 * RESIZE_INTERVAL_S:
                assert workers.living == [0, 1]
    assert living == {(0, 1, 2), (0, 1)}, "the newest goes first"
    assert [worker.number for worker in workers.started] == [0, 1, 2, 3], "none is started for room that is not there"


def test_pending_workers_are_reported_once_and_again_when_they_are_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    up_s = PENDING_WARN_S + 20
    play(ScriptedWorkers(Clock(), up_after_s=lambda number: 1.0 if number == 0 else up_s), 80)
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    warned = [message for level, message in said if level == "WARNING"]
    assert len(warned) == 1
    assert "scoring in 1 processes on 1 nodes; 1 more are pending: insufficient CPUs" in warned[0]
    assert said[-1] == ("INFO", "scoring in 2 processes on 1 nodes")


def test_where_nothing_can_be_scored_that_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    workers = ScriptedWorkers(clock, up_after_s=lambda _: PENDING_WARN_S + 3 * REPORT_INTERVAL_S)
    play(workers, 2)
    warned = [
        record for record in caplog.records if "scoring in 0 processes on 0 nodes; 2 more are pending" in record.message
    ]
    assert len(warned) == 3


def test_a_worker_that_dies_is_replaced_and_its_unit_is_done_once_more(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    struck = iter([WorkerDied("killed by the system for its memory")])

    played = play(ScriptedWorkers(Clock(), dies=lambda _, task: next(struck, None) if task.unit == "u5" else None), 12)
    assert sorted(played.units) == sorted(units(12)), "no result twice, none lost"
    assert (played.stats.workers_lost, played.stats.unit_retries) == (1, 1)
    assert len(played.workers.started) == 3
    assert [task.unit for _, task in played.workers.submitted].count("u5") == 2
    assert "ended at u5; it is replaced. Reason: killed by the system for its memory" in caplog.text
    assert "a replacement finished its first task" in caplog.text


def test_what_waited_behind_the_task_that_died_is_no_suspect() -> None:
    struck = iter([WorkerDied("signal 9")])
    # One worker, so that another unit waits behind the one that dies.
    played = play(
        ScriptedWorkers(Clock(), dies=lambda _, task: next(struck, None) if task.unit == "u0" else None), 3, size=1
    )
    assert sorted(played.units) == units(3)
    assert played.stats.unit_retries == 1
    assert all(task.deaths == 0 for _, task in played.workers.submitted if task.unit != "u0")


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("rows", [(0,), (7, 8), (3, 15)])
def test_the_images_that_end_their_process_are_found_and_only_they_are_left_out(
    rows: tuple[int, ...], size: int
) -> None:
    played = play(ScriptedWorkers(Clock(), dies=kills_on("u3", *rows)), 8, size)
    assert dict(played.results) == {unit: f"{unit}{list(rows if unit == 'u3' else ())}" for unit in units(8)}
    assert len(played.results) == 8, "probes are no results"
    assert played.stats.unit_retries == 2, "after that it is searched in pieces"
    assert 4 <= played.stats.workers_lost <= 2 + 4 * len(rows)
    assert len(played.workers.started) <= size + played.stats.workers_lost


def test_a_worker_without_memory_is_replaced_like_one_that_was_killed() -> None:
    """A backend turns ``MemoryError`` into ``WorkerDied`` (``ray_actors``); the process lives, and must not be used again."""
    struck = iter([WorkerDied("MemoryError: the process got no memory from the system.")])
    played = play(ScriptedWorkers(Clock(), dies=lambda _, task: next(struck, None) if task.unit == "u1" else None), 6)
    assert sorted(played.units) == units(6)
    first = next(number for number, task in played.workers.submitted if task.unit == "u1")
    after = [task.unit for number, task in played.workers.submitted if number == first]
    assert after.index("u1") >= len(after) - TASKS_IN_FLIGHT, "nothing is given to it afterwards"
    assert played.workers.started[first].killed


def test_workers_that_die_at_their_start_cost_no_unit_a_try() -> None:
    workers = ScriptedWorkers(
        Clock(), dies_at_start=lambda number: WorkerDied("node lost") if number in (0, 2) else None
    )
    played = play(workers, 6)
    assert sorted(played.units) == units(6)
    assert (played.stats.workers_lost, played.stats.unit_retries) == (0, 0)
    assert len(workers.started) == 4


def test_where_none_comes_up_the_run_ends() -> None:
    workers = ScriptedWorkers(Clock(), dies_at_start=lambda _: WorkerDied("no such module"))
    with pytest.raises(ResourceError, match=r"scoring processes in a row ended, the last at its start: no such module"):
        list(pool(workers, lambda: 2).results(iter(units(6))))
    assert not workers.living


def test_where_every_task_ends_its_process_the_run_ends() -> None:
    workers = ScriptedWorkers(Clock(), dies=lambda _, __: WorkerDied("signal 4"))
    with pytest.raises(ResourceError, match=r"in a row ended, the last at u\d+: signal 4"):
        list(pool(workers, lambda: 2).results(iter(units(40))))
    assert not workers.living


def test_an_error_of_a_task_ends_the_run_as_it_is() -> None:
    workers = ScriptedWorkers(Clock(), dies=lambda _, task: ResourceError("S3 is away") if task.unit == "u2" else None)
    with pytest.raises(ResourceError, match=r"^S3 is away$"):
        list(pool(workers, lambda: 2).results(iter(units(6))))
    assert not workers.living


def test_results_that_are_abandoned_end_all_workers() -> None:
    workers = ScriptedWorkers(Clock(), up_after_s=lambda number: 1.0 if number else float("inf"))
    results = pool(workers, lambda: 3).results(iter(units(50)))
    next(results)
    assert len(workers.living) == 3
    results.close()
    assert not workers.living, "those that are pending as well"
