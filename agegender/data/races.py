"""The groups of people that a set's labels name, for evaluation alone: UTKFace's five, or whatever names a set has."""

from collections.abc import Mapping

from agegender.schema import RACES

OTHER_GROUPS = "other groups"
"""All groups together that are not among the largest."""

MAX_GROUPS = 20
"""More are not told apart: their bounds would be too wide to say anything."""

MAX_NAMES = 1000
"""More names are no groups but the wrong column; beyond these, names are not kept, so that memory is bounded."""


def largest_groups(counts: Mapping[str, int]) -> dict[str, int]:
    """The groups that are told apart, each with its images.

    Args:
        counts: name -> images.

    Returns:
        UTKFace's five in the order of their codes, if there are no others; else the ``MAX_GROUPS`` largest, largest first,
        and the others together as ``OTHER_GROUPS``. Empty without images.
    """
    if not sum(counts.values()):
        return {}
    if counts.keys() <= set(RACES):
        return {name: counts.get(name, 0) for name in RACES}
    ordered = sorted(counts, key=lambda name: (name == OTHER_GROUPS, -counts[name], name))
    largest, rest = ordered[:MAX_GROUPS], ordered[MAX_GROUPS:]
    kept = {name: counts[name] for name in largest}
    together = sum(counts[name] for name in rest) + kept.pop(OTHER_GROUPS, 0)
    return kept | ({OTHER_GROUPS: together} if together else {})
