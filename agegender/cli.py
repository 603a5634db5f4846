"""The command line: ``agegender eda | train | pack | evaluate | predict | preview | status | export | sample``.

Precedence of settings: flag, environment (``AGEGENDER_NUM_WORKERS``), the YAML file of ``--config``, default.
Heavy imports come after parsing, so that ``--help`` and a wrong command answer at once.
"""

import argparse
import contextlib
import importlib
import io
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from pydantic import BaseModel

from agegender import __version__, config, training_config
from agegender.errors import AgegenderError, ConfigError
from agegender.pipelines.runtime.session import set_quiet_defaults
from agegender.settings import EXIT_CODES, PREFIX, near, parse_config

INTERRUPTED_EXIT_CODE = 130
DEFECT_EXIT_CODE = 1

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
SWITCH = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
    "": False,
}

OTHER_VARIABLES = {"ALLAGEFACES", "DEBUG", "FAIRFACE", "LOG_LEVEL", "PHOTOS", "UTKFACE"}
"""Beside those of the settings; most are of the tests'."""

KUBERNETES_VARIABLE = re.compile(
    r".*_(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_(TCP|UDP)\w*)?)|(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\w+)?)"
)
"""What Kubernetes sets in every container where a service is called agegender."""


@dataclass(frozen=True)
class Job:
    """One sub-command: its config class and the function that runs it."""

    config: type[BaseModel]
    module: str
    function: str


