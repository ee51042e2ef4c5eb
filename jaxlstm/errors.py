"""The one exception that stands for a user's mistake at the command line or in a file."""


class UserError(ValueError):
    """What the user gave cannot be used; the message is one line that says what was expected.

    The command line prints the message and leaves with status 2, so it names the file, the key or
    the option, what came, and what was expected instead.

    Examples:
        >>> raise UserError("task.length: expected int >= 2, got 0")
        Traceback (most recent call last):
        ...
        jaxlstm.errors.UserError: task.length: expected int >= 2, got 0
    """
