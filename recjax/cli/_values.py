"""What the commands say of an option without its value."""

import argparse
from typing import NoReturn

from recjax.errors import InputError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are :class:`InputError`: one line."""

    def error(self, message: str) -> NoReturn:
        """Raises."""
        option, found, _ = message.removeprefix("argument ").partition(": expected ")
        if found and option.startswith("--"):
            raise missing_value(option)
        raise InputError(message)


def missing_value(option: str) -> InputError:
    """The error for an option that no value follows; a value that begins with a dash isn't taken for one."""
    return InputError(
        f"option {option}: expected a value (type one that begins with a dash as {option}=VALUE), got none"
    )
