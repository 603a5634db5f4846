"""README and docs/: the commands that a reader copies are right, lines are short, and nothing is a promise."""

import re
import shlex
from pathlib import Path

import pytest

from agegender.cli import JOBS
from agegender.settings import parse_config

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (
        *ROOT.glob("*.md"),
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "agegender/released").glob("*/*.md")),
    )
}
LINE_CHARACTERS = 120
TARGETS = re.compile(r"\baim(ed|s)? (at|for)\b|\bgoal (is|of|was)\b|\btarget (is|of|was)\b", re.IGNORECASE)
PICTURE_BYTES = 200_000


def commands(page: str) -> list[list[str]]:
    """Every `agegender COMMAND ...` of the code that is set off by four spaces, as its arguments."""
    code = "\n".join(line for line in page.splitlines() if line.startswith("    "))
    lines = re.sub(r"\\\n\s*", "", code).splitlines()
    found = [re.search(r"(?:^\s+|-- |^\s+\$ )agegender ([a-z-]+ .*)", re.sub(r"\s+#.*", "", line)) for line in lines]
    return [shlex.split(re.sub(r"[\[\]]", "", each.group(1))) for each in found if each]


COMMANDS = [(page, command) for page, text in PAGES.items() for command in commands(text)]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_every_command_is_one_that_the_command_line_takes(page: str, command: list[str]) -> None:
    name, *arguments = command
    parse_config(JOBS[name].config, arguments, f"agegender {name}")


def test_the_commands_are_found() -> None:
    assert {"predict", "eda", "train", "evaluate", "preview", "sample"} <= {command[0] for _, command in COMMANDS}
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith("agegender/")])
def test_lines_are_short_and_say_what_is_and_not_what_was_aimed_at(page: str) -> None:
    lines = PAGES[page].splitlines()
    assert [line for line in lines if len(line) > LINE_CHARACTERS] == []
    assert [line for line in lines if TARGETS.search(line)] == []


def test_the_readme_begins_with_a_small_picture_an_install_and_a_row() -> None:
    first_screen = PAGES["README.md"].split("\n---\n")[0]
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", first_screen)
    assert 0 < (ROOT / picture).stat().st_size < PICTURE_BYTES
    for part in ("pip install agegender", 'agegender.predict("photos/")', "age_years", "Who it is for", "not for"):
        assert part in first_screen, part
