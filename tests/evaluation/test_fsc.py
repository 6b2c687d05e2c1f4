import math
from pathlib import Path

import mrcfile
import numpy
import pytest
import torch

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.evaluation.fsc import FscCurve, fourier_shell_correlation
from cryogimbal.fourier.shells import shell_sum
from tests.reference.shell_correlation import shell_correlation


def density(values: torch.Tensor, voxel_size_angstrom: float = 2.0) -> DensityMap:
    return DensityMap(values=values.float(), voxel_size_angstrom=voxel_size_angstrom)


def curve(*correlation: float) -> FscCurve:
    return FscCurve(
        box=2 * (len(correlation) - 1),
        voxel_size_angstrom=2.0,
        correlation=torch.tensor(correlation),
        poses="shared",
    )


def noise_pair(box: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.randn(2, box, box, box, generator=generator)
    return a, b


def test_a_map_correlates_fully_with_itself_at_any_positive_scale(box, generator):
    a, _ = noise_pair(box, generator)
    found = fourier_shell_correlation(density(a), density(3.5 * a), poses="truth")
    assert len(found.correlation) == box // 2 + 1
    torch.testing.assert_close(found.correlation, torch.ones_like(found.correlation))
    inverted = fourier_shell_correlation(density(a), density(-a), poses="truth")
    torch.testing.assert_close(inverted.correlation, -torch.ones_like(found.correlation))


def test_it_equals_the_loop_over_all_voxels(box, generator):
    a, b = noise_pair(box, generator)
    b = a + b
    found = fourier_shell_correlation(density(a), density(b), poses="independent").correlation
    expected = shell_correlation(a.double().numpy(), b.double().numpy())
    numpy.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_independent_noise_correlates_as_chance_has_it(generator):
    # The correlation of n independent pairs has variance 1 / n; a shell of n coefficients of two
    # real maps holds n independent real numbers, k and -k being conjugate.
    box = 33
    a, b = noise_pair(box, generator)
    found = fourier_shell_correlation(density(a), density(b), poses="independent").correlation
    n = shell_sum(torch.ones(box, box, box), 3)
    score = (found * n.sqrt())[1:]
    assert score.abs().max() < 4.0
    assert 0.4 < score.square().mean() < 2.0


def test_maps_with_equal_halves_of_signal_and_noise_correlate_by_one_half(generator):
    signal, first, second = torch.randn(3, 32, 32, 32, generator=generator)
    found = fourier_shell_correlation(
        density(signal + first), density(signal + second), poses="independent"
    )
    assert abs(float(found.correlation[8:].mean()) - 0.5) < 0.03


def test_a_shell_without_power_has_no_correlation():
    constant = torch.ones(8, 8, 8)
    found = fourier_shell_correlation(density(constant), density(constant), poses="truth")
    torch.testing.assert_close(found.correlation, torch.tensor([1.0, 0, 0, 0, 0]).double())


def test_resolution_is_interpolated_at_the_first_crossing():
    found = curve(1.0, 0.9, 0.8, 0.2, 0.9, 0.1)
    # 0.5 lies half way between shells 2 and 3; the field of view is 20 Å.
    assert math.isclose(found.resolution_angstrom(0.5), 20 / 2.5, rel_tol=1e-6)
    assert math.isclose(found.resolution_last_shell_angstrom(0.5), 20 / 2)
    assert math.isclose(found.resolution_angstrom(0.85), 20 / 1.5, rel_tol=1e-6)
    assert found.crosses(0.5)
    torch.testing.assert_close(
        found.frequency_per_angstrom, torch.arange(6, dtype=torch.float64) / 20
    )


def test_a_curve_that_never_falls_resolves_its_last_shell():
    found = curve(1.0, 0.9, 0.8, 0.7, 0.6)
    assert not found.crosses(0.5)
    assert found.resolution_angstrom(0.5) == 2 * found.voxel_size_angstrom
    assert found.resolution_last_shell_angstrom(0.5) == 2 * found.voxel_size_angstrom


@pytest.mark.parametrize("first", [-0.3, 0.0, 0.499])
def test_a_curve_that_falls_at_once_stays_finite(first):
    found = curve(-1.0, first, 0.0, 0.0, 0.0)
    # Shell 0 counts as 1, so the crossing lies between shells 0 and 1: wider than the box.
    assert math.isclose(found.resolution_angstrom(0.5), 16 * (1 - first) / 0.5, rel_tol=1e-5)
    assert found.resolution_last_shell_angstrom(0.5) == 16


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5])
def test_an_impossible_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match="between 0 and 1"):
        curve(1.0, 0.5, 0.1).resolution_angstrom(threshold)


def test_different_grids_are_refused_with_both_named():
    small, large = torch.ones(8, 8, 8), torch.ones(10, 10, 10)
    with pytest.raises(InputError, match=r"box 8 at 2 .* box 10 at 2 .* resample"):
        fourier_shell_correlation(density(small), density(large), poses="truth")
    with pytest.raises(InputError, match=r"box 8 at 2 .* box 8 at 2\.1 "):
        fourier_shell_correlation(density(small), density(small, 2.1), poses="truth")


def test_the_dictionary_holds_plain_numbers(generator):
    a, b = noise_pair(8, generator)
    found = fourier_shell_correlation(density(a), density(b), poses="shared").to_dict()
    assert found["poses"] == "shared"
    assert len(found["frequency_per_angstrom"]) == len(found["correlation"]) == 5
    assert all(type(value) is float for value in found["correlation"])


@pytest.mark.relion
def test_relion_finds_the_same_curve(relion, tmp_path: Path, generator):
    box, voxel_size_angstrom = 64, 2.0
    signal, first, second = torch.randn(3, box, box, box, generator=generator)
    maps = [signal + first, signal + 0.5 * second]
    for name, values in zip("ab", maps, strict=True):
        with mrcfile.new(tmp_path / f"{name}.mrc") as file:
            file.set_data(values.numpy())
            file.voxel_size = voxel_size_angstrom
    text = relion("relion_image_handler", "--i", "a.mrc", "--fsc", "b.mrc")
    rows = [line.split() for line in text.splitlines()]
    # Index, 1/Å, Å and correlation of each shell: the only lines that start with a number.
    table = [[float(word) for word in row] for row in rows if row and row[0].isdigit()]
    assert [row[0] for row in table] == list(range(box // 2 + 1))
    theirs = torch.tensor([row[-1] for row in table]).double()
    ours = fourier_shell_correlation(*(density(m) for m in maps), poses="truth").correlation
    # RELION counts the plane kx = 0 twice: a share of about 1.5 / shell of each sum.
    shell = torch.arange(4, box // 2)
    spread = 2.0 / shell.double() ** 1.5
    assert ((theirs[shell] - ours[shell]).abs() < spread + 0.005).all()
    assert (theirs[shell] - ours[shell]).square().mean().sqrt() < 0.01
