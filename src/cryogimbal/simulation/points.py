"""Point scatterers, of atoms or of a phantom, and the density that a microscope would see of them.

The electrostatic potential of points n at ``r_n`` with occupancy ``w_n`` has the structure factor

``F(s) = sum_n w_n f_n(s) exp(-2 pi i s.r_n)``  with  ``f(s) = sum_j a_j exp(-b_j |s|^2 / 4)``,

s in 1/Å, ``a`` in Å and ``b`` in Å^2 (International Tables C, 4.3.2). The density is ``F`` times the
envelope ``exp(-B |s|^2 / 4)``, cut off at the Nyquist frequency: a smooth, finite resolution that is
stated, and no aliasing.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.fourier.transforms import hartley_to_density
from cryogimbal.simulation.gridding import fine_side, points_to_hartley

# Envelope of exp(-1/2) at Nyquist: soft enough against ringing, sharp enough to keep the detail.
ENVELOPE_B_FACTOR_IN_SQUARED_VOXELS = 8.0


@dataclass(frozen=True, kw_only=True)
class PointModel:
    """Point scatterers around their centre of mass, in species that share a form factor."""

    name: str
    """What the points are of, for messages."""
    position_angstrom: Float[Tensor, "point 3"]
    weight: Float[Tensor, " point"]
    """Occupancy."""
    species_index: Int[Tensor, " point"]
    amplitude_angstrom: Float[Tensor, "species gaussian"]
    """``a`` of the form factor."""
    width_angstrom2: Float[Tensor, "species gaussian"]
    """``b`` of the form factor; a Gaussian of standard deviation t has ``b = 8 pi^2 t^2``."""

    @property
    def radius_angstrom(self) -> float:
        """Distance of the outermost point from the origin."""
        return float(self.position_angstrom.norm(dim=-1).max())


def form_factor(
    model: PointModel, species: int, frequency_per_angstrom: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """``f(|s|)`` of one species, in Å."""
    quarter = frequency_per_angstrom.square() / 4
    value = torch.zeros_like(quarter)
    for amplitude, width in zip(
        model.amplitude_angstrom[species], model.width_angstrom2[species], strict=True
    ):
        value = value + amplitude * torch.exp(-width * quarter)
    return value


def default_envelope_b_factor(voxel_size_angstrom: float) -> float:
    """``B = 8 voxel^2`` in Å^2: an amplitude of ``exp(-1/2) = 0.61`` at Nyquist."""
    return ENVELOPE_B_FACTOR_IN_SQUARED_VOXELS * voxel_size_angstrom**2


def points_to_density(
    model: PointModel,
    box: int,
    voxel_size_angstrom: float,
    envelope_b_factor_angstrom2: float,
) -> DensityMap:
    """Density of a point model, band limited, in units of 1/Å^2 (scattering length per volume).

    Its orthonormal spectrum is ``F(k / L) exp(-B |k / L|^2 / 4) / (box^1.5 voxel^3)`` for integer k
    with ``|k| < box / 2``, where ``L = box * voxel``, and zero beyond: the corners of the cube hold
    nothing that a turned slice could show.

    Raises
    ------
    InputError
        If the model does not fit into the box.
    """
    refuse_larger_than_box(model, box, voxel_size_angstrom)
    side = fine_side(box)
    side_angstrom = box * voxel_size_angstrom
    radius = radius_grid(box, 3)
    frequency = radius / side_angstrom
    spectrum = torch.zeros(box, box, box)
    for species in range(model.amplitude_angstrom.shape[0]):
        chosen = model.species_index == species
        steps = model.position_angstrom[chosen] * (side / side_angstrom)
        hartley = points_to_hartley(steps, model.weight[chosen], box, side)
        spectrum += hartley * form_factor(model, species, frequency).float()
    envelope = torch.exp(-envelope_b_factor_angstrom2 / 4 * frequency.square())
    envelope[radius >= box / 2] = 0
    spectrum *= (envelope / (box**1.5 * voxel_size_angstrom**3)).float()
    return DensityMap(values=hartley_to_density(spectrum), voxel_size_angstrom=voxel_size_angstrom)


def refuse_larger_than_box(model: PointModel, box: int, voxel_size_angstrom: float) -> None:
    """Raise InputError if a turned model could leave the box."""
    found, limit = model.radius_angstrom, box * voxel_size_angstrom / 2
    if found > limit:
        raise InputError(
            f"{model.name}: expected a molecule within {limit:.1f} Å of its centre of mass, half of "
            f"the box ({box} pixels of {voxel_size_angstrom:g} Å), found one that reaches "
            f"{found:.1f} Å; give a pixel size of at least {2 * found / box:.2f} Å or a box of at "
            f"least {math.ceil(2 * found / voxel_size_angstrom)}"
        )
