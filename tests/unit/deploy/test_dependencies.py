"""pyproject.toml and constraints.txt: what a plain install brings, what the extra adds, and that the two files agree."""

from importlib.metadata import version

from packaging.requirements import Requirement

from agegender.pipelines.train.run import TRAIN_PACKAGES
from tests.support.deploy_files import PROJECT, RAY, constraint

BASE = [Requirement(each) for each in PROJECT["dependencies"]]
TRAIN = [Requirement(each) for each in PROJECT["optional-dependencies"]["train"]]
DEV = [Requirement(each) for each in PROJECT["optional-dependencies"]["dev"]]


def test_what_train_looks_for_is_what_its_extra_brings() -> None:
    assert {each.name for each in TRAIN} == {"ray", *TRAIN_PACKAGES}
    assert not {each.name for each in BASE} & set(TRAIN_PACKAGES)
    (itself,) = [each for each in DEV if each.name == PROJECT["name"]]
    assert itself.extras == {"docs", "heif", "train"}


def test_constraints_name_a_version_that_each_requirement_takes() -> None:
    for needed in [*BASE, *TRAIN, *DEV]:
        if needed.name != PROJECT["name"]:
            assert needed.specifier.contains(constraint(needed.name.lower())), needed


def test_ray_is_a_tested_range_that_ends_with_the_version_of_the_constraints() -> None:
    (ray,) = [each for each in BASE if each.name == "ray"]
    assert {each.operator for each in ray.specifier} == {">=", "<"}
    major, minor, _ = RAY.split(".")
    assert f"<{major}.{int(minor) + 1}" in str(ray.specifier)
    assert ray.specifier.contains(version("ray"))
