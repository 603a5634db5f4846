"""The errors that end a job, by what the user can do about them.

Every class takes one message, so that instances can be pickled between processes. A message says what is wrong, where,
the value, and what to do. Bad images are not errors: they are rows with a ``Status``.
"""


class AgegenderError(Exception):
    """Base of all expected errors; anything else is a bug (exit code 1)."""

    exit_code = 1


class AccountingError(AgegenderError):
    """The counts of a run do not add up: a bug, not a problem of the data."""


class ConfigError(AgegenderError):
    """The command or its configuration is wrong, or OUTPUT belongs to another run: change the command."""

    exit_code = 2


class InputError(AgegenderError):
    """The input or the model cannot be used: empty, unlabelled, damaged, too many bad files: check the data."""

    exit_code = 3


class ResourceError(AgegenderError):
    """Storage or cluster failed and retries did not help: fix it and run the same command again."""

    exit_code = 4


def train_extra_missing(what: str, missing: str) -> ConfigError:
    """The error for packages that only training and GPUs need, which a plain install leaves out.

    Args:
        what: that needs them.
        missing: their names.
    """
    return ConfigError(f"{what} needs {missing}, not installed here: pip install 'agegender[train]'")
