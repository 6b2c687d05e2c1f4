"""A named group: its axes are found in the map, map and poses are turned to them and kept to it."""

import io
import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.data.poses import PoseSet
from cryogimbal.errors import InputError
from cryogimbal.evaluation.alignment import Alignment
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.evaluation.masks import soft_sphere_mask
from cryogimbal.evaluation.pose_error import pose_errors
from cryogimbal.evaluation.symmetric_density import symmetrise_density
from cryogimbal.evaluation.symmetry_axes import SymmetryAxes, find_symmetry_axes
from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.config_heads import HeadTrainingConfig, RowEncoderConfig
from cryogimbal.inference.config_posterior import PosteriorConfig
from cryogimbal.inference.config_stages import AutoDecodingConfig, BandConfig
from cryogimbal.inference.head_training import HeadTraining, RenderedPoses, new_row_encoder
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.mode_search import ModeSearch, find_modes
from cryogimbal.inference.modes import Modes
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.inference.posterior_search import PoseSpace, PosteriorSearch
from cryogimbal.inference.reconstruct import ReconstructionRun
from cryogimbal.inference.records import NoticeRecord, SwitchRecord
from cryogimbal.inference.rescue import nearest_to
from cryogimbal.inference.start_and_result import StartingPoint
from cryogimbal.inference.symmetry_imposition import table_on_axes
from cryogimbal.rotations import (
    geodesic_distance_deg,
    orthonormalise,
    random_rotations,
    rotvec_to_rotation,
)
from cryogimbal.symmetry import (
    in_asymmetric_unit,
    nearest_same_image,
    same_image_within_deg,
    symmetry_group,
    turned_group,
)
from tests.evaluation.gaussians import gaussian_density, random_positions
from tests.small_particles import blob_density, simulate_spectra

BOX = 20
TINY = ReconstructionConfig(
    shifts="none",
    noise="white",
    posterior=PosteriorConfig(
        max_starts=2, iterations=3, minibatch=40, n_side=2, mode_n_side=4, end_radius=6.0
    ),
    auto_decoding=AutoDecodingConfig(
        epochs=2,
        batch_size=64,
        hypotheses=2,
        held_epochs=1,
        band=BandConfig(start_radius=6.0, growth_epochs=1),
    ),
    head_training=HeadTrainingConfig(epochs=0),
)


