"""Find images that kill the process that scores them: retry a unit, then search it piece by piece. No Ray.

    whole unit --dies twice--> eighths, probed alone --one dies--> its eighths ... --> one image, twice --> poison
    all pieces probed --> the whole unit again, its poison rows not decoded

An image that kills its process costs its unit about six deaths and three times its work; a worker that was killed for
another reason costs one retry.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agegender.errors import ResourceError

TRIES = 2
"""Deaths after which a whole unit, or a single image, is suspected."""

PIECES = 8
"""Pieces of a suspected unit or piece; a death costs seconds, a probe a forward pass."""

DEATHS_IN_A_ROW = 10
"""Plus three for each worker: after more deaths without a finished task, no image is the cause."""


@dataclass(frozen=True)
class Task:
    """A unit to score, or a piece of one to probe."""

    unit: str
    """Address of its listing."""
    rows: tuple[int, int] | None = None
    """Half-open row range of a piece; None: the whole unit."""
    poison_rows: tuple[int, ...] = ()
    """Rows that are not decoded again."""
    deaths: int = 0


@dataclass
class _Search:
    """The running pieces of one unit, and their results."""

    earlier: tuple[int, ...]
    running: int = 0
    poison_rows: list[int] = field(default_factory=list)


class PoisonTracker:
    """Tasks to retry after deaths, before new units.

    Args:
        images_of: gives the number of images of a unit.
        workers: number of processes; may be increased.
    """

    def __init__(self, images_of: Callable[[str], int], workers: int) -> None:
        self.todo: deque[Task] = deque()
        self.workers = workers
        self._images_of = images_of
        self._in_a_row = 0
        self._searches: dict[str, _Search] = {}

    @property
    def pending(self) -> bool:
        """Whether tasks are queued or a search is running."""
        return bool(self.todo or self._searches)

    def finished(self, task: Task) -> None:
        """Record that a task finished."""
        self._in_a_row = 0
        if task.rows is not None:
            self._close(task, [])

    def died(self, task: Task, reason: str) -> None:
        """Record that a process ended during the task.

        Raises:
            ResourceError: processes die on any task, or a unit dies although none of its images does.
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

    def died_at_start(self, reason: str) -> None:
        """Record that a process ended before it had a task.

        Raises:
            ResourceError: processes die on any task.
        """
        self._count_death(f"at its start: {reason}")

    def _count_death(self, where: str) -> None:
        self._in_a_row += 1
        if self._in_a_row > DEATHS_IN_A_ROW + 3 * self.workers:
            raise ResourceError(
                f"{self._in_a_row} scoring processes in a row ended, the last {where} No single image is the reason. "
                "If that does not say why, it is probably memory: fewer --num-workers need less. Then run the same command again"
            )

    def requeue(self, task: Task) -> None:
        """Queue a task again that was behind the one that died."""
        self.todo.append(task)

    def _search(self, task: Task, images: int) -> None:
        if task.unit in self._searches or task.deaths > TRIES:
            raise ResourceError(
                f"{task.unit} ended its process {task.deaths} times as a whole, but none of its images does on its own. "
                "Probably memory: a smaller --unit-images needs less"
            )
        self._searches[task.unit] = _Search(task.poison_rows)
        self._divide(task.unit, 0, images)

    def _divide(self, unit: str, first: int, end: int) -> None:
        size = -(-(end - first) // PIECES)
        known = self._searches[unit].earlier
        for start in range(first, end, size):
            self._searches[unit].running += 1
            self.todo.append(Task(unit, (start, min(start + size, end)), known))

    def _close(self, piece: Task, poison_rows: list[int]) -> None:
        search = self._searches[piece.unit]
        search.running -= 1
        search.poison_rows += poison_rows
        if search.running:
            return
        del self._searches[piece.unit]
        found = tuple(sorted({*search.earlier, *search.poison_rows}))
        # If nothing was found, the unit has one try left.
        self.todo.append(Task(piece.unit, None, found, deaths=0 if search.poison_rows else TRIES))
