"""What both commands say of an option without its value."""

from recjax.errors import InputError


def missing_value(option: str) -> InputError:
    """The error for an option that no value follows; a value that begins with a dash isn't taken for one."""
    return InputError(
        f"option {option}: expected a value (type one that begins with a dash as {option}=VALUE), got none"
    )