def turned_particle(name: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Density of a particle of a group in a frame of its own, and Q of that frame (``p' = Q p``)."""
    group = symmetry_group(name)
    unit = random_positions(24 // group.order, BOX, generator, reach=0.3)
    rotation = orthonormalise(random_rotations(1, generator)[0].double())
    copies = (unit @ group.operators.mT).flatten(0, 1) @ rotation
    return gaussian_density(copies, BOX).values, rotation


def images_of(
    name: str, n: int, generator: torch.Generator
) -> tuple[ParticleSpectra, Tensor, Tensor, Tensor]:
    """Images, their density, true rotations, and Q."""
    density, rotation = turned_particle(name, generator)
    spectra, truth = simulate_spectra(density, n, generator, signal_to_noise=2.0)
    return spectra, density, truth, rotation


def symmetric_by(density: Tensor, name: str) -> float:
    """Least shell correlation of a map with itself made symmetric, over eight shells."""
    one = DensityMap(values=density, voxel_size_angstrom=1.0)
    other = symmetrise_density(one, symmetry_group(name))
    return float(fourier_shell_correlation(one, other, poses="truth").correlation[:8].min())


def notices(records: list[Any]) -> list[str]:
    return [record.text for record in records if isinstance(record, NoticeRecord)]


def poses(rotation: Tensor) -> PoseSet:
    return PoseSet(rotation=rotation, shift_angstrom=torch.zeros(len(rotation), 2))


@pytest.mark.parametrize("given", ["map", "poses"])
def test_axes_are_found_and_the_particle_is_kept_to_them(
    given: str, generator: torch.Generator
) -> None:
    spectra, density, truth, rotation = images_of("D2", 150, generator)
    start = StartingPoint(density=density)
    if given == "poses":
        start = StartingPoint(poses=poses(truth))
    run = ReconstructionRun(spectra, replace(TINY, symmetry="D2"), start)
    told = notices(list(run.records()))
    assert len(told) == 1
    assert "at the best axes of D2 the map agrees with its copies to 0." in told[0]
    assert "kept symmetric from here" in told[0]
    result = run.result()
    assert result.symmetry.imposed
    assert result.symmetry.to_dict()["symmetry"] == "D2"
    assert symmetric_by(result.density.values, "D2") > 0.99
    # The map is on the group's own axes: the truth, turned to them, differs by operators alone.
    errors = pose_errors(
        result.poses, poses((truth.double() @ rotation.T).float()), group=symmetry_group("D2")
    )
    assert errors.rotation_error_deg.median() < 4
    on_axes = geodesic_distance_deg(
        nearest_same_image(errors.alignment.rotation, torch.eye(3).double(), symmetry_group("O")),
        torch.eye(3).double(),
    )
    assert on_axes < 4


def test_axes_are_looked_for_as_far_as_the_search_has_come(generator: torch.Generator) -> None:
    spectra, density, _, _ = images_of("D2", 20, generator)
    config = replace(TINY, symmetry="D2", posterior=replace(TINY.posterior, end_radius=4.0))
    width_angstrom = BOX * spectra.pixel_size_angstrom
    for radius in (4.0, 7.0):
        run = ReconstructionRun(spectra, config, StartingPoint())
        run._decoding_from_map(density, radius)
        told = run.state_dict()["pending"][0]["text"]
        assert f"up to {width_angstrom / radius:.1f} Å" in told


def test_a_group_that_the_particle_does_not_have_is_not_imposed(
    generator: torch.Generator,
) -> None:
    density = blob_density(BOX, generator, n_blobs=30)
    spectra, truth = simulate_spectra(density, 100, generator, signal_to_noise=2.0)
    run = ReconstructionRun(spectra, replace(TINY, symmetry="C3"), StartingPoint(density=density))
    told = notices(list(run.records()))
    assert len(told) == 2
    assert "looks again" in told[0]
    assert "no symmetry is imposed; give another --symmetry" in told[1]
    found = run.result()
    assert not found.symmetry.imposed
    assert found.symmetry.to_dict()["symmetry"] == "C1"
    assert pose_errors(found.poses, poses(truth)).rotation_error_deg.median() < 4


def test_axes_that_show_only_later_are_found_in_the_next_map(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    spectra, density, truth, rotation = images_of("C2", 150, generator)
    searches: list[SymmetryAxes] = []

    def blurred_at_first(*arguments: Any, **options: Any) -> SymmetryAxes:
        axes = find_symmetry_axes(*arguments, **options)
        searches.append(axes)
        return replace(axes, agreement=0.2) if len(searches) == 1 else axes

    monkeypatch.setattr("cryogimbal.inference.reconstruct.find_symmetry_axes", blurred_at_first)
    run = ReconstructionRun(spectra, replace(TINY, symmetry="C2"), StartingPoint(density=density))
    records = list(run.records())
    told = notices(records)
    assert "to 0.20" in told[0]
    assert "looks again in its next map" in told[0]
    assert "kept symmetric from here" in told[1]
    switches = [record for record in records if isinstance(record, SwitchRecord)]
    assert [(s.from_stage, s.to_stage) for s in switches] == [("auto_decoding", "auto_decoding")]
    result = run.result()
    assert result.symmetry.imposed
    assert symmetric_by(result.density.values, "C2") > 0.99
    on_axes = poses((truth.double() @ rotation.T).float())
    errors = pose_errors(result.poses, on_axes, group=symmetry_group("C2"))
    assert errors.rotation_error_deg.median() < 4


def through_a_file(state: dict[str, object]) -> dict[str, object]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("way", ["map", "start"])
def test_a_run_stopped_around_the_imposition_goes_on_bit_by_bit(
    way: str, generator: torch.Generator
) -> None:
    spectra, density, _, _ = images_of("C2", 64, generator)
    start = StartingPoint(density=density) if way == "map" else StartingPoint()
    config = replace(TINY, symmetry="C2", symmetry_from=way)  # pyright: ignore
    unbroken = ReconstructionRun(spectra, config, start)
    records = list(unbroken.records())
    for stop in (1, 7):
        first = ReconstructionRun(spectra, config, start)
        before = list(itertools.islice(first.records(), stop))
        second = ReconstructionRun(spectra, config, start)
        second.load_state_dict(through_a_file(first.state_dict()))
        assert before + list(second.records()) == records
        assert torch.equal(second.result().density.values, unbroken.result().density.values)
        assert second.result().symmetry.imposed


def test_from_the_start_a_map_is_symmetric_and_orientations_are_fewer(
    generator: torch.Generator,
) -> None:
    spectra, _, _, _ = images_of("D2", 60, generator)
    group = symmetry_group("D2")
    config = replace(TINY.posterior, max_starts=1, iterations=6, n_side=4)
    # Inside the box's edge: an even box has no mirror mate of its first plane.
    mask = soft_sphere_mask(BOX, 1.0, diameter_angstrom=0.8 * BOX, edge_angstrom=3.0)
    search = PosteriorSearch(spectra, mask, config, 0, space=PoseSpace(group=group))
    sharing = [record.effective_orientations for record in search.records()]
    assert symmetric_by(search.densities()[0], "D2") > 0.999
    # A quarter of the 4,608 orientations of the grid, and some on the border.
    assert max(share for share in sharing if share is not None) < 0.3 * 4608


def test_modes_are_distinct_modulo_the_group(generator: torch.Generator) -> None:
    spectra, density, truth, rotation = images_of("D2", 40, generator)
    group = turned_group(symmetry_group("D2"), rotation)
    search = ModeSearch(radius=6.0, n_side=4, n_modes=3, group=group)
    scaled = ReconstructionRun(spectra, TINY, StartingPoint(density=density))
    modes = find_modes(spectra, scaled._volume.density(), search, MemoryBudget.of_mebibytes(200))
    best = modes.rotation[:, 0]
    errors = geodesic_distance_deg(nearest_same_image(best, truth, group), truth)
    assert errors.median() < 4
    near = same_image_within_deg(modes.rotation, search.separation_deg / 2, group)
    finite = torch.isfinite(modes.residual)
    both = finite[:, :, None] & finite[:, None] & ~torch.eye(3, dtype=torch.bool)
    assert not (near & both).any()
    # Each is looked for once: three of four copies are left out, but for borders.
    grid = search.orientations(torch.device("cpu"))
    assert len(grid) < 0.3 * 4608
    assert in_asymmetric_unit(grid, group).all()


def test_challengers_are_the_copies_nearest_to_the_pose_of_an_image(
    generator: torch.Generator,
) -> None:
    group = symmetry_group("D3")
    best = random_rotations(5, generator)
    small = rotvec_to_rotation(0.01 * torch.randn(5, 3, generator=generator))
    modes = Modes(
        rotation=(small @ best @ group.operators[4].float())[:, None],
        residual=torch.zeros(5, 1),
    )
    found = nearest_to(Hypotheses(rotation=best, image=torch.arange(5)), modes, group)
    assert geodesic_distance_deg(found.rotation[:, 0], best).max() < 3
    assert torch.equal(found.residual, modes.residual)


def test_heads_may_propose_any_pose_of_the_same_image(generator: torch.Generator) -> None:
    spectra, density, _, _ = images_of("D2", 30, generator)
    losses = []
    for name in ("C1", "C4"):
        tiny = RowEncoderConfig(n_heads=2, widths=(8,), radius=4.0)
        encoder = new_row_encoder(tiny, spectra, density, 0)
        stage = HeadTraining(
            spectra,
            encoder,
            density,
            HeadTrainingConfig(epochs=1, images_per_epoch=64, batch_size=64),
            0,
            RenderedPoses(group=symmetry_group(name)),
        )
        losses.append(next(iter(stage.records())).loss)
    # The same network, the same images: the nearest of four is nearer than one.
    assert losses[1] < 0.9 * losses[0]


def test_turned_poses_leave_every_point_where_it_is_in_its_image(
    generator: torch.Generator,
) -> None:
    box_angstrom = 100.0
    rotation = random_rotations(6, generator).view(3, 2, 3, 3)
    shift = torch.randn(3, 2, 2, generator=generator) * 0.1
    table = PoseTable(rotation=rotation, weight=torch.ones(3, 2) / 2, shift_box=shift)
    alignment = Alignment(
        rotation=orthonormalise(random_rotations(1, generator)[0].double()),
        shift_angstrom=torch.tensor([5.0, -8.0, 2.0]).double(),
        mirrored=False,
        score=1.0,
    )
    turned = table_on_axes(table, alignment, box_angstrom)
    point = torch.randn(3, generator=generator) * 20
    moved = alignment.rotation.float() @ point + alignment.shift_angstrom.float()
    assert turned.shift_box is not None
    before = (rotation @ point)[..., :2] + shift * box_angstrom
    after = (turned.rotation @ moved)[..., :2] + turned.shift_box * box_angstrom
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    centred = replace(table, shift_box=None)
    assert table_on_axes(centred, alignment, box_angstrom).shift_box is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"symmetry": "D99"}, r"symmetry 'D99': expected C1 to C20"),
        (
            {"symmetry": "C2", "symmetry_from": "start", "start": "encoder"},
            r"--start: expected posterior beside --symmetry-from start",
        ),
        (
            {"symmetry": "C2", "auto_decoding": AutoDecodingConfig(volume_step="adam")},
            r"--auto-decoding.volume-step: expected closed_form, .* --symmetry C2, found adam",
        ),
    ],
)
def test_options_that_contradict_each_other(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReconstructionConfig(**changes)