JOBS = {
    "sample": Job(config.SampleConfig, "agegender.pipelines.sample", "run_sample"),
    "eda": Job(config.EdaConfig, "agegender.pipelines.eda.run", "run_eda"),
    "train": Job(training_config.TrainConfig, "agegender.pipelines.train.run", "run_train"),
    "pack": Job(training_config.PackConfig, "agegender.pipelines.train.pack", "run_pack"),
    "train-packed": Job(training_config.TrainPackedConfig, "agegender.pipelines.train.packed", "run_train_packed"),
    "evaluate": Job(config.EvaluateConfig, "agegender.pipelines.evaluate.run", "run_evaluate"),
    "predict": Job(config.PredictConfig, "agegender.pipelines.predict.launch", "launch_predict"),
    "rescore": Job(config.RescoreConfig, "agegender.pipelines.predict.rescore", "run_rescore"),
    "preview": Job(config.PreviewConfig, "agegender.pipelines.preview", "run_preview"),
    "status": Job(config.StatusConfig, "agegender.pipelines.predict.status", "run_status"),
    "export": Job(config.ExportConfig, "agegender.pipelines.export", "run_export"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    if argv is None:
        _use_utf8()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in JOBS:
        return run_job(arguments[0], arguments[1:], program=f"agegender {arguments[0]}")
    if arguments and not arguments[0].startswith("-"):
        known = ", ".join(JOBS)
        return _fail("agegender", f"error: no command {arguments[0]!r}.{near(arguments[0], JOBS)} There are {known}", 2)
    parser = argparse.ArgumentParser(
        prog="agegender",
        description="Estimate apparent age and gender from face images at archive scale, on Ray.",
        epilog=_overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"agegender {__version__}")
    parser.add_argument(
        "command",
        choices=list(JOBS),
        metavar="command",
        help="one of the commands below; `agegender COMMAND --help` explains it",
    )
    try:
        if not arguments:
            parser.print_help()
            return 2
        parser.parse_args(arguments[:1])
    except BrokenPipeError:
        pass
    finally:
        _flush()
    return 0


def run_job(name: str, argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run one job from its flags; returns the exit code."""
    if argv is None:
        _use_utf8()
    program = program or f"jobs/{name.replace('-', '_')}.py"
    arguments = list(sys.argv[1:] if argv is None else argv)
    job = JOBS[name]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name of a file that is not UTF-8 is shown, not raised
            stream.reconfigure(errors="backslashreplace")
    debug, settings = "--debug" in arguments, None
    try:
        debug = debug or _switched_on("DEBUG")
        _start_logging("DEBUG" if debug else _log_level())
        _warn_of_unknown_variables()
        settings = parse_config(job.config, [each for each in arguments if each != "--debug"], program)
        signal.signal(signal.SIGTERM, _interrupt)  # sent by `ray job stop` and Kubernetes
        set_quiet_defaults()
        run: Callable[[BaseModel], dict[str, Any]] = getattr(importlib.import_module(job.module), job.function)
        result = run(settings)
    except AgegenderError as error:
        return _fail(program, f"error: {error}", error.exit_code, debug)
    except KeyboardInterrupt:
        return _fail(program, "interrupted. Run the same command again to resume", INTERRUPTED_EXIT_CODE)
    except Exception as error:  # noqa: BLE001  (a defect: one line, unless the traceback is asked for)
        if settings is None and isinstance(error, BrokenPipeError):  # of --help
            return 0
        hint = "please report it" if debug else "please report it; --debug shows the traceback"
        said = f"internal error: {type(error).__name__}: {_in_one_line(error)} ({hint})"
        return _fail(program, said, DEFECT_EXIT_CODE, debug)
    finally:
        _flush()
    with contextlib.suppress(BrokenPipeError):
        _print_result(result)
    _flush()
    return int(result.get("exit_code", 0))


def _use_utf8() -> None:
    """Start this command again in Python's UTF-8 mode if the locale has another encoding, as Latin-1.

    Names of files are UTF-8 on Linux, whatever the locale: read by another encoding they would be other names in the output.
    """
    if sys.getfilesystemencoding().lower() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"  # also for the workers
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _start_logging(level: str) -> None:
    """Log what this package says from ``level`` on, and other libraries from INFO on: Pillow tells of every chunk."""
    logging.basicConfig(
        level=max(logging.INFO, logging.getLevelNamesMapping()[level]),
        format="%(asctime)s %(levelname).1s %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("agegender").setLevel(level)
    logging.getLogger("botocore").setLevel(logging.WARNING)


def _log_level() -> str:
    given = os.environ.get(f"{PREFIX}LOG_LEVEL") or "INFO"
    if given.upper() not in LOG_LEVELS:
        guess = near(given.upper(), LOG_LEVELS)
        raise ConfigError(f"{PREFIX}LOG_LEVEL={given}: no level of the log.{guess} Give one of {', '.join(LOG_LEVELS)}")
    return given.upper()


def _switched_on(name: str) -> bool:
    given = os.environ.get(f"{PREFIX}{name}", "")
    if given.lower() not in SWITCH:
        raise ConfigError(f"{PREFIX}{name}={given}: neither on nor off. Give 1 or 0")
    return SWITCH[given.lower()]


def _warn_of_unknown_variables() -> None:
    known = OTHER_VARIABLES | {name.upper() for job in JOBS.values() for name in job.config.model_fields}
    for variable in os.environ:
        name = variable.removeprefix(PREFIX)
        if name == variable or name.partition("__")[0] in known or KUBERNETES_VARIABLE.fullmatch(name):
            continue
        guess = near(name, known, PREFIX)
        logging.getLogger("agegender").warning("%s is no setting of agegender, and ignored.%s", variable, guess)


def _in_one_line(error: Exception) -> str:
    """The message, or its last line: of an error from a worker, the lines before are the worker's traceback."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no message")


def _flush() -> None:
    """Write what was printed; where the reader has left, as ``head`` does, drop it without a word."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end


def _overview() -> str:
    commands = [f"  {name:<14}{(job.config.__doc__ or '').strip().splitlines()[0]}" for name, job in JOBS.items()]
    return "\n".join(
        [
            "commands:",
            *commands,
            "",
            "example:",
            "  agegender eda     --input UTKFace/ --output out/eda",
            "  agegender train   --input UTKFace/ --output out/train",
            "  agegender predict --input photos/ --output out/predictions",
            "",
            "Each setting is a flag, a line of the YAML file given by --config, or a variable such as AGEGENDER_NUM_WORKERS.",
            "",
            EXIT_CODES,
        ]
    )


def _print_result(result: dict[str, Any]) -> None:
    """Print one line per value; tables and deeper nesting are left to the files and the report."""
    for key, value in result.items():
        if (
            key == "exit_code"
            or _is_empty(value)
            or _depth(value) > 2
            or (isinstance(value, list) and _depth(value) > 1)
        ):
            continue
        text = value
        if isinstance(value, dict):
            text = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, list):
            text = ("\n" + " " * 28).join(map(str, value))
        print(f"{key.replace('_', ' '):<28}{text}")


def _is_empty(value: object) -> bool:
    """Whether there is nothing to print: also a metric without a value, for which the set has no labels."""
    if isinstance(value, dict):
        return value.get("value", "") is None or all(map(_is_empty, value.values()))
    return value is None or value == []


def _depth(value: object) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, parts), default=0) if isinstance(value, dict | list) else 0


def _fail(program: str, message: str, code: int, debug: bool = False) -> int:
    _flush()
    with contextlib.suppress(BrokenPipeError):
        if debug:
            traceback.print_exc()
        print(f"{program}: {message}", file=sys.stderr)
    return code


def _interrupt(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
