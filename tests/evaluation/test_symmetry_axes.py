"""The axes of a group are found in maps of any frame, and missed where there are none."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.evaluation.alignment import apply_alignment
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.evaluation.symmetric_density import symmetrise_density
from cryogimbal.evaluation.symmetry_axes import SymmetryAxes, find_symmetry_axes, one_of_each_pair
from cryogimbal.fourier.shells import shell_index
from cryogimbal.fourier.transforms import density_to_hartley, hartley_to_density
from cryogimbal.io.atoms import read_atomic_model
from cryogimbal.io.mrc import read_density
from cryogimbal.rotations import geodesic_distance_rad, orthonormalise, random_rotations
from cryogimbal.simulation.atoms import atoms_to_points
from cryogimbal.simulation.points import points_to_density
from cryogimbal.symmetry import symmetry_group
from tests.evaluation.gaussians import VOXEL_SIZE_ANGSTROM, gaussian_density, random_positions

# Compact things of which nobody named the symmetry stay below this, see find_symmetry_axes.
UNRELATED = 0.45
# Eight shells of a box of 32.
LIMIT_ANGSTROM = 32 * VOXEL_SIZE_ANGSTROM / 8


def particle_in_a_frame(
    name: str, box: int, generator: torch.Generator, *, centre_px: Tensor
) -> tuple[DensityMap, Tensor]:
    """A particle of a group, turned at random and moved, and the turn Q of ``p' = Q (p - c)``."""
    group = symmetry_group(name)
    unit = random_positions(max(2, 60 // group.order), box, generator, reach=0.3)
    rotation = orthonormalise(random_rotations(1, generator)[0].double())
    copies = (unit @ group.operators.mT).flatten(0, 1)
    return gaussian_density(copies @ rotation + centre_px, box), rotation


def with_noise(density: DensityMap, *, shell: int, generator: torch.Generator) -> DensityMap:
    """White noise of the power that the map has in a shell."""
    spectrum = density_to_hartley(density.values)
    deviation = spectrum[shell_index(density.box, 3) == shell].square().mean().sqrt()
    noise = hartley_to_density(torch.randn(spectrum.shape, generator=generator)) * deviation
    return DensityMap(values=density.values + noise, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)


def worst_axis_deg(found: SymmetryAxes, rotation: Tensor) -> float:
    """By how much the operators in the map differ, each from the nearest true one."""
    operators = found.group.operators
    ours = found.alignment.rotation.T @ operators @ found.alignment.rotation
    theirs = rotation.T @ operators @ rotation
    shape = (len(ours), len(ours), 3, 3)
    apart = geodesic_distance_rad(ours[:, None].expand(shape), theirs.expand(shape))
    return math.degrees(float(apart.amin(1).max()))


def centre_px(found: SymmetryAxes) -> Tensor:
    """c of ``p' = Q (p - c)``."""
    alignment = found.alignment
    return -(alignment.rotation.T @ alignment.shift_angstrom) / VOXEL_SIZE_ANGSTROM


@pytest.mark.parametrize(
    ("name", "side"),
    [("C3", 25), ("D2", 24), ("T", 25), ("O", 24), ("I", 25)],
)
def test_the_axes_of_a_turned_and_moved_particle(
    name: str, side: int, generator: torch.Generator
) -> None:
    moved = torch.tensor([1.6, -2.1, 0.9]).double()
    density, rotation = particle_in_a_frame(name, side, generator, centre_px=moved)
    limit_angstrom = side * VOXEL_SIZE_ANGSTROM / 9
    found = find_symmetry_axes(
        density, symmetry_group(name), resolution_limit_angstrom=limit_angstrom
    )
    assert found.agreement > 0.95
    assert worst_axis_deg(found, rotation) < 0.5
    # Of a cyclic group the centre may lie anywhere on the axis.
    across = torch.eye(3) - (rotation.T @ found.group.operators @ rotation).mean(0)
    assert (across @ (centre_px(found) - moved)).norm() < 0.05
    turned = apply_alignment(density, found.alignment)
    curve = fourier_shell_correlation(
        turned, symmetrise_density(turned, found.group), poses="truth"
    ).correlation
    assert curve[:10].min() > 0.98


@pytest.mark.parametrize("name", ["C3", "D2"])
def test_noise_moves_the_axes_little(name: str, generator: torch.Generator) -> None:
    moved = torch.tensor([-1.5, 1.0, 2.0]).double()
    density, rotation = particle_in_a_frame(name, 32, generator, centre_px=moved)
    noisy = with_noise(density, shell=7, generator=generator)
    found = find_symmetry_axes(
        noisy, symmetry_group(name), resolution_limit_angstrom=LIMIT_ANGSTROM
    )
    assert found.resolution_angstrom == pytest.approx(LIMIT_ANGSTROM)
    assert UNRELATED < found.agreement < 0.95
    # An eighth of the box seen from a third of it away is 20 degrees; a tenth of that is seen.
    assert worst_axis_deg(found, rotation) < 3


@pytest.mark.parametrize("name", ["C2", "T"])
def test_a_map_without_the_group_does_not_agree(name: str, generator: torch.Generator) -> None:
    density = gaussian_density(random_positions(60, 32, generator), 32)
    found = find_symmetry_axes(
        density, symmetry_group(name), resolution_limit_angstrom=LIMIT_ANGSTROM
    )
    assert found.agreement < UNRELATED


def test_a_part_of_the_group_is_not_enough(generator: torch.Generator) -> None:
    density, _ = particle_in_a_frame("D2", 32, generator, centre_px=torch.zeros(3).double())

    def agreement(name: str) -> float:
        group = symmetry_group(name)
        limit = LIMIT_ANGSTROM
        return find_symmetry_axes(density, group, resolution_limit_angstrom=limit).agreement

    assert agreement("C2") > 0.95
    assert agreement("C4") < UNRELATED


def test_a_centre_in_the_middle_stays_there(generator: torch.Generator) -> None:
    middle = torch.zeros(3).double()
    density, rotation = particle_in_a_frame("C3", 32, generator, centre_px=middle)
    group, limit = symmetry_group("C3"), LIMIT_ANGSTROM
    found = find_symmetry_axes(density, group, centre="middle", resolution_limit_angstrom=limit)
    assert torch.equal(found.alignment.shift_angstrom, middle)
    assert worst_axis_deg(found, rotation) < 0.5
    moved, _ = particle_in_a_frame("C3", 32, generator, centre_px=middle + 2)
    missed = find_symmetry_axes(moved, group, centre="middle", resolution_limit_angstrom=limit)
    assert torch.equal(missed.alignment.shift_angstrom, middle)
    assert missed.agreement < 0.9


def test_operators_are_taken_once_of_each_pair() -> None:
    counts = {"C1": 1, "C2": 1, "C3": 1, "C4": 2, "D7": 10, "T": 7, "I": 37}
    for name, count in counts.items():
        operators = symmetry_group(name).operators
        chosen = one_of_each_pair(operators)
        assert len(chosen) == count
        both = torch.cat([chosen, chosen.mT, torch.eye(3).double()[None]])
        assert (operators[:, None] - both).abs().amax((2, 3)).amin(1).max() < 1e-9


def test_too_few_shells_are_refused() -> None:
    density = DensityMap(values=torch.ones(8, 8, 8), voxel_size_angstrom=2.0)
    with pytest.raises(InputError, match=r"8 voxels, 16 Å wide, has 1 shells .* at least 2"):
        find_symmetry_axes(density, symmetry_group("C2"), resolution_limit_angstrom=12.0)


def test_an_empty_map_gives_a_finite_frame() -> None:
    empty = DensityMap(values=torch.zeros(16, 16, 16), voxel_size_angstrom=2.0)
    found = find_symmetry_axes(empty, symmetry_group("D2"))
    assert found.alignment.rotation.isfinite().all()
    assert found.agreement == 0.0


def test_the_20s_proteasome_has_seven_folds(reference_data: Path) -> None:
    model = atoms_to_points(read_atomic_model(reference_data / "atomic" / "3j9i.pdb.gz"))
    density = points_to_density(model, 32, 6.5, 200.0)
    agreement = [
        find_symmetry_axes(density, symmetry_group(name), resolution_limit_angstrom=21.0).agreement
        for name in ("D7", "D6")
    ]
    assert agreement[0] > 0.95
    assert agreement[1] < UNRELATED


def test_beta_galactosidase_has_three_two_folds(reference_data: Path) -> None:
    density = read_density(reference_data / "maps" / "ngl_betaGal_100.mrc")
    found = find_symmetry_axes(density, symmetry_group("D2"), resolution_limit_angstrom=44.0)
    assert found.agreement > 0.95
    # The map comes on its axes.
    off_axis = found.alignment.rotation.abs().sort(dim=1).values[:, :2]
    assert off_axis.max() < 0.01
