"""Every option of a reconstruction with its default, validated."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryogimbal.data.half_sets import HalfPoses
from cryogimbal.inference.config_checks import require as _require
from cryogimbal.inference.config_checks import require_classes
from cryogimbal.inference.config_final import FinalMapsConfig
from cryogimbal.inference.config_heads import HeadTrainingConfig, RowEncoderConfig
from cryogimbal.symmetry import symmetry_group

Radius = float


@dataclass(frozen=True, kw_only=True)
class VolumeConfig:
    """The learnable volume."""

    oversampling: Literal[1, 2, 3, 4] = 2
    """Samples per cycle per box in auto-decoding; 2 is exact to about 1 %."""
    encoding_oversampling: Literal[1, 2, 3, 4] = 1
    """The same in auto-encoding. A random volume without padding is smooth enough to learn poses
    from; with padding the encoder was seen to collapse onto a few fixed poses."""
    interpolation: Literal["product", "factored"] = "product"
    """Interpolate mantissa x exp(exponent), or (the authors' code) each factor apart."""
    start_amplitude: float = 0.1
    """Rms of the random spectrum that the encoder starts from, in units of the noise."""
    start_exponent_sd: float = 0.0
    """Standard deviation of the random exponent that the encoder starts from."""

    def __post_init__(self) -> None:
        _require(
            self.oversampling in (1, 2, 3, 4), "volume.oversampling", "1 to 4", self.oversampling
        )
        _require(
            self.start_exponent_sd >= 0,
            "volume.start-exponent-sd",
            "a number of at least 0",
            self.start_exponent_sd,
        )
        _require(
            self.start_amplitude > 0,
            "volume.start-amplitude",
            "a number above 0",
            self.start_amplitude,
        )


@dataclass(frozen=True, kw_only=True)
class PosteriorConfig:
    """Start by stochastic expectation maximisation over a grid of all orientations."""

    max_starts: int = 8
    """Most random volumes to start from; no more are tried once the two best agree."""
    agreement: float = 0.04
    """Two starts agree if what they explain of the images differs by less than this fraction."""
    iterations: int = 50
    """Steps from each random volume, each on one minibatch; more while orientations stay open."""
    minibatch: int = 1000
    """Images per step."""
    n_side: Literal[1, 2, 4, 8, 16] = 4
    """HEALPix resolution of the orientation grid; the spacing is about 60 / n_side degrees."""
    start_radius: Radius = 4.0
    """Band limit of the first step, in cycles per box."""
    end_radius: Radius = 8.0
    """Band limit of the last steps, in cycles per box."""
    largest_radius: Radius = 14.0
    """Band limit to which a start goes on, beyond its steps, while images leave orientations open."""
    start_sharing: float = 100.0
    """Orientations that share a median image at first; falls to 1 (annealing by temperature)."""
    mode_n_side: Literal[1, 2, 4, 8, 16] = 8
    """Resolution of the grid on which the modes of every image are looked for at the end."""
    memory_mib: int = 512
    """Memory in MiB that scores of images against orientations may take at a time."""

    def __post_init__(self) -> None:
        _require(self.max_starts >= 1, "posterior.max-starts", "at least 1", self.max_starts)
        _require(0 < self.agreement < 1, "posterior.agreement", "between 0 and 1", self.agreement)
        _require(self.iterations >= 1, "posterior.iterations", "at least 1", self.iterations)
        _require(self.minibatch >= 1, "posterior.minibatch", "at least 1", self.minibatch)
        _require(
            1 <= self.start_radius <= self.end_radius,
            "posterior.start-radius",
            f"1 to the end radius ({self.end_radius})",
            self.start_radius,
        )
        _require(
            self.start_sharing >= 1, "posterior.start-sharing", "at least 1", self.start_sharing
        )
        _require(self.memory_mib >= 1, "posterior.memory-mib", "at least 1", self.memory_mib)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The pose network: a shared backbone and M heads."""

    n_heads: int = 7
    """Rotations proposed per image."""
    channels: tuple[int, ...] = (32, 64, 128, 128, 128)
    """Width of each block of the VGG-16 backbone."""
    pyramid_levels: int = 5
    """Input channels: the image and successively smoother copies of it."""
    hidden: int = 256
    """Width of the three-layer heads."""
    input_box: int | None = 16
    """Pixels a side of the image the network sees; none: the working box."""

    def __post_init__(self) -> None:
        _require(self.n_heads >= 1, "encoder.n-heads", "at least 1", self.n_heads)
        _require(len(self.channels) == 5, "encoder.channels", "five widths", self.channels)
        _require(min(self.channels) >= 1, "encoder.channels", "positive widths", self.channels)
        _require(
            self.pyramid_levels >= 1, "encoder.pyramid-levels", "at least 1", self.pyramid_levels
        )
        _require(self.hidden >= 1, "encoder.hidden", "at least 1", self.hidden)
        _require(
            self.input_box is None or self.input_box >= 8,
            "encoder.input-box",
            "at least 8 pixels",
            self.input_box,
        )


@dataclass(frozen=True, kw_only=True)
class BandConfig:
    """Band limit over the epochs of a stage (frequency marching), in cycles per box."""

    start_radius: Radius | None = None
    """Band limit of the first epoch; none: the end radius from the start (no marching)."""
    end_radius: Radius | None = None
    """Band limit once grown; none: everything the working box holds."""
    growth_epochs: int = 1
    """Epochs over which the limit grows."""

    def __post_init__(self) -> None:
        _require(
            self.start_radius is None or self.start_radius >= 1,
            "start-radius",
            "at least 1 cycle per box",
            self.start_radius,
        )
        _require(
            self.end_radius is None or self.end_radius >= (self.start_radius or 1),
            "end-radius",
            "at least the start radius",
            self.end_radius,
        )
        _require(self.growth_epochs >= 1, "growth-epochs", "at least 1", self.growth_epochs)

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
        _require(0 < self.settled_deg <= 180, "settled-deg", "0 to 180", self.settled_deg)
        _require(self.patience >= 1, "patience", "at least 1", self.patience)
        _require(0 <= self.improvement < 1, "improvement", "0 to below 1", self.improvement)


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
        _require(self.epochs >= 1, "auto-encoding.epochs", "at least 1", self.epochs)
        _require(self.batch_size >= 1, "auto-encoding.batch-size", "at least 1", self.batch_size)
        _require(self.encoder_rate > 0, "auto-encoding.encoder-rate", "above 0", self.encoder_rate)
        _require(self.volume_rate > 0, "auto-encoding.volume-rate", "above 0", self.volume_rate)


@dataclass(frozen=True, kw_only=True)
class AutoDecodingConfig:
    """Stage 2: every image's own pose, in alternation with the volume."""

    epochs: int = 10
    """Passes over the images while the band limit grows and after; held passes come on top."""
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
        _require(self.epochs >= 1, "auto-decoding.epochs", "at least 1", self.epochs)
        _require(self.batch_size >= 1, "auto-decoding.batch-size", "at least 1", self.batch_size)
        _require(self.hypotheses >= 1, "auto-decoding.hypotheses", "at least 1", self.hypotheses)
        _require(self.held_epochs >= 0, "auto-decoding.held-epochs", "0 or more", self.held_epochs)
        _require(0 < self.settled <= 1, "auto-decoding.settled", "above 0, at most 1", self.settled)
        _require(
            self.optimiser == "adam" or self.loss == "squared",
            "auto-decoding.loss",
            "squared, which Gauss-Newton steps need (or --auto-decoding.optimiser adam)",
            self.loss,
        )
        _require(self.pose_steps >= 1, "auto-decoding.pose-steps", "at least 1", self.pose_steps)
        _require(self.pose_rate > 0, "auto-decoding.pose-rate", "above 0", self.pose_rate)
        _require(self.volume_rate > 0, "auto-decoding.volume-rate", "above 0", self.volume_rate)
        _require(
            self.pose_rate_end is None or 0 < self.pose_rate_end <= self.pose_rate,
            "auto-decoding.pose-rate-end",
            f"above 0, at most the pose rate ({self.pose_rate})",
            self.pose_rate_end,
        )


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """All options of a reconstruction."""

    working_box: int | None = None
    """Pixels a side during the search; none: Nyquist near 8 Å, at most 128."""
    particle_diameter: float | None = None
    """Diameter of the particle in Å, for the mask and for normalisation; none: from the box."""
    initial_map: Path | None = None
    """Start from this map (.mrc) instead of from nothing."""
    initial_poses: Path | None = None
    """Start from the angles of this STAR file (same particles, same order)."""
    max_particles: int | None = None
    """Search on a random subset of this size; poses and map still come from all particles."""
    contrast: Literal["auto", "light", "dark"] = "auto"
    """Particles against their background; auto: as the images show it, light where they do not."""
    shifts: Literal["estimate", "given", "none"] = "estimate"
    """Find each particle's displacement from the centre of its image, take it from the origins in the
    table, or take particles as centred."""
    shift_range: float = 0.1
    """Largest displacement that a search looks for, as a fraction of the box: by the average image
    first, and around what that has found afterwards."""
    noise: Literal["estimate", "white"] = "estimate"
    """Measure the noise's spectrum, first on the background and then on what the map leaves of the
    images, and each particle's strength; or take noise as white and particles as equally strong."""
    ignore_aberrations: bool = False
    """Go on even if aberrations that are left out turn phases by more than 20 degrees."""
    half_sets: HalfPoses = "shared"
    """One search of all images, halved only for the last maps, or two searches that share nothing."""
    mask: Path | None = None
    """Mask (.mrc, 0 to 1, of the images' box) in which half-maps are compared; none: from the map."""
    symmetry: str = "C1"
    """Point group of the particle: C1 to C20, D2 to D10, T, O, I (I1 to I4), in RELION's axes."""
    symmetry_from: Literal["map", "start"] = "map"
    """Find its axes in the first map, turn map and poses to them and keep to it from there; or keep to
    it from the start."""
    n_classes: int = 1
    """Structures in the stack, each with its own map; every image is given to one of them."""
    start: Literal["posterior", "encoder"] = "posterior"
    """What finds the first poses: the exhaustive posterior or the multi-head encoder."""
    seed: int = 0
    """Seed of every random choice."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    """The learnable volume."""
    posterior: PosteriorConfig = field(default_factory=PosteriorConfig)
    """The posterior start."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The pose network."""
    auto_encoding: AutoEncodingConfig = field(default_factory=AutoEncodingConfig)
    """Stage 1 with the encoder."""
    auto_decoding: AutoDecodingConfig = field(default_factory=AutoDecodingConfig)
    """Stage 2."""
    row_encoder: RowEncoderConfig = field(default_factory=RowEncoderConfig)
    """The pose network that is taught from the map."""
    head_training: HeadTrainingConfig = field(default_factory=HeadTrainingConfig)
    """How it is taught; 0 epochs: not at all."""
    final: FinalMapsConfig = field(default_factory=FinalMapsConfig)
    """The last maps, made from all pixels of the images."""

    @property
    def shift_range_box(self) -> float:
        """How far from its centre a particle is looked for, as a fraction of the box."""
        return self.shift_range if self.shifts == "estimate" else 0.0

    @property
    def teaches_encoder(self) -> bool:
        """Whether an encoder is taught from the map."""
        return self.head_training.epochs > 0

    def __post_init__(self) -> None:
        _require(
            self.working_box is None or self.working_box >= 16,
            "working-box",
            "at least 16 pixels",
            self.working_box,
        )
        _require(
            self.particle_diameter is None or self.particle_diameter > 0,
            "particle-diameter",
            "above 0 Å",
            self.particle_diameter,
        )
        _require(
            self.max_particles is None or self.max_particles >= 1,
            "max-particles",
            "at least 1",
            self.max_particles,
        )
        _require(
            0 < self.shift_range <= 0.5,
            "shift-range",
            "above 0, at most 0.5 of the box",
            self.shift_range,
        )
        _require(self.seed >= 0, "seed", "0 or more", self.seed)
        require_classes(
            self.n_classes, self.half_sets, self.start, (self.initial_map, self.initial_poses)
        )
        self._require_symmetry()
        _require(
            self.auto_decoding.optimiser == "adam" or self.volume.interpolation == "product",
            "volume.interpolation",
            "product, which Gauss-Newton steps need (or --auto-decoding.optimiser adam)",
            self.volume.interpolation,
        )
        _require(
            self.auto_decoding.optimiser == "gauss_newton" or not self.teaches_encoder,
            "head-training.epochs",
            "0 beside --auto-decoding.optimiser adam, which holds one pose per image",
            self.head_training.epochs,
        )

    def _require_symmetry(self) -> None:
        if symmetry_group(self.symmetry).order == 1:
            return
        _require(
            self.auto_decoding.volume_step == "closed_form",
            "auto-decoding.volume-step",
            f"closed_form, which keeps the volume to --symmetry {self.symmetry}",
            self.auto_decoding.volume_step,
        )
        _require(
            self.symmetry_from == "map" or self.start == "posterior",
            "start",
            "posterior beside --symmetry-from start (or --symmetry-from map)",
            self.start,
        )
