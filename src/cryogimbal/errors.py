"""Errors that are the user's to mend; everything else is a defect of ours."""


class InputError(ValueError):
    """Input that cannot be used as it is.

    The message names the file, the row or option, what was expected, what was found and what to do.
    """
