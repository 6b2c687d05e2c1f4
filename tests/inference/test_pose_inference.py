"""Poses of images that the encoder has not seen, by proposal and direct steps."""

from typing import Any

import pytest
import torch

from cryogimbal.errors import InputError
from cryogimbal.inference.config_heads import PoseInferenceConfig
from cryogimbal.inference.modes import distinct
from cryogimbal.inference.pose_inference import InferredPoses, infer_poses
from cryogimbal.rotations import geodesic_distance_deg, random_rotations
from tests.inference.taught import taught


def inferred(**options: Any) -> list[InferredPoses]:
    found = taught()
    config = PoseInferenceConfig(**options)
    return list(infer_poses(found.encoder, found.density, found.unseen, config))


def median_deg(parts: list[InferredPoses], field: str) -> float:
    rotation = torch.cat([getattr(part, field) for part in parts])
    return float(geodesic_distance_deg(rotation, taught().truth).median())


def test_direct_steps_bring_the_best_head_near_the_truth() -> None:
    parts = inferred()
    heads, final = median_deg(parts, "head_rotation"), median_deg(parts, "rotation")
    assert heads < 12
    assert final < 0.5 * heads
    # White noise of deviation 1 is what a right pose leaves of an image.
    assert 0.9 < float(torch.cat([part.residual for part in parts]).mean()) < 1.1


def test_without_steps_the_best_head_is_the_pose() -> None:
    for part in inferred(direct_steps=0):
        assert torch.equal(part.rotation, part.head_rotation)


def test_every_image_comes_once_whatever_the_batches() -> None:
    one, many = inferred(batch_size=200), inferred(batch_size=70)
    assert [len(part.index) for part in many] == [70, 70, 60]
    assert torch.equal(torch.cat([part.index for part in many]), one[0].index)
    together = torch.cat([part.rotation for part in many])
    angle = geodesic_distance_deg(together, one[0].rotation)
    assert float(angle.quantile(0.95)) < 0.1


def test_more_hypotheses_never_fit_worse_by_much() -> None:
    few, many = inferred(hypotheses=1), inferred(hypotheses=8)
    left = [torch.cat([part.residual for part in parts]) for parts in (few, many)]
    assert float(left[1].mean()) <= float(left[0].mean()) + 1e-4


def test_distinct_takes_the_first_that_is_far_from_all_before(generator: torch.Generator) -> None:
    ranked = random_rotations(5 * 30, generator).unflatten(0, (5, 30))
    found = distinct(ranked, 4, 60.0)
    for image, row in zip(ranked, found.tolist(), strict=True):
        expected: list[int] = []
        for candidate, rotation in enumerate(image):
            apart = [float(geodesic_distance_deg(rotation, image[e])) > 60 for e in expected]
            if all(apart) and len(expected) < 4:
                expected.append(candidate)
        assert row == expected + [-1] * (4 - len(expected))


def test_distinct_says_where_none_is_left() -> None:
    same = torch.eye(3).expand(2, 6, 3, 3)
    assert distinct(same, 3, 15.0).tolist() == [[0, -1, -1], [0, -1, -1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direct_steps": -1}, "direct-steps: expected 0 or more, found -1"),
        ({"hypotheses": 0}, "hypotheses: expected at least 1, found 0"),
        ({"batch_size": 0}, "batch-size: expected at least 1, found 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PoseInferenceConfig(**options)
