"""The frame that two results share: rotation, origin and hand. A reconstruction chooses its own.

From the moving frame (a reconstruction) to the fixed frame (the truth, or the other half), with
``M = diag(1, 1, -1)`` if the hands differ and the identity if not:

    point     p' = Q M p + s
    density   V'(p) = V(M Q^T (p - s))
    rotation  A' = (M A M) Q^T
    shift     t' = t - (A' s)_xy        so that every particle stays where it is in its image
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.data.poses import PoseSet
from cryogimbal.evaluation.spline import sample_spline, transform_to_spline
from cryogimbal.fourier.shells import shell_index
from cryogimbal.fourier.transforms import density_to_hartley, mirror_spectrum
from cryogimbal.rotations import mirror_rotation


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How the moving frame becomes the fixed one: hand first, then rotation, then shift."""

    rotation: Float[Tensor, "3 3"]
    """Q."""
    shift_angstrom: Float[Tensor, "3"]
    """s (x, y, z), in the fixed frame."""
    mirrored: bool
    """Whether the two have opposite hands."""
    score: float
    """How well it fits, at most 1: the share of poses that agree within 30 degrees, or the
    correlation of the whitened maps over the frequencies that were compared."""

    @property
    def row_to_moving(self) -> Float[Tensor, "3 3"]:
        """``Q M``: takes rows of the fixed frame, (x, y, z), to rows of the moving frame."""
        signs = self.rotation.new_tensor([1.0, 1.0, -1.0 if self.mirrored else 1.0])
        return self.rotation * signs


def apply_alignment(density: DensityMap, alignment: Alignment) -> DensityMap:
    """The map in the fixed frame, on the same grid; zero where nothing is known.

    Interpolation costs less than 0.01 in FSC up to 0.9 of Nyquist. Frequencies beyond the last
    whole shell have no place in a turned box and are dropped, as is the Nyquist plane of an even
    box.
    """
    box = density.box
    device = density.values.device
    coefficients = transform_to_spline(_spectrum_in_sphere(density.values))
    shift_px = alignment.shift_angstrom.to(density.values) / density.voxel_size_angstrom
    axis = torch.arange(box, device=device, dtype=density.values.dtype) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    centred = torch.stack([x, y, z], dim=-1) - shift_px
    source = centred @ alignment.row_to_moving.to(density.values)
    values = sample_spline(coefficients, source)
    inside = ((source >= axis[0] - 0.5) & (source <= axis[-1] + 0.5)).all(-1)
    return DensityMap(
        values=torch.where(inside, values, 0.0), voxel_size_angstrom=density.voxel_size_angstrom
    )


def align_pose_frame(poses: PoseSet, alignment: Alignment) -> PoseSet:
    """The poses that belong to the map of :func:`apply_alignment`: the images stay the same."""
    turned = mirror_rotation(poses.rotation) if alignment.mirrored else poses.rotation
    rotation = turned @ alignment.rotation.to(turned).T
    origin = rotation @ alignment.shift_angstrom.to(turned)
    return PoseSet(rotation=rotation, shift_angstrom=poses.shift_angstrom - origin[:, :2])


def mirror_density(density: DensityMap) -> DensityMap:
    """The other hand, mirrored in z about the centre voxel, exactly.

    Poses follow by :func:`cryogimbal.rotations.mirror_rotation`, shifts stay. On an even box the
    lone plane at index 0 has no partner and stays where it is.
    """
    mirrored = mirror_spectrum(density.values.movedim(0, -1), 1).movedim(-1, 0)
    return DensityMap(values=mirrored.contiguous(), voxel_size_angstrom=density.voxel_size_angstrom)


def _spectrum_in_sphere(values: Float[Tensor, "box box box"]) -> Float[Tensor, "box box box"]:
    box = values.shape[-1]
    spectrum = density_to_hartley(values)
    kept = shell_index(box, 3, device=values.device) <= box // 2
    if box % 2 == 0:
        kept[0], kept[:, 0], kept[:, :, 0] = False, False, False
    return torch.where(kept, spectrum, 0.0)
