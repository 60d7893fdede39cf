"""Errors that a user can act on, and the exit status each gives the process."""


class CxrmimError(Exception):
    """Something that the user can mend: one line that says what, where and what to do."""

    exit_code = 1


class ParamsError(CxrmimError):
    """params.yaml holds a key or a value that cannot be used."""

    exit_code = 2


class DataError(CxrmimError):
    """Raw data is missing, unreadable or not what its reader expects."""

    exit_code = 3


class CheckError(CxrmimError):
    """A record, a result and params.yaml contradict each other."""

    exit_code = 4
