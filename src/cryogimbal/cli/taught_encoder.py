"""The encoder file of a run: what gives poses to new images of the same particle."""

from dataclasses import dataclass
from pathlib import Path

from cryogimbal.errors import InputError
from cryogimbal.evaluation.hand import column_signs
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.row_encoder import (
    RowEncoder,
    mirrored_row_encoder,
    row_encoder_from_state,
    row_encoder_to_state,
)
from cryogimbal.io.run_folder import RunFolder
from cryogimbal.io.tensor_files import read_tensors, write_tensors
from cryogimbal.rotations import Mirror


@dataclass(frozen=True, kw_only=True)
class TaughtEncoder:
    """An encoder with what images must be like for it."""

    encoder: RowEncoder
    pixel_size_angstrom: float
    """Sampling at the encoder's box."""
    particle_diameter_angstrom: float | None
    """What the background that images are normalised by lies outside of."""

    @property
    def width_angstrom(self) -> float:
        """Field of view of the images."""
        return self.encoder.disc.box * self.pixel_size_angstrom


def write_encoder(
    run: RunFolder, encoder: RowEncoder, spectra: ParticleSpectra, diameter: float | None
) -> None:
    """Keep an encoder in the run's folder; ``diameter`` (Å) is the one the images were read with."""
    state = {
        **row_encoder_to_state(encoder),
        "pixel_size_angstrom": spectra.pixel_size_angstrom,
        "particle_diameter_angstrom": diameter,
    }
    write_tensors(run.encoder, state)


def write_mirrored_encoder(path: Path, new: Path, mirror: Mirror) -> None:
    """Write the encoder of the other hand.

    Raises
    ------
    InputError
        If the file holds no encoder.
    """
    state = read_tensors(path, expected="an encoder", advice="reconstruct anew with another --out")
    encoder = mirrored_row_encoder(row_encoder_from_state(state, str(path)), column_signs(mirror))
    write_tensors(new, {**state, **row_encoder_to_state(encoder)})


def read_encoder(run: RunFolder) -> TaughtEncoder:
    """The encoder of a run.

    Raises
    ------
    InputError
        If the run has none, or its file is broken.
    """
    if not run.encoder.is_file():
        raise InputError(
            f"{run.path}: expected a run with an encoder, found no {run.encoder.name}; "
            "reconstruct with --preset auto, which teaches one"
        )
    state = read_tensors(
        run.encoder, expected="an encoder", advice="reconstruct anew with another --out"
    )
    encoder = row_encoder_from_state(state, str(run.encoder))
    try:
        return TaughtEncoder(
            encoder=encoder,
            pixel_size_angstrom=float(state["pixel_size_angstrom"]),
            particle_diameter_angstrom=state["particle_diameter_angstrom"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{run.encoder}: expected an encoder with the sampling of its images, found no usable "
            f"{error}"
        ) from error
