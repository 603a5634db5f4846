from collections.abc import Callable

import pytest

from agegender.errors import ResourceError
from agegender.pipelines.engine.poison import PoisonTracker, Task


def play(tracker: PoisonTracker, first: list[Task], dies: Callable[[Task], bool]) -> tuple[list[Task], int]:
    """Do the tasks one by one, as a pool of one actor does; the whole units that came through, and the deaths."""
    done, deaths = [], 0
    tasks = list(first)
    while tasks or tracker.todo:
        task = tracker.todo.popleft() if tracker.todo else tasks.pop(0)
        if dies(task):
            deaths += 1
            tracker.died(task, "signal 11.")
        else:
            tracker.finished(task)
            done += [task] if task.rows is None else []
    assert not tracker.pending
    return done, deaths


def kills(*rows: int) -> Callable[[Task], bool]:
    def dies(task: Task) -> bool:
        first, end = task.rows or (0, 512)
        return task.unit == "bad" and any(first <= row < end and row not in task.poison_rows for row in rows)

    return dies


@pytest.mark.parametrize("rows", [(0,), (77,), (511,), (3, 4), (5, 300, 301, 511)])
def test_the_images_that_end_their_process_are_found_and_the_rest_of_their_unit_is_done(rows: tuple[int, ...]) -> None:
    tracker = PoisonTracker(lambda _unit: 512, workers=1)
    done, deaths = play(tracker, [Task("a"), Task("bad"), Task("b")], kills(*rows))
    assert {task.unit: task.poison_rows for task in done} == {"a": (), "bad": rows, "b": ()}
    assert deaths <= 2 + 4 * len(rows)


def test_a_unit_of_one_image_is_searched_too() -> None:
    done, deaths = play(PoisonTracker(lambda _unit: 1, workers=1), [Task("bad")], kills(0))
    assert ([task.poison_rows for task in done], deaths) == ([(0,)], 4)


def test_a_worker_that_was_killed_costs_one_more_try_and_no_image() -> None:
    killed = iter([True])
    done, _ = play(PoisonTracker(lambda _unit: 512, workers=1), [Task("a")], lambda _task: next(killed, False))
    assert [task.poison_rows for task in done] == [()]


def test_where_everything_dies_no_image_is_blamed() -> None:
    with pytest.raises(ResourceError, match=r"14 scoring processes in a row .* signal 11.*--num-workers"):
        play(PoisonTracker(lambda _unit: 512, workers=1), [Task("a"), Task("b")], lambda _task: True)


def test_a_unit_that_dies_as_a_whole_alone_ends_the_run() -> None:
    with pytest.raises(ResourceError, match="3 times as a whole, but none of its images does on its own"):
        play(PoisonTracker(lambda _unit: 512, workers=1), [Task("bad")], lambda task: task.rows is None)


def test_processes_that_end_before_they_work_end_the_run_as_well_and_more_processes_may_end() -> None:
    tracker = PoisonTracker(lambda _unit: 512, workers=1)
    tracker.workers = 2
    for _ in range(16):
        tracker.died_at_start("no such module.")
    with pytest.raises(
        ResourceError, match="17 scoring processes in a row ended, the last at its start: no such module"
    ):
        tracker.died_at_start("no such module.")
