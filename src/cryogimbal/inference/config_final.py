"""Options of the maps that a run leaves, and of the mask in which they are compared."""

from dataclasses import dataclass

from cryogimbal.inference.config_checks import require


@dataclass(frozen=True, kw_only=True)
class FinalMapsConfig:
    """The last maps, made from the whole band of the images."""

    box: int | None = None
    """Voxels a side; none: that of the images, or what the memory allows."""
    mask_lowpass: float = 15.0
    """Period in Å to which the map is blurred before its mask is drawn."""
    mask_level: float = 0.2
    """The mask is drawn where the blurred map exceeds this fraction of its strong values."""
    mask_margin: float = 6.0
    """How far in Å the mask reaches beyond that, at least one voxel."""
    mask_edge: float = 12.0
    """Width in Å of the soft edge outside of it, at least four voxels."""

    def __post_init__(self) -> None:
        require(self.box is None or self.box >= 16, "final.box", "at least 16 voxels", self.box)
        require(self.mask_lowpass > 0, "final.mask-lowpass", "above 0 Å", self.mask_lowpass)
        require(0 < self.mask_level < 1, "final.mask-level", "between 0 and 1", self.mask_level)
        require(self.mask_margin >= 0, "final.mask-margin", "0 Å or more", self.mask_margin)
        require(self.mask_edge > 0, "final.mask-edge", "above 0 Å", self.mask_edge)
