"""The one exception that means: what the user handed in is wrong, not the program."""


class InputError(ValueError):
    """A file, option or argument that can't be used.

    The message is one line that names the file, row, column or option, what was found and what was
    expected. The command line prints it and exits with code 2.

    Examples:
      >>> raise InputError("option --k: expected a whole number of at least 1, got 0")
      Traceback (most recent call last):
        ...
      recjax.errors.InputError: option --k: expected a whole number of at least 1, got 0
    """
