"""Keyword arguments -> the validated config of a job, with the names, defaults and bounds of the command line."""

import difflib
import inspect
import os
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError

from agegender.config import RELEASED_MODELS
from agegender.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=BaseModel)
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def keywords_of(
    config_class: type[BaseModel], without: tuple[str, ...] = (), defaults: Mapping[str, Any] | None = None
) -> Callable[[FunctionT], FunctionT]:
    """Show the fields of a config in the signature and the docstring of a function that takes them as ``**options``.

    Notebooks complete from the signature, and ``help()`` prints the docstring.

    Args:
        config_class: the config of the job.
        without: fields that the function does not take.
        defaults: of the function, if different from the config's.
    """

    def decorate(function: FunctionT) -> FunctionT:
        signature = inspect.signature(function)
        named = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        taken = {"input", *without, *signature.parameters}
        fields = {name: field for name, field in config_class.model_fields.items() if name not in taken}
        values = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
        values |= defaults or {}
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in values.items()
        ]
        function.__signature__ = signature.replace(parameters=[*named, *options])  # type: ignore[attr-defined]
        lines = [_entry(name, field.description or "") for name, field in fields.items()]
        function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Options:", *lines])
        return function

    return decorate


def _entry(name: str, text: str) -> str:
    return textwrap.fill(f"{name}: {' '.join(text.split())}", 116, initial_indent="    ", subsequent_indent="        ")


def build_config(
    config_class: type[ConfigT], function: str, given: Mapping[str, Any], without: tuple[str, ...] = ()
) -> ConfigT:
    """Validate keyword arguments.

    Args:
        config_class: the config of the job.
        function: name of the called function, for messages.
        given: field -> value; paths may be ``pathlib`` objects, and a string is accepted for a list of one.
        without: fields that the function does not take.

    Raises:
        ConfigError: an unknown name, or a value out of bounds; the message lists what is allowed.
    """
    allowed = [name for name in config_class.model_fields if name not in without]
    for name in given:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, 1)
            guess = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{function}() has no option {name!r}.{guess} Its options: {', '.join(sorted(allowed))}")
    values = {name: _plain(value, _is_list(config_class, name)) for name, value in given.items()}
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{function}(): {_explain(error)}") from error


def _is_list(config_class: type[BaseModel], name: str) -> bool:
    return get_origin(config_class.model_fields[name].annotation) is list


def _plain(value: Any, is_list: bool) -> Any:  # Any: the caller's value, not yet validated
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
        if value in RELEASED_MODELS:  # Path("./fast") has lost what tells a folder from a name
            value = f"{os.curdir}{os.sep}{value}"
    if is_list and isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [_plain(item, False) for item in value]
    return value


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        given = f" (given: {problem['input']!r})" if name and problem["type"] != "missing" else ""
        lines.append(f"{name + ': ' if name else ''}{problem['msg'].removeprefix('Value error, ')}{given}")
    return "; ".join(lines)
