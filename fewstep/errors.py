"""The one exception that means: the user can mend this, and here is how."""


class UserError(ValueError):
    """A mistake in settings, data or files; the message names the thing and the remedy.

    Command-line entry points print the message alone; any other exception is a bug of ours and
    keeps its traceback.
    """
