"""The one exception that stands for a user's mistake at the command line or in a file."""


def one_line(text: object) -> str:
    r"""Put a text, or what an error of a library says, on one line.

    Examples:
        >>> one_line(ValueError("expected `=`\n  at line 1"))
        'expected `=` at line 1'
    """
    return " ".join(str(text).split())


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

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))
