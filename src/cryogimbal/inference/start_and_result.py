"""What a reconstruction may start from, and what it leaves."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.confidence import Confidence
from cryogimbal.data.density import DensityMap
from cryogimbal.data.poses import PoseSet
from cryogimbal.evaluation.fsc import FscCurve
from cryogimbal.evaluation.half_alignment import HalfAlignment
from cryogimbal.imaging.noise import NoiseModel
from cryogimbal.inference.row_encoder import RowEncoder
from cryogimbal.inference.symmetry_imposition import NOTHING_IMPOSED, Imposition


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """What is known beforehand; whatever is given replaces the search for it."""

    density: Float[Tensor, "box box box"] | None = None
    """At the working box, in any scale."""
    poses: PoseSet | None = None
    """Shifts count only where they are estimated."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What a finished run has found."""

    poses: PoseSet
    """Shifts are 0 where particles were taken as centred, or had been centred before."""
    density: DensityMap
    half_map_fsc: FscCurve | None
    noise: NoiseModel
    """Of the images, and the scale of each particle."""
    encoder: RowEncoder | None
    """Taught from the density; none where that was not asked for."""
    confidence: Confidence | None = None
    """Of every particle; none for a handful of images."""
    symmetry: Imposition = NOTHING_IMPOSED
    """The group that the user has named, and whether it is imposed."""
    half_alignment: HalfAlignment | None = None
    """How the second of two independent halves was brought to the frame of the first."""
    signs_of_collapse: tuple[str, ...] = ()
    """What shows that this is no structure, one sentence each; none where nothing does."""
    n_restarts: int = 0
    """How often the search has failed and begun again with another seed."""
