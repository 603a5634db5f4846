"""The command line: ``agegender eda | train | evaluate | predict | preview | status | export | sample``.

Precedence of settings: flag, environment (``AGEGENDER_NUM_WORKERS``), the YAML file of ``--config``, default.
Heavy imports come after parsing, so that ``--help`` and a wrong command answer at once.
"""

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from pydantic import BaseModel

from agegender import __version__, config
from agegender.errors import AgegenderError
from agegender.pipelines.runtime.session import set_quiet_defaults
from agegender.settings import EXIT_CODES, parse_config

INTERRUPTED_EXIT_CODE = 130
DEFECT_EXIT_CODE = 1


@dataclass(frozen=True)
class Job:
    """One sub-command: its config class and the function that runs it."""

    config: type[BaseModel]
    module: str
    function: str


JOBS = {
    "sample": Job(config.SampleConfig, "agegender.pipelines.sample", "run_sample"),
    "eda": Job(config.EdaConfig, "agegender.pipelines.eda.run", "run_eda"),
    "train": Job(config.TrainConfig, "agegender.pipelines.train.run", "run_train"),
    "evaluate": Job(config.EvaluateConfig, "agegender.pipelines.evaluate.run", "run_evaluate"),
    "predict": Job(config.PredictConfig, "agegender.pipelines.predict.launch", "launch_predict"),
    "rescore": Job(config.RescoreConfig, "agegender.pipelines.predict.rescore", "run_rescore"),
    "preview": Job(config.PreviewConfig, "agegender.pipelines.preview", "run_preview"),
    "status": Job(config.StatusConfig, "agegender.pipelines.predict.status", "run_status"),
    "export": Job(config.ExportConfig, "agegender.pipelines.export", "run_export"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in JOBS:
        return run_job(arguments[0], arguments[1:], program=f"agegender {arguments[0]}")
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
    if not arguments:
        parser.print_help()
        return 2
    parser.parse_args(arguments[:1])
    return 0


def run_job(name: str, argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run one job from its flags; returns the exit code."""
    program = program or f"jobs/{name}.py"
    job = JOBS[name]
    logging.basicConfig(
        level=os.environ.get("AGEGENDER_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname).1s %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("botocore").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _interrupt)  # sent by `ray job stop` and Kubernetes
    try:
        settings = parse_config(job.config, sys.argv[1:] if argv is None else argv, program)
        set_quiet_defaults()
        run: Callable[[BaseModel], dict[str, Any]] = getattr(importlib.import_module(job.module), job.function)
        result = run(settings)
    except AgegenderError as error:
        return _fail(program, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail(program, "interrupted. Run the same command again to resume", INTERRUPTED_EXIT_CODE)
    _print_result(result)
    return int(result.get("exit_code", 0))


def _overview() -> str:
    commands = [f"  {name:<10}{(job.config.__doc__ or '').strip().splitlines()[0]}" for name, job in JOBS.items()]
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
            or value in (None, {}, [])
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


def _depth(value: object) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, parts), default=0) if isinstance(value, dict | list) else 0


def _fail(program: str, message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"{program}: error: {message}" if code != INTERRUPTED_EXIT_CODE else f"{program}: {message}", file=sys.stderr)
    return code


def _interrupt(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
