"""relion_postprocess takes our half-maps and mask and measures what we measure."""

from pathlib import Path

import pytest
import starfile
import torch

from cryogimbal.data.density import DensityMap
from cryogimbal.data.half_sets import HalfMaps
from cryogimbal.evaluation.half_map_fsc import half_map_fsc
from cryogimbal.evaluation.masks import soft_sphere_mask
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.fourier.transforms import density_to_hartley, hartley_to_density
from cryogimbal.io.mrc import write_density
from cryogimbal.io.run_folder import RunFolder
from tests.relion.particles import Relion

pytestmark = pytest.mark.relion

BOX = 48
VOXEL_SIZE_ANGSTROM = 3.0


def noisy_halves(generator: torch.Generator) -> list[DensityMap]:
    """A ball whose spectrum falls steeply, under noise of its own in each half."""
    signal, *noises = torch.randn(3, BOX, BOX, BOX, generator=generator)
    radius = radius_grid(BOX, 3)
    ball = density_to_hartley(signal * (radius < 11))
    particle = 40 * hartley_to_density(ball * torch.exp(-(radius / 7).square()).float())
    return [
        DensityMap(values=particle + noise, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
        for noise in noises
    ]


def test_resolution_and_curves_are_those_of_relion(
    tmp_path: Path, generator: torch.Generator, relion: Relion
) -> None:
    first, second = noisy_halves(generator)
    values = soft_sphere_mask(BOX, 1.0, diameter_angstrom=26.0, edge_angstrom=5.0)
    mask = DensityMap(values=values, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
    run = RunFolder(path=tmp_path)
    write_density(run.half_map(1), first)
    write_density(run.half_map(2), second)
    write_density(run.mask, mask)
    ours = half_map_fsc(
        HalfMaps(first=first, second=second, poses="shared"), values, torch.Generator()
    )

    # Where its figures go is made beforehand: without ghostscript RELION does not make it itself.
    (tmp_path / "theirs").mkdir()
    relion(
        "relion_postprocess",
        *("--i", run.half_map(1).name, "--mask", run.mask.name, "--o", "theirs"),
    )
    tables = starfile.read(tmp_path / "theirs.star", always_dict=True)
    general, theirs = tables["general"], tables["fsc"]
    width = BOX * VOXEL_SIZE_ANGSTROM
    shell = width / ours.corrected.resolution_last_shell_angstrom(0.143)
    assert 8 < shell < BOX / 2 - 2
    assert abs(width / general["rlnFinalResolution"] - shell) <= 1
    assert abs(width / general["rlnRandomiseFrom"] - ours.randomised_from) <= 1
    assert general["rlnParticleBoxFractionSolventMask"] == pytest.approx(
        0.476 / ours.mask_fraction, abs=1e-5
    )
    # RELION counts the plane kx = 0 twice, which low shells feel most; its phases are its own.
    for name, curve, tolerance in (
        ("rlnFourierShellCorrelationUnmaskedMaps", ours.unmasked, 0.05),
        ("rlnFourierShellCorrelationMaskedMaps", ours.masked, 0.05),
        ("rlnFourierShellCorrelationCorrected", ours.corrected, 0.1),
    ):
        difference = torch.tensor(theirs[name].to_numpy()) - curve.correlation
        assert difference[6:].abs().max() < tolerance, name
