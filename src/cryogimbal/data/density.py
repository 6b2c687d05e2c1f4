"""A density in real space, with its sampling."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DensityMap:
    """Cubic density, axes (z, y, x), origin at index ``box // 2``."""

    values: Float[Tensor, "box box box"]
    voxel_size_angstrom: float

    @property
    def box(self) -> int:
        """Voxels a side."""
        return self.values.shape[-1]
