"""Parse flags, environment and a YAML file into one validated config, and format the help.

The only module that uses pydantic-settings; independent of the jobs.
"""

import argparse
import difflib
import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from agegender.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=BaseModel)

PREFIX = "AGEGENDER_"
"""Of the variables."""

FIRST_FLAGS = {"--input": "SOURCE", "--model": "MODEL", "--output": "OUTPUT"}
"""Flags at the top of the help -> name of their value there."""

VALUE_NAMES = {"int": "N", "float": "X", "str": "TEXT", "list[str]": "NAME"}

CONFIG_HELP = """settings:
  Each option can also be set in a YAML file given by --config FILE (names with _ for -), or in the environment, as
  AGEGENDER_NUM_WORKERS; lists there are separated by commas, or JSON. Flags take precedence over the environment, the
  environment over the file. --debug (AGEGENDER_DEBUG=1) shows the traceback of an error and logs more."""

POSITION_HELP = "  Inputs may also be given by position: {program} SOURCE --output OUTPUT"

EXIT_CODES = """exit codes:
  0    done, also if the run was already finished
  1    internal error: please report it
  2    the command or config is wrong, or OUTPUT belongs to another run or holds other files
  3    the input or the model cannot be used
  4    storage or cluster failed: run the same command again
  130  interrupted: run the same command again"""


def parse_config(config_class: type[ConfigT], argv: Sequence[str], program: str) -> ConfigT:
    """Parse flags, environment and ``--config FILE`` into the validated config of a job.

    Values without a flag are inputs, for a job that has ``--input``.

    Raises:
        ConfigError: a setting is unknown, missing or out of range, or the file cannot be read.
        SystemExit: ``--help``, by argparse.
    """
    file_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    file_parser.add_argument("--config")
    try:
        parsed, flags = file_parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}. Give a YAML file") from error
    file = _File("") if parsed.config is None else _read_file(parsed.config)
    try:
        values = _settings_class(config_class, flags, program, file)()
        return config_class.model_validate(values.model_dump(exclude_unset=True))
    except ValidationError as error:
        raise ConfigError(_explain(error, config_class, flags, file, program)) from error
    except SettingsError as error:
        message = str(error).removeprefix("error parsing CLI: ")
        raise ConfigError(f"{message}. `{program} --help` shows the options") from error


