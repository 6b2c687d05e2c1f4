"""The closed-form volume and where it keeps the particle."""

import pytest
import torch

from cryogimbal.evaluation.masks import soft_sphere_mask
from cryogimbal.imaging.volume import GridGeometry, HartleyVolume
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.inference.volume_update import ClosedFormVolumeUpdate
from cryogimbal.symmetry import symmetry_group
from tests.small_particles import blob_density, simulate_spectra


@pytest.mark.parametrize("box", [40, 41])
def test_a_confined_volume_has_its_noise_left_where_the_particle_is(
    box: int, generator: torch.Generator
) -> None:
    particle = blob_density(box, generator)
    spectra, rotation = simulate_spectra(particle, 4, generator, signal_to_noise=1.0)
    volume = HartleyVolume(GridGeometry(box=box, radius=box / 2, oversampling=2))
    mask = soft_sphere_mask(box, 1.0, diameter_angstrom=0.95 * box, edge_angstrom=2.0)
    noisy = (particle + 0.05 * torch.randn(particle.shape, generator=generator)) * mask
    volume.set_spectrum(volume.geometry.grid_of_density(noisy))
    update = ClosedFormVolumeUpdate(
        volume,
        spectra,
        PoseTable.starting_at(rotation),
        torch.arange(4) % 2,
        mask,
        symmetry_group("C1"),
    )
    width = update.particle_width_box
    update.confine()
    confined = volume.density()
    inside, outside = particle > 0.3, (particle < 1e-3) & (mask == 1)
    difference = (confined - noisy)[inside].square().mean().sqrt()
    assert difference < 0.02 * particle[inside].square().mean().sqrt()
    assert confined[outside].square().mean() < 0.7 * noisy[outside].square().mean()
    assert update.particle_width_box < width
