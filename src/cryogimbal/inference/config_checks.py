"""How an option that is out of range is refused."""

from pathlib import Path

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


def require_classes(
    n_classes: int, half_sets: str, start: str, given: tuple[Path | None, Path | None]
) -> None:
    """Refuse options that say nothing for several classes; ``given`` are first map and poses.

    Raises
    ------
    InputError
        If there are some.
    """
    require(n_classes >= 1, "n-classes", "at least 1", n_classes)
    if n_classes == 1:
        return
    beside = f"beside --n-classes {n_classes}"
    require(half_sets == "shared", "half-sets", f"shared {beside}", half_sets)
    require(start == "posterior", "start", f"posterior {beside}", start)
    for option, path in zip(("initial-map", "initial-poses"), given, strict=True):
        require(path is None, option, f"none {beside}, which starts from nothing", path)
