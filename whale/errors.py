"""The one error that a user is meant to see."""


class UserError(Exception):
    """Something a user can put right: what is wrong (with the file, record or key), and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, problem: str, remedy: str):
        super().__init__(problem, remedy)  # both, so that it can be sent between processes

    def __str__(self) -> str:
        return "{}\n  remedy: {}".format(*self.args)
