"""The planner's failures: each names the offending value and the remedy.

Two kinds only. `PlannerError` is for what a user can fix; the command line prints it as one sentence and exits with
code 2. What cannot happen is an `assert`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


class PlannerError(Exception):
    """Report something that the user can fix, with the remedy.

    Args:
        message: what is wrong, naming the offending value and where it stands.
        remedy: what to do about it, as an imperative phrase.
    """

    exit_code = 2

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message, remedy)
        self.message = message.rstrip(". ")
        self.remedy = remedy.rstrip(". ")

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled by position, and another process must be able to hand this one back.
        return partial(type(self), remedy=self.remedy), (self.message,)

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}."


class InputError(PlannerError):
    """A value, option or file that the user gave cannot be used."""


class DataError(PlannerError):
    """The data are well formed but cannot support the answer that was asked for: a refusal."""


class StateError(PlannerError):
    """What is on disk does not fit the request: another recipe, another corpus, a run in progress."""


class MissingDependencyError(PlannerError):
    """An optional package is needed for this and is not installed."""


class PlannerWarning(UserWarning):
    """Something was ignored, clipped or extrapolated; the result stands with this caveat."""


@contextmanager
def importing(package: str, extra: str = "train") -> Iterator[None]:
    """Turn a missing package imported inside the block into an error that names the extra to install.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{package} is not installed", remedy=f"pip install 'compute-allocation-planner[{extra}]'") from error


def without_secret(address: str | None) -> str:
    """Return an address for messages, with a user name and password before its @ hidden."""
    return re.sub(r"^(\w+://)?.*@", r"\1…@", str(address), flags=re.DOTALL)
