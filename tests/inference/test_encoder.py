"""The convolutional encoder: what it sees, and in what precision it computes."""

import math

import pytest
import torch
from torch import Tensor

from cryogimbal.fourier.disc import make_disc
from cryogimbal.fourier.transforms import hartley_to_image
from cryogimbal.inference import precision
from cryogimbal.inference.config import EncoderConfig
from cryogimbal.inference.encoder import PoseEncoder, initialise
from cryogimbal.rotations import geodesic_distance_deg

CONFIG = EncoderConfig(n_heads=3, channels=(8, 8, 16, 16, 16), hidden=32, pyramid_levels=4)


def new_encoder(box: int) -> PoseEncoder:
    encoder = PoseEncoder(CONFIG, box)
    initialise(encoder, torch.Generator().manual_seed(0))
    return encoder


def random_rows(box: int, n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, make_disc(box).n_coefficients, generator=generator)


def blurred(image: Tensor, width_pixels: float) -> Tensor:
    """A Gaussian blur by its own sum in real space, on the periodic box, float64."""
    box = image.shape[-1]
    offset = torch.arange(box, dtype=torch.float64)
    images_of_box = torch.arange(-8, 9, dtype=torch.float64) * box
    distance = offset[:, None, None] - offset[None, :, None] + images_of_box
    kernel = torch.exp(-(distance**2) / (2 * width_pixels**2)).sum(-1)
    kernel /= kernel.sum(dim=1, keepdim=True)
    return kernel @ image.double() @ kernel.T


def test_the_levels_are_the_image_and_its_gaussian_blurs(
    box: int, generator: torch.Generator
) -> None:
    rows = random_rows(box, 2, generator)
    levels = new_encoder(box)._levels(rows)
    assert levels.shape == (2, CONFIG.pyramid_levels, box, box)
    images = hartley_to_image(make_disc(box).scatter(rows))
    # Half a pixel is too narrow for a blur by a sampled Gaussian to be the continuous one's.
    for level, width in ((0, 0.0), (2, 1.0), (3, 1.5)):
        for image, found in zip(images, levels[:, level], strict=True):
            expected = image.double() if level == 0 else blurred(image, width)
            expected = (expected - expected.mean()) / expected.std(correction=0)
            assert (found - expected).abs().max() < (1e-3 if level == 0 else 0.03)


def test_shifting_the_image_shifts_the_levels(generator: torch.Generator) -> None:
    disc = make_disc(17)
    encoder = new_encoder(17)
    rows = random_rows(17, 1, generator)
    # One pixel along +x: H'(k) = cos(a) H(k) + sin(a) H(-k), a = 2 pi kx / box.
    phase = 2 * math.pi * disc.frequency_index[:, 0] / 17
    mirrored = torch.cat([rows[:, :1], rows[:, 1:].unflatten(1, (-1, 2)).flip(-1).flatten(1)], 1)
    moved = phase.cos() * rows + phase.sin() * mirrored
    expected = encoder._levels(rows).roll(1, dims=-1)
    assert (encoder._levels(moved) - expected).abs().max() < 1e-4


def test_bfloat16_changes_poses_by_its_rounding_only(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    encoder = new_encoder(16)
    rows = random_rows(16, 40, generator)
    # Statistics of the normalisations, then used as they are.
    encoder(rows)
    encoder.eval()
    found = {}
    for fast in (False, True):
        monkeypatch.setattr(precision, "has_fast_bfloat16", lambda _, answer=fast: answer)
        found[fast] = encoder(rows).rotation.detach()
    assert found[True].dtype == torch.float32
    angle = geodesic_distance_deg(found[True], found[False])
    assert 0 < float(angle.median()) < 2


@pytest.mark.parametrize("fast", [False, True])
def test_weights_and_their_gradients_are_float32(
    fast: bool, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda _: fast)
    encoder = new_encoder(16)
    encoder(random_rows(16, 8, generator)).rotation.square()[..., 0, 0].sum().backward()
    for parameter in encoder.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert bool(parameter.grad.isfinite().all())
