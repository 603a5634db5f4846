"""How the labelled face is found in the images of several sources: photographs, or face crops that are taken whole."""

from collections.abc import Callable
from dataclasses import dataclass

from agegender.data.faces import FaceSearch, largest_face_cropper
from agegender.data.images import Pixels

Cut = Callable[[Pixels], Pixels | None]
"""Crops the labelled face of a photograph; None: there is no face in it."""


@dataclass(frozen=True)
class FaceSearches:
    """The face search of each source."""

    search: FaceSearch | None
    """Of the sources of photographs; None: there is none."""

    whole: frozenset[str] = frozenset()
    """Names of the sources of face crops, beside those of photographs."""

    def of(self, source: str | None) -> FaceSearch | None:
        """How faces are found in the images of a source; None: they are face crops.

        Args:
            source: its name; None in a listing of an earlier release, whose sources were all alike.
        """
        return None if source in self.whole else self.search

    def croppers(self, side_px: int) -> Callable[[str | None], Cut | None]:
        """A function from the name of a source to the function that cuts out its faces; None: images are face crops.

        Args:
            side_px: of the faces.
        """
        cut = None if self.search is None else largest_face_cropper(self.search, side_px)
        return lambda source: None if source in self.whole else cut
