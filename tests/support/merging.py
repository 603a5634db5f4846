"""Parts of a set for property tests, and the ways in which parts can be put together."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")
Part = TypeVar("Part")


def merged_in_some_order(draw: st.DrawFn, parts: Sequence[Part], merge: Callable[[Part, Part], Part]) -> Part:
    """Merge any two parts, then any two of what is there, until one is left: every order and every grouping can be drawn."""
    there = list(parts)
    while len(there) > 1:
        left = there.pop(draw(st.integers(0, len(there) - 1)))
        right = there.pop(draw(st.integers(0, len(there) - 1)))
        there.append(merge(left, right))
    return there[0]


def cut(draw: st.DrawFn, items: Sequence[T], most_parts: int = 5) -> list[list[T]]:
    """Deal items out to at least one part; a part may be empty, and neighbours need not stay together."""
    parts: list[list[T]] = [[] for _ in range(draw(st.integers(1, most_parts)))]
    for item in items:
        parts[draw(st.integers(0, len(parts) - 1))].append(item)
    return parts