def near(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`` Did you mean NAME?``, or nothing if no name is similar; ``prefix`` is shown before it, and not compared."""
    found = difflib.get_close_matches(name, list(known), 1, 0.7)
    return f" Did you mean {prefix}{found[0]}?" if found else ""


@dataclass(frozen=True)
class _File:
    """The settings of a YAML file."""

    path: str
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    """Key -> its line."""


def _read_file(path: str) -> _File:
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ConfigError(f"--config {path}: {reason}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"--config {path}, line {line}: not UTF-8. Save the file in that encoding") from error
    try:
        node, values = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        tab = ". YAML is indented with spaces, not with tabs" if "\\t" in str(error.problem) else ""
        raise ConfigError(f"--config {path}{where}: not YAML: {error.problem or error.context}{tab}") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(f"--config {path}, line {line}: not YAML: {error.reason}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--config {path}: not YAML: {error}") from error
    if node is None:
        return _File(path)
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a text"
        raise ConfigError(f"--config {path}, line {node.start_mark.line + 1}: {kind}. Write settings, as NAME: VALUE")
    lines: dict[str, int] = {}
    for key, _ in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines:
            raise ConfigError(f"--config {path}, line {line}: {name} is there twice, first in line {lines[name]}")
        lines[name] = line
    return _File(path, {str(name): value for name, value in values.items()}, lines)


def _settings_class(
    config_class: type[BaseModel], flags: Sequence[str], program: str, file: _File
) -> type[BaseSettings]:
    class Settings(config_class, BaseSettings):  # type: ignore[misc, valid-type]  # the base is chosen at run time
        model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid")

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the library's signature
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            cli: CliSettingsSource[Any] = CliSettingsSource(
                settings_cls,
                cli_prog_name=program,
                cli_kebab_case=True,
                cli_implicit_flags=True,
                cli_hide_none_type=True,
                cli_avoid_json=True,
                cli_enforce_required=False,
                cli_exit_on_error=False,
                formatter_class=_HelpFormatter,
            )
            left, texts = _take_texts(flags, config_class, cli.root_parser, program)
            in_flags = InitSettingsSource(settings_cls, init_kwargs=texts)
            in_file = InitSettingsSource(settings_cls, init_kwargs=file.values)
            return (init_settings, in_flags, cli(args=left), _Environment(settings_cls), in_file)

    texts = [inspect.cleandoc(config_class.__doc__ or ""), CONFIG_HELP, EXIT_CODES]
    if "input" in config_class.model_fields:
        texts[1] += "\n" + POSITION_HELP.format(program=program)
    Settings.__doc__ = "\n\n".join(texts)
    return Settings


class _Environment(EnvSettingsSource):
    """Variables; lists may be written with commas, or as JSON where a value has a comma."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        if get_origin(field.annotation) is not list:
            return super().decode_complex_value(field_name, field, value)
        if not value.lstrip().startswith("["):
            return [part.strip() for part in value.split(",") if part.strip()]
        try:
            return json.loads(value)
        except ValueError as error:
            name = f"{PREFIX}{field_name.upper()}"
            raise ConfigError(
                f'{name}: begins as a JSON list and is none ({error}). Give a, b or ["a", "b"]'
            ) from error


def _take_texts(
    flags: Sequence[str], config_class: type[BaseModel], parser: argparse.ArgumentParser, program: str
) -> tuple[list[str], dict[str, list[str]]]:
    """Take lists of texts out of the flags, and inputs that are given by position.

    The library would split an address at its commas, and has a syntax of its own for quotes and backslashes.

    Returns:
        The flags that are left, with positions at the end, and field -> texts.

    Raises:
        ConfigError: an unknown flag.
    """
    options = {option: action for action in parser._actions for option in action.option_strings}
    fields = {
        f"--{name.replace('_', '-')}": name
        for name, info in config_class.model_fields.items()
        if get_origin(info.annotation) is list
    }
    named = next((name for name in ("input", "photographs") if name in config_class.model_fields), None)
    left: list[str] = []
    positions: list[str] = []
    texts: dict[str, list[str]] = {}
    rest = list(flags)
    while rest:
        token = rest.pop(0)
        flag, equals, value = token.partition("=")
        if token == "--":
            positions, rest = [*positions, *rest], []
        elif not token.startswith("-"):
            positions.append(token)
        elif flag not in options:
            known = [*(option[2:] for option in options if option.startswith("--")), "config", "debug"]
            raise ConfigError(
                f"unknown option {flag}.{near(flag.strip('-'), known, '--')} `{program} --help` shows the options"
            )
        elif flag in fields and (equals or rest):
            texts.setdefault(fields[flag], []).append(value if equals else rest.pop(0))
        elif equals or options[flag].nargs == 0:
            left.append(token)
        else:
            left += [token, *rest[:1]]
            rest = rest[1:]
    if named is None:
        left += positions
    else:
        for action in parser._actions:
            action.required = False  # the positions were taken out; a missing one is a missing setting
    if named is not None and positions:
        texts[named] = [*texts.get(named, []), *positions]
    return left, texts


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Required flags first; examples keep their line breaks; values are named by type."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=min(110, shutil.get_terminal_size((110, 24)).columns))

    def add_usage(
        self,
        usage: str | None,  # noqa: ARG002  # argparse's signature
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],  # noqa: ARG002
        prefix: str | None = None,
    ) -> None:
        names = {flag for action in actions for flag in action.option_strings}
        required = [f"{flag} {value}" for flag, value in FIRST_FLAGS.items() if flag in names and flag != "--config"]
        required += ["IMAGE..." for action in actions if not action.option_strings]
        super().add_usage(" ".join([self._prog, *required, "[options]"]), [], [], prefix)

    def add_arguments(self, actions: Iterable[argparse.Action]) -> None:
        order = list(FIRST_FLAGS)
        super().add_arguments(sorted(actions, key=lambda a: _rank(a, order)))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return (action.help or "").replace(" (default: None)", "").replace(" (default: [])", "")

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        flag = action.option_strings[0] if action.option_strings else ""
        given = str(action.metavar or default_metavar)
        kind = VALUE_NAMES.get(given, given)
        kind = kind.removeprefix("list[").removesuffix("]") if kind.startswith("list[") else kind  # of each source
        name = FIRST_FLAGS.get(flag) or VALUE_NAMES.get(kind, kind)
        return lambda count: (name,) * count


def _rank(action: argparse.Action, order: list[str]) -> int:
    flag = action.option_strings[0] if action.option_strings else ""
    return order.index(flag) if flag in order else len(order)


def _explain(
    error: ValidationError, config_class: type[BaseModel], flags: Sequence[str], file: _File, program: str
) -> str:
    """Each problem with where its value was given: as a flag, in the environment or in the file."""
    lines = []
    for problem in error.errors():
        names = [part for part in problem["loc"] if isinstance(part, str)]
        if not names:
            lines.append(f"config: {problem['msg'].removeprefix('Value error, ')}")
            continue
        said = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            said = f"no such setting.{near(names[-1], _fields(config_class, names[:-1]))}".rstrip(".")
        elif problem["type"] != "missing":
            said += f" (given: {problem['input']!r})"
        lines.append(f"{_origin(names, flags, file)}: {said}")
    said = "; ".join(lines)
    return said + ("" if said.endswith("?") else ".") + f" `{program} --help` shows the options"


def _origin(names: Sequence[str], flags: Sequence[str], file: _File) -> str:
    flag = "--" + ".".join(name.replace("_", "-") for name in names)
    variable = PREFIX + "__".join(names).upper()
    if any(token.partition("=")[0] == flag for token in flags):
        return flag
    if variable in os.environ:
        return variable
    if names[0] in file.lines:
        return f"--config {file.path}, line {file.lines[names[0]]}: {'.'.join(names)}"
    return "IMAGE" if names[0] == "photographs" else flag


def _fields(config_class: type[BaseModel], path: Sequence[str]) -> Mapping[str, FieldInfo]:
    """The fields of a config, or of a group of options in it."""
    fields = config_class.model_fields
    for name in path:
        group = fields[name].annotation if name in fields else None
        fields = group.model_fields if isinstance(group, type) and issubclass(group, BaseModel) else {}
    return fields
