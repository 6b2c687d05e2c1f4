"""What the user names becomes a density."""

from pathlib import Path

import pytest
import torch

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.fourier.transforms import density_to_hartley
from cryogimbal.io.mrc import write_density
from cryogimbal.simulation.settings import SimulationSettings
from cryogimbal.simulation.sources import source_to_density

CARBON = "ATOM  {0:5d}  CA  ALA A{0:4d}    {1:8.3f}{2:8.3f}{3:8.3f}  1.00  0.00           C\n"


def write_pdb(path: Path) -> Path:
    places = ((10.0, 0.0, 0.0), (-10.0, 0.0, 0.0), (0.0, 15.0, 5.0))
    path.write_text("".join(CARBON.format(i, *place) for i, place in enumerate(places, 1)))
    return path


@pytest.mark.parametrize("box", [32, 33])
def test_a_phantom_takes_box_and_pixel_size(box: int) -> None:
    density = source_to_density("c4", SimulationSettings(box=box, pixel_size=5.0))
    assert (density.box, density.voxel_size_angstrom) == (box, 5.0)


def test_defaults_of_a_phantom_keep_the_field_of_view() -> None:
    small = source_to_density("asymmetric", SimulationSettings(box=32))
    usual = source_to_density("asymmetric", SimulationSettings())
    assert (usual.box, usual.voxel_size_angstrom) == (64, 3.0)
    assert small.box * small.voxel_size_angstrom == pytest.approx(192.0)


def test_another_phantom_seed_is_another_structure() -> None:
    settings = [SimulationSettings(box=32, phantom_seed=seed, seed=7) for seed in (0, 0, 1)]
    first, same, other = (source_to_density("asymmetric", s).values for s in settings)
    assert torch.equal(first, same)
    assert (first - other).norm() > 0.1 * first.norm()


def test_the_envelope_is_the_one_asked_for() -> None:
    sharp, soft = (
        density_to_hartley(
            source_to_density("c2", SimulationSettings(box=32, envelope_b_factor=b)).values
        )
        for b in (0.0, 400.0)
    )
    # s = 8 / 192 Å along x: exp(-400 / 4 * s^2).
    ratio = soft[16, 16, 24] / sharp[16, 16, 24]
    assert float(ratio) == pytest.approx(0.8406, abs=1e-3)


def test_an_atomic_model_needs_a_pixel_size_and_room(tmp_path: Path) -> None:
    path = write_pdb(tmp_path / "three.pdb")
    density = source_to_density(str(path), SimulationSettings(box=24, pixel_size=2.0))
    assert density.values.max() > 0
    with pytest.raises(InputError, match=r"three\.pdb: expected --pixel-size .* found none"):
        source_to_density(str(path), SimulationSettings(box=24))
    with pytest.raises(InputError, match=r"three\.pdb: expected a molecule within 4\.0 Å"):
        source_to_density(str(path), SimulationSettings(box=8, pixel_size=1.0))


def test_a_map_keeps_its_own_sampling_unless_told(tmp_path: Path) -> None:
    axis = torch.arange(20.0) - 10
    squared = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    own = DensityMap(values=torch.exp(-squared / 8), voxel_size_angstrom=4.0)
    write_density(tmp_path / "own.mrc", own)
    same = source_to_density(str(tmp_path / "own.mrc"), SimulationSettings())
    assert torch.equal(same.values, own.values)
    assert same.voxel_size_angstrom == 4.0
    finer = source_to_density(str(tmp_path / "own.mrc"), SimulationSettings(box=27, pixel_size=2.5))
    assert (finer.box, finer.voxel_size_angstrom) == (27, 2.5)
    softer = source_to_density(
        str(tmp_path / "own.mrc"), SimulationSettings(envelope_b_factor=500.0)
    )
    assert softer.values.max() < 0.9 * own.values.max()


@pytest.mark.parametrize("source", ["c1", "cube", "model.xyz", "particles.star"])
def test_an_unknown_source_is_refused(source: str) -> None:
    with pytest.raises(InputError, match=rf"source '{source}': expected a phantom .* found none"):
        source_to_density(source, SimulationSettings())
