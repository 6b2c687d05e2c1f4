"""A particle stack: where the images are, and what is known of each."""

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.data.optics import CtfParameters, OpticsGroup
from cryogimbal.data.poses import PoseSet

# Tables round pixel sizes to six digits.
PIXEL_SIZE_TOLERANCE = 1e-4


@runtime_checkable
class ImageSource(Protocol):
    """Where images come from: files, memory, a simulator."""

    @property
    def n_images(self) -> int:
        """Number of images."""
        ...

    @property
    def box(self) -> int:
        """Pixels a side, of the first where they differ."""
        ...

    def read(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch box box"]:
        """The chosen images, all of one box, as float32, as they are stored."""
        ...


@dataclass(frozen=True, kw_only=True)
class ArrayImages:
    """Images held in memory."""

    values: Float[Tensor, "particle box box"]

    @property
    def n_images(self) -> int:
        """Number of images."""
        return self.values.shape[0]

    @property
    def box(self) -> int:
        """Pixels a side."""
        return self.values.shape[-1]

    def read(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch box box"]:
        """The chosen images."""
        return self.values[index]


@dataclass(frozen=True, kw_only=True)
class SubsetImages:
    """Some images of another source, in a given order."""

    source: ImageSource
    index: Int[Tensor, " particle"]

    @property
    def n_images(self) -> int:
        """Number of images."""
        return self.index.shape[0]

    @property
    def box(self) -> int:
        """Pixels a side."""
        return self.source.box

    def read(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch box box"]:
        """The chosen images."""
        return self.source.read(self.index[index])


@dataclass(frozen=True, kw_only=True)
class ParticleStack:
    """Images with the optics and CTF of each particle, and poses or shifts where a table has them."""

    images: ImageSource
    ctf: CtfParameters
    optics: tuple[OpticsGroup, ...]
    optics_index: Int[Tensor, " particle"]
    """Place of each particle's group in ``optics`` (from 0)."""
    poses: PoseSet | None = None
    """Poses of the input table, if it has angles."""
    given_shift_angstrom: Float[Tensor, "particle 2"] | None = None
    """Displacements of the input table, if it has origins (with or without angles)."""

    def __len__(self) -> int:
        """Number of particles."""
        return len(self.ctf)

    @property
    def has_one_sampling(self) -> bool:
        """Whether all optics groups share box and pixel size."""
        first = self.optics[0]
        return all(
            group.box == first.box
            and math.isclose(
                group.pixel_size_angstrom,
                first.pixel_size_angstrom,
                rel_tol=PIXEL_SIZE_TOLERANCE,
            )
            for group in self.optics
        )

    @property
    def width_angstrom(self) -> float:
        """Field of view that all images share: that of the narrowest."""
        if self.has_one_sampling:
            return self.images.box * self.optics[0].pixel_size_angstrom
        return min(group.width_angstrom for group in self.optics)

    @property
    def box(self) -> int:
        """Pixels a side; of several samplings, the shared field of view in the finest of them."""
        if self.has_one_sampling:
            return self.images.box
        finest = min(group.pixel_size_angstrom for group in self.optics)
        # A width that is a whole number of pixels must not lose one by rounding.
        return math.floor(self.width_angstrom / finest * (1 + PIXEL_SIZE_TOLERANCE))

    @property
    def pixel_size_angstrom(self) -> float:
        """Sampling of :attr:`box` over the shared field of view."""
        if self.has_one_sampling:
            return self.optics[0].pixel_size_angstrom
        return self.width_angstrom / self.box

    def __getitem__(self, index: Int[Tensor, " chosen"]) -> "ParticleStack":
        """The chosen particles, in the given order; images stay where they are."""
        return replace(
            self,
            images=SubsetImages(source=self.images, index=index),
            ctf=self.ctf[index],
            optics_index=self.optics_index[index],
            poses=None if self.poses is None else self.poses[index],
            given_shift_angstrom=(
                None if self.given_shift_angstrom is None else self.given_shift_angstrom[index]
            ),
        )
