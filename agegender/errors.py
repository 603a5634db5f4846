"""What can go wrong, named by what the reader can do about it.

Every class takes one message, so that an instance survives pickling between processes. A message says what is wrong,
where, the value that was seen, and what to do next. Bad images are not here: they are rows with a ``Status``.
"""


class AgegenderError(Exception):
    """Base of all errors that end a job on purpose; anything else is a defect of ours (exit code 1)."""

    exit_code = 1


class AccountingError(AgegenderError):
    """The counts of a run do not add up: a defect of ours, never of the data."""


class ConfigError(AgegenderError):
    """The command or its configuration is wrong, or OUTPUT holds a different run: change the command."""

    exit_code = 2


class InputError(AgegenderError):
    """The input or the model cannot be used: nothing there, no labels, damaged, too many bad files: look at the data."""

    exit_code = 3


class ResourceError(AgegenderError):
    """Storage or cluster failed and retries did not help: mend it and run the same command again."""

    exit_code = 4


def train_extra_missing(what: str, missing: str) -> ConfigError:
    """The error for packages that only training and GPUs need, which a plain install leaves out.

    Args:
        what: that needs them.
        missing: their names.
    """
    return ConfigError(f"{what} needs {missing}, not installed here: pip install 'agegender[train]'")
