"""What the cards of the released models say about the sets that they learnt from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FaceSet:
    """A public set of faces."""

    title: str
    flags: str
    """Of `agegender train`, wherever it lies."""

    source: str
    labels: str
    terms: str
    origin: str


SETS = {
    "utkface": FaceSet(
        title="UTKFace",
        flags="--input UTKFace --faces none",
        source="Zhang, Song and Qi (CVPR 2017)",
        labels="ages estimated by a model and checked by a person; a binary gender and five races given from looks",
        terms="non-commercial research only; its images may not be redistributed",
        origin="collected from the web without asking the people in it",
    ),
    "fairface": FaceSet(
        title="FairFace",
        flags="--input fairface --faces detect",
        source="Karkkainen and Joo (WACV 2021)",
        labels="ranges of ages, a binary gender and seven races, on which at least two of three people agreed from looks",
        terms="CC BY 4.0",
        origin="photographs on Flickr under Creative Commons licences, which are no consent of the people in them",
    ),
    "allagefaces": FaceSet(
        title="All-Age-Faces",
        flags="--input allagefaces --faces detect",
        source="Cheng et al. (2019)",
        labels="ages in years and a binary gender, mostly of Asian faces; no race",
        terms="published for research, without a licence; taken as research only",
        origin="how its people were asked is not said",
    ),
}
"""Name in `make release` -> the set."""

PRETRAINED = (
    "began as HSE's FaceRes (Savchenko, Apache-2.0), a MobileNet-v1 that learnt identities from VGGFace2, then ages and genders "
    "from IMDB. IMDB's faces are offered for academic research only, and VGGFace2's photographs belong to others."
)
"""Of a network that `--weights` began."""

TUNED = {
    "teacher_mobilenet_v1": (
        "It was tuned before, on a GPU by a script that is not kept, in 19 epochs over images of the training parts of the same "
        "three sets; `--weights faceres_mobilenet_v1.safetensors --epochs 20` begins where that did."
    )
}
"""What is said of a file of `--weights`, by its name, that had learnt from the sets before."""
