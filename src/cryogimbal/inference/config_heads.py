"""Options of the encoder that is taught from a map, and of the poses it gives to new images."""

from dataclasses import dataclass

from cryogimbal.inference.config_checks import require


@dataclass(frozen=True, kw_only=True)
class RowEncoderConfig:
    """A fully connected network on disc rows, shared by M heads."""

    n_heads: int = 7
    """Rotations proposed for each of the eight turned and mirrored copies of an image."""
    widths: tuple[int, ...] = (256, 256, 256)
    """Features of each layer."""
    radius: float = 10.0
    """Highest frequency the network sees, in cycles per box."""

    def __post_init__(self) -> None:
        require(self.n_heads >= 1, "row-encoder.n-heads", "at least 1", self.n_heads)
        require(
            len(self.widths) > 0 and min(self.widths) >= 1,
            "row-encoder.widths",
            "one or more positive widths",
            self.widths,
        )
        require(self.radius >= 1, "row-encoder.radius", "at least 1 cycle per box", self.radius)


@dataclass(frozen=True, kw_only=True)
class HeadTrainingConfig:
    """Teaching the heads on images rendered from the map found so far."""

    epochs: int = 10
    """Parts that the training is reported in; 0: no encoder is taught."""
    images_per_epoch: int = 25_600
    """Images rendered for each part; none is ever seen twice."""
    batch_size: int = 256
    """Images per step."""
    rate: float = 0.02
    """Adam's highest rate: reached by a short warm-up, left by a cosine."""

    def __post_init__(self) -> None:
        require(self.epochs >= 0, "head-training.epochs", "0 or more", self.epochs)
        require(
            self.batch_size >= 2, "head-training.batch-size", "at least 2 images", self.batch_size
        )
        # A batch of one image has no spread to be normalised by.
        require(
            self.images_per_epoch >= 2 and self.images_per_epoch % self.batch_size != 1,
            "head-training.images-per-epoch",
            f"at least 2, and not one more than a multiple of the batch size ({self.batch_size})",
            self.images_per_epoch,
        )
        require(self.rate > 0, "head-training.rate", "above 0", self.rate)


@dataclass(frozen=True, kw_only=True)
class PoseInferenceConfig:
    """Poses of new images by a taught encoder."""

    direct_steps: int = 6
    """Gauss-Newton steps of each image, shared out over three band limits."""
    hypotheses: int = 6
    """Proposals of an image that are moved at the lowest band limit, half of them at the next."""
    batch_size: int = 500
    """Images at a time."""

    def __post_init__(self) -> None:
        require(self.direct_steps >= 0, "direct-steps", "0 or more", self.direct_steps)
        require(self.hypotheses >= 1, "hypotheses", "at least 1", self.hypotheses)
        require(self.batch_size >= 1, "batch-size", "at least 1", self.batch_size)
