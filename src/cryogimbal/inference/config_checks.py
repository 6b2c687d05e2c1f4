"""How an option that is out of range is refused."""

from cryogimbal.errors import InputError


def require(holds: bool, option: str, expected: str, found: object) -> None:  # noqa: FBT001
    """Refuse the value of an option unless the condition holds.

    Raises
    ------
    InputError
        If it does not.
    """
    if not holds:
        raise InputError(f"--{option}: expected {expected}, found {found}")
