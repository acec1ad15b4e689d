"""What a user is meant to see when a command does not finish."""


class UserError(Exception):
    """Something a user can put right: what is wrong (with the file, record or key), and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, problem: str, remedy: str):
        super().__init__(problem, remedy)  # both, so that it can be sent between processes

    def __str__(self) -> str:
        return "{}\n  remedy: {}".format(*self.args)


class StoppedError(Exception):
    """A signal asked a run to stop, and it did so with everything saved: the same command goes on.

    The command line exits with code 75 (EX_TEMPFAIL of sysexits.h: try again).
    """

    EXIT_CODE = 75
