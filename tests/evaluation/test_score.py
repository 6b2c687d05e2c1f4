import json
import math

import pytest
import torch

from cryogimbal.data.density import DensityMap
from cryogimbal.data.poses import PoseSet
from cryogimbal.errors import InputError
from cryogimbal.evaluation.alignment import Alignment, align_pose_frame
from cryogimbal.evaluation.score import Result, evaluate_against_truth
from cryogimbal.fourier.resample import resample_density
from cryogimbal.rotations import random_rotations, rotvec_to_rotation
from cryogimbal.symmetry import symmetry_group, turned_group
from tests.evaluation.gaussians import (
    VOXEL_SIZE_ANGSTROM,
    gaussian_density,
    random_frame,
    random_positions,
)

HANDS = pytest.mark.parametrize("sign", [1.0, -1.0], ids=["same_hand", "mirrored"])


def truth_and_estimate(
    box: int, generator: torch.Generator, *, sign: float, scatter_deg: float = 2.0
) -> tuple[Result, Result]:
    """A particle with poses, and the same in another frame with scattered poses."""
    position = random_positions(60, box, generator)
    rotation, hand, shift_px = random_frame(box, generator, sign=sign)
    truth = Result(
        poses=PoseSet(
            rotation=random_rotations(400, generator),
            shift_angstrom=3 * torch.randn(400, 2, generator=generator),
        ),
        density=gaussian_density(position, box),
    )
    assert truth.poses is not None
    to_estimate = Alignment(
        rotation=rotation,
        shift_angstrom=shift_px * VOXEL_SIZE_ANGSTROM,
        mirrored=sign < 0,
        score=1.0,
    )
    moved = align_pose_frame(truth.poses, to_estimate)
    axis = torch.nn.functional.normalize(torch.randn(400, 3, generator=generator), dim=-1)
    scatter = rotvec_to_rotation(math.radians(scatter_deg) * axis)
    estimated = Result(
        poses=PoseSet(rotation=scatter @ moved.rotation, shift_angstrom=moved.shift_angstrom),
        density=gaussian_density(position @ (rotation @ hand).T + shift_px, box),
    )
    return estimated, truth


