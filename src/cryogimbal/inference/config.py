"""Every option of a reconstruction with its default, validated."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryogimbal.data.half_sets import HalfPoses
from cryogimbal.inference.config_checks import require, require_classes
from cryogimbal.inference.config_final import FinalMapsConfig
from cryogimbal.inference.config_heads import HeadTrainingConfig, RowEncoderConfig
from cryogimbal.inference.config_posterior import PosteriorConfig
from cryogimbal.inference.config_stages import AutoDecodingConfig, AutoEncodingConfig
from cryogimbal.symmetry import symmetry_group


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
        require(
            self.oversampling in (1, 2, 3, 4), "volume.oversampling", "1 to 4", self.oversampling
        )
        require(
            self.start_exponent_sd >= 0,
            "volume.start-exponent-sd",
            "a number of at least 0",
            self.start_exponent_sd,
        )
        require(
            self.start_amplitude > 0,
            "volume.start-amplitude",
            "a number above 0",
            self.start_amplitude,
        )


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
        require(self.n_heads >= 1, "encoder.n-heads", "at least 1", self.n_heads)
        require(len(self.channels) == 5, "encoder.channels", "five widths", self.channels)
        require(min(self.channels) >= 1, "encoder.channels", "positive widths", self.channels)
        require(
            self.pyramid_levels >= 1, "encoder.pyramid-levels", "at least 1", self.pyramid_levels
        )
        require(self.hidden >= 1, "encoder.hidden", "at least 1", self.hidden)
        require(
            self.input_box is None or self.input_box >= 8,
            "encoder.input-box",
            "at least 8 pixels",
            self.input_box,
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
        require(
            self.working_box is None or self.working_box >= 16,
            "working-box",
            "at least 16 pixels",
            self.working_box,
        )
        require(
            self.particle_diameter is None or self.particle_diameter > 0,
            "particle-diameter",
            "above 0 Å",
            self.particle_diameter,
        )
        require(
            self.max_particles is None or self.max_particles >= 1,
            "max-particles",
            "at least 1",
            self.max_particles,
        )
        require(
            0 < self.shift_range <= 0.5,
            "shift-range",
            "above 0, at most 0.5 of the box",
            self.shift_range,
        )
        require(self.seed >= 0, "seed", "0 or more", self.seed)
        require_classes(
            self.n_classes, self.half_sets, self.start, (self.initial_map, self.initial_poses)
        )
        self._require_symmetry()
        require(
            self.auto_decoding.optimiser == "adam" or self.volume.interpolation == "product",
            "volume.interpolation",
            "product, which Gauss-Newton steps need (or --auto-decoding.optimiser adam)",
            self.volume.interpolation,
        )
        require(
            self.auto_decoding.optimiser == "gauss_newton" or not self.teaches_encoder,
            "head-training.epochs",
            "0 beside --auto-decoding.optimiser adam, which holds one pose per image",
            self.head_training.epochs,
        )

    def _require_symmetry(self) -> None:
        if symmetry_group(self.symmetry).order == 1:
            return
        require(
            self.auto_decoding.volume_step == "closed_form",
            "auto-decoding.volume-step",
            f"closed_form, which keeps the volume to --symmetry {self.symmetry}",
            self.auto_decoding.volume_step,
        )
        require(
            self.symmetry_from == "map" or self.start == "posterior",
            "start",
            "posterior beside --symmetry-from start (or --symmetry-from map)",
            self.start,
        )
