"""Which image ended the process that scored it: units that died are tried again, then searched piece by piece. No Ray.

    whole unit --dies twice--> eighths, probed alone --one dies--> its eighths ... --> one image, twice --> deadly
    all pieces probed --> the whole unit again, its deadly images left undecoded

So an image that ends its process costs its unit about six deaths and three times its work; a worker that was killed for
another reason costs one more try.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agegender.errors import ResourceError

TRIES = 2
"""So often a whole unit, and a single image, may end its process before it is held to be the reason."""

PIECES = 8
"""A suspect is divided into so many; a death costs seconds, a probe a forward pass."""

DEATHS_IN_A_ROW = 10
"""Beside three for each worker: more, without anything finished in between, and it is not the images."""


@dataclass(frozen=True)
class Task:
    """A unit to score, or a piece of one to probe."""

    unit: str
    """Address of its listing."""
    rows: tuple[int, int] | None = None
    """First row and the row behind the last of a piece; None: the whole unit."""
    deadly: tuple[int, ...] = ()
    """Rows that are not to be decoded again."""
    deaths: int = 0


@dataclass
class _Search:
    """The pieces of one unit that are still out, and what they gave."""

    earlier: tuple[int, ...]
    out: int = 0
    deadly: list[int] = field(default_factory=list)


class Suspects:
    """What is to be done again after deaths, ahead of new units.

    Args:
        images_of: number of images of a unit.
        workers: how many processes there are to die; may be raised as they come.
    """

    def __init__(self, images_of: Callable[[str], int], workers: int) -> None:
        self.todo: deque[Task] = deque()
        self.workers = workers
        self._images_of = images_of
        self._in_a_row = 0
        self._searches: dict[str, _Search] = {}

    @property
    def waiting(self) -> bool:
        """Whether a search still goes on."""
        return bool(self.todo or self._searches)

    def finished(self, task: Task) -> None:
        """Note that a task came back."""
        self._in_a_row = 0
        if task.rows is not None:
            self._close(task, [])

    def died(self, task: Task, reason: str) -> None:
        """Note that a process ended while it did the task.

        Raises:
            ResourceError: processes die whatever they do, or a unit dies though none of its images does.
        """
        self._count_death(f"at {task.unit}: {reason}")
        task = replace(task, deaths=task.deaths + 1)
        first, end = task.rows or (0, self._images_of(task.unit))
        if task.deaths < TRIES and (task.rows is None or end - first == 1):
            self.todo.append(task)
        elif task.rows is None:
            self._search(task, end)
        elif end - first > 1:
            self._divide(task.unit, first, end)
            self._close(task, [])
        else:
            self._close(task, [first])

    def lost(self, reason: str) -> None:
        """Note that a process ended before it was given anything.

        Raises:
            ResourceError: processes die whatever they do.
        """
        self._count_death(f"at its start: {reason}")

    def _count_death(self, where: str) -> None:
        self._in_a_row += 1
        if self._in_a_row > DEATHS_IN_A_ROW + 3 * self.workers:
            raise ResourceError(
                f"{self._in_a_row} scoring processes in a row ended, the last {where} No single image is the reason. Look at "
                "the memory of the nodes (fewer --num-workers need less) and run the same command again"
            )

    def again(self, task: Task) -> None:
        """Do a task again that waited behind the one that died."""
        self.todo.append(task)

    def _search(self, task: Task, images: int) -> None:
        if task.unit in self._searches or task.deaths > TRIES:
            raise ResourceError(
                f"{task.unit} ended its process {task.deaths} times as a whole, and none of its images does alone. "
                "Look at the memory of the nodes; a smaller --unit-images needs less"
            )
        self._searches[task.unit] = _Search(task.deadly)
        self._divide(task.unit, 0, images)

    def _divide(self, unit: str, first: int, end: int) -> None:
        size = -(-(end - first) // PIECES)
        known = self._searches[unit].earlier
        for start in range(first, end, size):
            self._searches[unit].out += 1
            self.todo.append(Task(unit, (start, min(start + size, end)), known))

    def _close(self, piece: Task, deadly: list[int]) -> None:
        search = self._searches[piece.unit]
        search.out -= 1
        search.deadly += deadly
        if search.out:
            return
        del self._searches[piece.unit]
        found = tuple(sorted({*search.earlier, *search.deadly}))
        # Where nothing was found the unit has one try left: its next death is the last.
        self.todo.append(Task(piece.unit, None, found, deaths=0 if search.deadly else TRIES))
