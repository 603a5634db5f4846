"""Parse flags, environment and a YAML file into one validated config, and format the help.

The only module that uses pydantic-settings; independent of the jobs.
"""

import argparse
import inspect
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from agegender.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=BaseModel)

FIRST_FLAGS = {"--input": "SOURCE", "--model": "MODEL", "--output": "OUTPUT"}
"""Flags at the top of the help -> name of their value there."""

VALUE_NAMES = {"int": "N", "float": "X", "str": "TEXT", "list[str]": "NAME"}

CONFIG_HELP = """settings:
  Each option can also be set in a YAML file given by --config FILE (names with _ for -), or in the environment, as
  AGEGENDER_NUM_WORKERS. Flags take precedence over the environment, the environment over the file."""

EXIT_CODES = """exit codes:
  0    done, also if the run was already finished
  1    internal error: please report it
  2    the command or config is wrong, or OUTPUT belongs to another run
  3    the input or the model cannot be used
  4    storage or cluster failed: run the same command again
  130  interrupted: run the same command again"""


def parse_config(config_class: type[ConfigT], argv: Sequence[str], program: str) -> ConfigT:
    """Parse flags, environment and ``--config FILE`` into the validated config of a job.

    Raises:
        ConfigError: a setting is unknown, missing or out of range, or the file cannot be read.
        SystemExit: ``--help`` or a wrong flag, by argparse.
    """
    file_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    file_parser.add_argument("--config")
    parsed, flags = file_parser.parse_known_args(list(argv))
    settings = _settings_class(config_class, _protect_commas(flags), program, parsed.config)
    try:
        values = settings()
        return config_class.model_validate(values.model_dump(exclude_unset=True))
    except ValidationError as error:
        raise ConfigError(_explain(error, program)) from error
    except SettingsError as error:
        raise ConfigError(f"{error}. `{program} --help` shows the options") from error


def _settings_class(
    config_class: type[BaseModel], flags: list[str], program: str, file: str | None
) -> type[BaseSettings]:
    if file is not None and not Path(file).is_file():
        raise ConfigError(f"--config {file}: no such file")

    class Settings(config_class, BaseSettings):  # type: ignore[misc, valid-type]  # the base is chosen at run time
        model_config = SettingsConfigDict(env_prefix="AGEGENDER_", env_nested_delimiter="__", extra="forbid")

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the library's signature
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            cli: CliSettingsSource[Any] = CliSettingsSource(
                settings_cls,
                cli_prog_name=program,
                cli_parse_args=flags,
                cli_kebab_case=True,
                cli_implicit_flags=True,
                cli_hide_none_type=True,
                cli_avoid_json=True,
                cli_enforce_required=False,
                formatter_class=_HelpFormatter,
            )
            sources = [init_settings, cli, env_settings]
            return (*sources, YamlConfigSettingsSource(settings_cls, yaml_file=file)) if file else tuple(sources)

    Settings.__doc__ = "\n\n".join([inspect.cleandoc(config_class.__doc__ or ""), CONFIG_HELP, EXIT_CODES])
    return Settings


def _protect_commas(flags: Iterable[str]) -> list[str]:
    """Encode list values as JSON, because the library would split an address at its commas."""
    protected: list[str] = []
    for flag in flags:
        after_list_flag = bool(protected) and protected[-1] in ("--input", "--keep-columns")
        protected.append(json.dumps([flag]) if after_list_flag else flag)
    return protected


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Required flags first; examples keep their line breaks; values are named by type."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=min(110, int(os.environ.get("COLUMNS", "110"))))

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
        name = FIRST_FLAGS.get(flag) or VALUE_NAMES.get(str(action.metavar), str(action.metavar or default_metavar))
        return lambda count: (name,) * count


def _rank(action: argparse.Action, order: list[str]) -> int:
    flag = action.option_strings[0] if action.option_strings else ""
    return order.index(flag) if flag in order else len(order)


def _explain(error: ValidationError, program: str) -> str:
    lines = []
    for problem in error.errors():
        flag = "--" + ".".join(str(part).replace("_", "-") for part in problem["loc"]) if problem["loc"] else "config"
        value = "" if problem["type"] == "missing" else f" (given: {problem['input']!r})" if problem["loc"] else ""
        lines.append(f"{flag}: {problem['msg'].removeprefix('Value error, ')}{value}")
    return "; ".join(lines) + f". `{program} --help` shows the options"
