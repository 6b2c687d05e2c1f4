"""Several classes: whether there are images enough, and the input of each class alone."""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Int
from torch import Tensor

from cryogimbal.cli.prepare import PreparedInput
from cryogimbal.inference.class_runs import Classes
from cryogimbal.inference.start_and_result import Reconstruction
from cryogimbal.io.class_files import ClassFiles


@dataclass(frozen=True, kw_only=True)
class ClassPart:
    """One class with the input of its images."""

    number: int
    """From 1."""
    index: Int[Tensor, " chosen"]
    """Its images, in the order of the stack."""
    prepared: PreparedInput
    """Of these images; the table stays whole."""
    found: Reconstruction


def parts_of(prepared: PreparedInput, classes: Classes) -> tuple[ClassPart, ...]:
    """Each class with what it was found from."""
    return tuple(
        ClassPart(
            number=number,
            index=classes.index(number),
            prepared=_of_images(prepared, classes.index(number)),
            found=found,
        )
        for number, found in enumerate(classes.found, start=1)
    )


def told_of_class(files: ClassFiles, part: ClassPart, of_all: int) -> str:
    """One line on a class."""
    n = len(part.index)
    return f"class {part.number}: {n:,} images ({n / of_all:.1%}), {files.density}"


def summary_of_class(files: ClassFiles, part: ClassPart, maps: dict[str, Any]) -> dict[str, Any]:
    """What the summary says of a class beside its maps."""
    return {
        "class_number": part.number,
        "n_particles": len(part.index),
        "map": files.density.name,
        **maps,
        **part.found.symmetry.to_dict(),
    }


def _of_images(prepared: PreparedInput, index: Tensor) -> PreparedInput:
    if len(index) == len(prepared.stack):
        return prepared
    return replace(
        prepared,
        stack=prepared.stack[index],
        spectra=prepared.spectra.subset(index.to(prepared.spectra.device)),
        shift_angstrom=prepared.shift_angstrom[index],
        half_sets=replace(prepared.half_sets, number=prepared.half_sets.number[index]),
    )
