"""The microscope: shared settings of an optics group and the CTF values of each particle."""

from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

CtfTreatment = Literal["none", "phase_flipped", "multiplied"]
"""What has been done to stored images: nothing, the signs of their CTF undone, or multiplied by it."""


@dataclass(frozen=True, kw_only=True)
class OpticsGroup:
    """Settings that many particles share."""

    name: str
    voltage_kilovolt: float
    spherical_aberration_mm: float
    amplitude_contrast: float
    pixel_size_angstrom: float
    box: int
    treatment: CtfTreatment = "none"

    @property
    def width_angstrom(self) -> float:
        """Field of view of the images."""
        return self.box * self.pixel_size_angstrom


@dataclass(frozen=True, kw_only=True)
class CtfParameters:
    """Contrast transfer function values, one of each per particle (RELION's signs).

    Optics-group values stand here once per particle too: tables may override them row by row.
    """

    defocus_u_angstrom: Float[Tensor, " particle"]
    defocus_v_angstrom: Float[Tensor, " particle"]
    defocus_angle_rad: Float[Tensor, " particle"]
    phase_shift_rad: Float[Tensor, " particle"]
    voltage_kilovolt: Float[Tensor, " particle"]
    spherical_aberration_mm: Float[Tensor, " particle"]
    amplitude_contrast: Float[Tensor, " particle"]
    bfactor_angstrom2: Float[Tensor, " particle"]
    scale: Float[Tensor, " particle"]

    def __len__(self) -> int:
        """Number of particles."""
        return self.defocus_u_angstrom.shape[0]

    def __getitem__(self, index: Int[Tensor, " chosen"] | slice) -> "CtfParameters":
        """The chosen particles, in the given order."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device | str) -> "CtfParameters":
        """The same values on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})
