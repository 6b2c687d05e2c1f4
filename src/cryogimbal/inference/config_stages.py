"""Options of the two stages that refine poses and volume together, and of their band limits."""

from dataclasses import dataclass, field
from typing import Literal

from cryogimbal.inference.config_checks import require


@dataclass(frozen=True, kw_only=True)
class BandConfig:
    """Band limit over the epochs of a stage (frequency marching), in cycles per box."""

    start_radius: float | None = None
    """Band limit of the first epoch; none: the end radius from the start (no marching)."""
    end_radius: float | None = None
    """Band limit once grown; none: everything the working box holds."""
    growth_epochs: int = 1
    """Epochs over which the limit grows."""

    def __post_init__(self) -> None:
        require(
            self.start_radius is None or self.start_radius >= 1,
            "start-radius",
            "at least 1 cycle per box",
            self.start_radius,
        )
        require(
            self.end_radius is None or self.end_radius >= (self.start_radius or 1),
            "end-radius",
            "at least the start radius",
            self.end_radius,
        )
        require(self.growth_epochs >= 1, "growth-epochs", "at least 1", self.growth_epochs)

    def radius(self, epoch: int, largest: float) -> float:
        """Band limit of an epoch (from 0), never above ``largest``."""
        end = largest if self.end_radius is None else min(self.end_radius, largest)
        start = end if self.start_radius is None else min(self.start_radius, end)
        return start + (end - start) * min(1.0, epoch / self.growth_epochs)


@dataclass(frozen=True, kw_only=True)
class SwitchConfig:
    """When auto-encoding hands over to auto-decoding."""

    rule: Literal["measured", "fixed"] = "measured"
    """Measured: once poses have settled and no longer improve. Fixed: after all epochs."""
    settled_deg: float = 30.0
    """Poses count as settled below this median change per epoch."""
    patience: int = 10
    """Epochs without improvement of the loss, once settled."""
    improvement: float = 0.01
    """What counts as improvement: this fraction of what the model explains of the data."""

    def __post_init__(self) -> None:
        require(0 < self.settled_deg <= 180, "settled-deg", "0 to 180", self.settled_deg)
        require(self.patience >= 1, "patience", "at least 1", self.patience)
        require(0 <= self.improvement < 1, "improvement", "0 to below 1", self.improvement)


@dataclass(frozen=True, kw_only=True)
class AutoEncodingConfig:
    """Stage 1 with the encoder: winner takes all over its heads."""

    network: Literal["rows", "vgg16"] = "rows"
    """A fully connected network on disc rows (options: row-encoder), or the paper's convolutional one
    on pixels (options: encoder)."""
    epochs: int = 40
    """Most passes over the images."""
    batch_size: int = 128
    """Images per step."""
    encoder_rate: float = 5e-3
    """Adam's rate for the network."""
    volume_rate: float = 0.05
    """Adam's rate for mantissa and exponent."""
    loss: Literal["squared", "modulus"] = "squared"
    """Residual: squared error (the paper) or modulus (the authors' code)."""
    band: BandConfig = field(
        default_factory=lambda: BandConfig(start_radius=4.0, end_radius=8.0, growth_epochs=20)
    )
    """Band limit over the epochs."""
    switch: SwitchConfig = field(default_factory=SwitchConfig)
    """When to hand over."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "auto-encoding.epochs", "at least 1", self.epochs)
        require(self.batch_size >= 1, "auto-encoding.batch-size", "at least 1", self.batch_size)
        require(self.encoder_rate > 0, "auto-encoding.encoder-rate", "above 0", self.encoder_rate)
        require(self.volume_rate > 0, "auto-encoding.volume-rate", "above 0", self.volume_rate)


@dataclass(frozen=True, kw_only=True)
class AutoDecodingConfig:
    """Stage 2: every image's own pose, in alternation with the volume."""

    epochs: int = 10
    """Passes over the images while the band limit grows and after; held passes come on top. Poses that
    have settled end the stage before that, once the limit has grown."""
    extra_epochs: int = 5
    """Most passes beyond these while half-maps still predict the images of the other half better."""
    settled_turn: float = 0.1
    """Poses count as settled once the median turn of a pass is below this fraction of the smallest that
    the band limit can tell, 1 / (radius x particle width); 0: never."""
    batch_size: int = 1024
    """Images per step."""
    hypotheses: int = 4
    """Most poses kept alive per image until the resolution tells them apart."""
    held_epochs: int = 15
    """Most passes at one band limit while images still change over between their hypotheses."""
    settled: float = 0.01
    """Mean share of an image's weight that changes over, below which the band limit grows on."""
    pose_steps: int = 2
    """Pose steps per visit of an image."""
    optimiser: Literal["gauss_newton", "adam"] = "gauss_newton"
    """Damped Gauss-Newton steps of every hypothesis, or Adam (the paper) on one pose per image."""
    pose_rate: float = 0.03
    """Adam's rate for rotation vectors, in radians; Gauss-Newton needs none."""
    pose_rate_end: float | None = 0.001
    """Rate of the last epoch, reached by a cosine; none: constant."""
    volume_step: Literal["closed_form", "adam"] = "closed_form"
    """Regularised back-projection once per epoch, or Adam on mantissa and exponent per batch."""
    volume_rate: float = 0.02
    """Adam's rate for mantissa and exponent; unused by the closed form."""
    loss: Literal["squared", "modulus"] = "squared"
    """Residual: squared error (the paper) or modulus (the authors' code)."""
    band: BandConfig = field(default_factory=lambda: BandConfig(start_radius=8.0, growth_epochs=7))
    """Band limit over the epochs."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "auto-decoding.epochs", "at least 1", self.epochs)
        require(
            self.extra_epochs >= 0, "auto-decoding.extra-epochs", "0 or more", self.extra_epochs
        )
        require(
            0 <= self.settled_turn <= 1, "auto-decoding.settled-turn", "0 to 1", self.settled_turn
        )
        require(self.batch_size >= 1, "auto-decoding.batch-size", "at least 1", self.batch_size)
        require(self.hypotheses >= 1, "auto-decoding.hypotheses", "at least 1", self.hypotheses)
        require(self.held_epochs >= 0, "auto-decoding.held-epochs", "0 or more", self.held_epochs)
        require(0 < self.settled <= 1, "auto-decoding.settled", "above 0, at most 1", self.settled)
        require(
            self.optimiser == "adam" or self.loss == "squared",
            "auto-decoding.loss",
            "squared, which Gauss-Newton steps need (or --auto-decoding.optimiser adam)",
            self.loss,
        )
        require(self.pose_steps >= 1, "auto-decoding.pose-steps", "at least 1", self.pose_steps)
        require(self.pose_rate > 0, "auto-decoding.pose-rate", "above 0", self.pose_rate)
        require(self.volume_rate > 0, "auto-decoding.volume-rate", "above 0", self.volume_rate)
        require(
            self.pose_rate_end is None or 0 < self.pose_rate_end <= self.pose_rate,
            "auto-decoding.pose-rate-end",
            f"above 0, at most the pose rate ({self.pose_rate})",
            self.pose_rate_end,
        )