@HANDS
@pytest.mark.parametrize("box", [32, 33], ids=["even", "odd"])
def test_a_run_is_scored_in_the_frame_of_the_truth(box, sign, generator):
    estimated, truth = truth_and_estimate(box, generator, sign=sign)
    found = evaluate_against_truth(estimated, truth)
    report = found.to_dict()
    assert report["mirrored"] == (sign < 0)
    # Every pose was turned by 2 degrees; the common frame takes away next to nothing of it.
    assert abs(report["rotation_error_median_deg"] - 2.0) < 0.2
    assert abs(report["rotation_error_mean_deg"] - 2.0) < 0.2
    assert report["view_direction_error_median_deg"] < report["rotation_error_median_deg"]
    assert report["shift_error_median_angstrom"] < 0.5
    assert report["fsc"]["poses"] == "truth"
    assert min(report["fsc"]["correlation"][: int(0.45 * box)]) > 0.99
    assert report["resolution_fsc05_angstrom"] == box * VOXEL_SIZE_ANGSTROM / (box // 2)
    assert not report["fsc05_crossed"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report


@HANDS
def test_poses_alone_and_maps_alone_are_scored(sign, generator):
    estimated, truth = truth_and_estimate(16, generator, sign=sign)
    poses_only = evaluate_against_truth(Result(poses=estimated.poses), truth).to_dict()
    assert poses_only["mirrored"] == (sign < 0)
    assert abs(poses_only["rotation_error_median_deg"] - 2.0) < 0.2
    assert "fsc" not in poses_only
    map_only = evaluate_against_truth(estimated, Result(density=truth.density)).to_dict()
    assert map_only["mirrored"] == (sign < 0)
    assert min(map_only["fsc"]["correlation"][:6]) > 0.99
    assert "rotation_error_mean_deg" not in map_only


def test_the_hand_of_the_poses_is_the_hand_of_the_map(generator):
    # Poses of one hand beside a map of the other: one decision, so that the map scores badly.
    estimated, truth = truth_and_estimate(32, generator, sign=-1.0)
    other, _ = truth_and_estimate(32, generator, sign=1.0)
    found = evaluate_against_truth(Result(poses=estimated.poses, density=other.density), truth)
    assert found.pose_errors is not None
    assert found.alignment.mirrored
    assert found.pose_errors.mirrored


@pytest.mark.parametrize(("small", "large"), [(24, 32), (25, 32), (24, 33), (25, 33)])
def test_maps_of_other_sampling_meet_on_the_coarser_grid(small, large, generator):
    estimated, truth = truth_and_estimate(large, generator, sign=1.0)
    assert estimated.density is not None
    field_angstrom = large * VOXEL_SIZE_ANGSTROM
    coarse = DensityMap(
        values=resample_density(estimated.density.values, small),
        voxel_size_angstrom=field_angstrom / small,
    )
    found = evaluate_against_truth(Result(poses=estimated.poses, density=coarse), truth)
    assert found.fsc is not None
    assert found.fsc.box == small
    assert math.isclose(found.fsc.voxel_size_angstrom, field_angstrom / small)
    assert found.fsc.correlation[: int(0.45 * small)].min() > 0.99
    other_way = Result(poses=truth.poses, density=estimated.density)
    swapped = evaluate_against_truth(Result(poses=truth.poses, density=coarse), other_way)
    assert swapped.aligned_density is not None
    assert swapped.aligned_density.box == small
    assert swapped.alignment.rotation.allclose(torch.eye(3).double(), atol=1e-3)


def test_other_fields_of_view_are_refused_with_both_numbers():
    a = DensityMap(values=torch.ones(16, 16, 16), voxel_size_angstrom=3.0)
    b = DensityMap(values=torch.ones(16, 16, 16), voxel_size_angstrom=3.1)
    expected = r"48 Å \(16 voxels of 3 Å\) and 49\.6 Å \(16 voxels of 3\.1 Å\); crop or pad"
    with pytest.raises(InputError, match=expected):
        evaluate_against_truth(Result(density=a), Result(density=b))


def test_nothing_in_common_is_refused(generator):
    estimated, truth = truth_and_estimate(16, generator, sign=1.0)
    with pytest.raises(InputError, match=r"nothing to compare: expected the true poses"):
        evaluate_against_truth(Result(poses=estimated.poses), Result(density=truth.density))


def test_poses_count_modulo_a_group_about_its_axes_in_the_true_map(generator):
    box, group = 24, symmetry_group("D2")
    rotation, _, _ = random_frame(box, generator, sign=1.0)
    unit = random_positions(10, box, generator, reach=0.3)
    density = gaussian_density((unit @ group.operators.mT).flatten(0, 1) @ rotation, box)
    poses = PoseSet(rotation=random_rotations(200, generator), shift_angstrom=torch.zeros(200, 2))
    own = turned_group(group, rotation).operators.float()
    other = own[torch.randint(group.order, (200,), generator=generator)]
    axis = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator), dim=-1)
    scatter = rotvec_to_rotation(math.radians(2.0) * axis)
    frame = random_rotations(1, generator)[0]
    estimated = PoseSet(
        rotation=scatter @ poses.rotation @ other @ frame, shift_angstrom=poses.shift_angstrom
    )
    truth = Result(poses=poses, density=density)
    found = evaluate_against_truth(Result(poses=estimated), truth, group).to_dict()
    assert found["symmetry"] == "D2"
    # The axes in the map are found to within half a degree.
    assert found["rotation_error_median_deg"] == pytest.approx(2.0, abs=0.5)
    plain = evaluate_against_truth(Result(poses=estimated), truth).to_dict()
    assert plain["rotation_error_median_deg"] > 20
    with pytest.raises(
        InputError, match=r"the true map: expected the symmetry C3 about the middle"
    ):
        evaluate_against_truth(Result(poses=estimated), truth, symmetry_group("C3"))
