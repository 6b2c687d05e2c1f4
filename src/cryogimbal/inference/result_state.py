"""What a finished search has found, as tensors and plain values for a checkpoint, and back."""

from dataclasses import asdict
from typing import Any

from cryogimbal.data.confidence import Confidence
from cryogimbal.data.density import DensityMap
from cryogimbal.data.fsc import FscCurve
from cryogimbal.data.poses import PoseSet
from cryogimbal.imaging.noise import NoiseModel
from cryogimbal.inference.row_encoder import row_encoder_from_state, row_encoder_to_state
from cryogimbal.inference.start_and_result import Reconstruction
from cryogimbal.inference.symmetry_imposition import Imposition
from cryogimbal.symmetry import symmetry_group


def reconstruction_to_state(found: Reconstruction) -> dict[str, Any]:
    """Everything needed to make the result anew, as tensors and plain values."""
    fsc, noise = found.half_map_fsc, found.noise
    return {
        "rotation": found.poses.rotation,
        "shift_angstrom": found.poses.shift_angstrom,
        "density": found.density.values,
        "voxel_size_angstrom": found.density.voxel_size_angstrom,
        "half_map_correlation": None if fsc is None else fsc.correlation,
        "noise": {**noise.state_dict(), "group": noise.group, "estimated": noise.estimated},
        "confidence": None if found.confidence is None else asdict(found.confidence),
        "signs_of_collapse": list(found.signs_of_collapse),
        "n_restarts": found.n_restarts,
        "encoder": None if found.encoder is None else row_encoder_to_state(found.encoder),
        "symmetry": {"asked": found.symmetry.asked.name, **found.symmetry.state_dict()},
    }


def reconstruction_from_state(state: dict[str, Any]) -> Reconstruction:
    """The result that :func:`reconstruction_to_state` described."""
    density = DensityMap(values=state["density"], voxel_size_angstrom=state["voxel_size_angstrom"])
    fsc = None
    if state["half_map_correlation"] is not None:
        fsc = FscCurve(
            box=density.box,
            voxel_size_angstrom=density.voxel_size_angstrom,
            correlation=state["half_map_correlation"],
            poses="shared",
        )
    encoder = None
    if state["encoder"] is not None:
        encoder = row_encoder_from_state(state["encoder"], "the checkpoint")
    return Reconstruction(
        poses=PoseSet(rotation=state["rotation"], shift_angstrom=state["shift_angstrom"]),
        density=density,
        half_map_fsc=fsc,
        noise=NoiseModel(**state["noise"]),
        confidence=None if state["confidence"] is None else Confidence(**state["confidence"]),
        signs_of_collapse=tuple(state["signs_of_collapse"]),
        n_restarts=state["n_restarts"],
        encoder=encoder,
        symmetry=Imposition(
            **{**state["symmetry"], "asked": symmetry_group(state["symmetry"]["asked"])}
        ),
    )
