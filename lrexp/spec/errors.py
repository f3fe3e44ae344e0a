"""The ways a command can end other than well, and the one in which a run can stand still."""


class LrexpError(Exception):
    """What all of lrexp's own errors are."""


class InputError(LrexpError, ValueError):
    """The input is wrong, or something the person must supply is missing: exit code 2, nothing written.

    The message is one or two lines: what, where, and what would be right.
    """


class RunError(LrexpError, RuntimeError):
    """A run that had begun has failed: exit code 1 and a row in the table.

    The message says at which step, and what to try.
    """


class Paused(LrexpError):
    """A run of a tuning has come to the step where it is compared with others, and has written a checkpoint."""


class Interrupted(LrexpError):
    """A run was asked to stop by a signal and has written a checkpoint: exit code 130, the same command goes on."""
