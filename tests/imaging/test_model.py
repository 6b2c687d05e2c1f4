import pytest
import torch
from torch import Tensor

from cryogimbal.data.optics import CtfParameters
from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.fourier.disc import Disc, make_disc
from cryogimbal.fourier.transforms import image_to_hartley
from cryogimbal.imaging.ctf import transfer_function
from cryogimbal.imaging.model import ImageModel, ParticleBatch
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.rotations import random_rotations
from tests.imaging.gaussian_phantom import GaussianPhantom, random_phantom
from tests.imaging.optics_values import in_float32, random_ctf
from tests.laws import relative_error
from tests.reference.ctf_loop import ctf_by_loop

PIXEL_SIZE_ANGSTROM = 3.0
N_IMAGES, N_HEADS = 3, 2


def model_of(phantom: GaussianPhantom, box: int) -> ImageModel:
    geometry = GridGeometry(box=box, radius=box / 2, oversampling=2)
    grid = geometry.grid_of_density(phantom.density(box).float())
    return ImageModel(decoder=PreparedGrid.of(grid, geometry.oversampling))


def batch_of(ctf: CtfParameters, disc: Disc) -> ParticleBatch:
    frequency = disc.frequency_index / (disc.box * PIXEL_SIZE_ANGSTROM)
    return ParticleBatch(
        disc=disc,
        observed=torch.zeros(len(ctf), disc.n_coefficients),
        ctf=transfer_function(in_float32(ctf), frequency),
        index=torch.arange(len(ctf)),
    )


def random_hypotheses(box: int, generator: torch.Generator) -> PoseHypotheses:
    rotation = random_rotations(N_IMAGES * N_HEADS, generator)
    shift_px = (torch.rand(N_IMAGES, N_HEADS, 2, generator=generator) - 0.5) * 0.1 * box
    return PoseHypotheses(
        rotation=rotation.view(N_IMAGES, N_HEADS, 3, 3),
        shift_box=shift_px / box,
    )


def image_by_hand(
    phantom: GaussianPhantom, hypotheses: PoseHypotheses, image: int, head: int, box: int
) -> Tensor:
    """Turn the particle, move it, project it: all in real space."""
    turned = phantom.turned(hypotheses.rotation[image, head])
    if hypotheses.shift_box is not None:
        shift_px = hypotheses.shift_box[image, head] * box
        turned = turned.moved(torch.cat([shift_px, torch.zeros(1)]))
    return turned.projection(box)


@pytest.mark.parametrize("side", [40, 41])
@pytest.mark.parametrize("shifted", [True, False])
def test_predictions_equal_images_made_in_real_space(
    side: int, shifted: bool, generator: torch.Generator
) -> None:
    phantom = random_phantom(generator, reach=side / 4 - 2)
    hypotheses = random_hypotheses(side, generator)
    if not shifted:
        hypotheses = PoseHypotheses(rotation=hypotheses.rotation)
    ctf, disc = random_ctf(N_IMAGES, generator), make_disc(side).truncate(0.8 * side / 2)
    found = model_of(phantom, side).predict(hypotheses, batch_of(ctf, disc))
    assert found.shape == (N_IMAGES, N_HEADS, disc.n_coefficients)
    frequency = disc.frequency_index.double() / (side * PIXEL_SIZE_ANGSTROM)
    transfer = ctf_by_loop(ctf, frequency)
    for image in range(N_IMAGES):
        for head in range(N_HEADS):
            projection = image_by_hand(phantom, hypotheses, image, head, side)
            expected = transfer[image] * disc.gather(image_to_hartley(projection))
            assert relative_error(found[image, head].double(), expected) < 0.03


def test_a_lower_band_limit_is_a_prefix(box: int, generator: torch.Generator) -> None:
    batch = batch_of(random_ctf(N_IMAGES, generator), make_disc(box))
    model = model_of(random_phantom(generator, reach=box / 4), box)
    hypotheses = random_hypotheses(box, generator)
    small = batch.truncate(4.0)
    n = small.disc.n_coefficients
    assert n == batch.disc.prefix(4.0) and small.observed.shape == (N_IMAGES, n)
    assert torch.equal(small.ctf, batch.ctf[:, :n])
    full = model.predict(hypotheses, batch)[..., :n]
    torch.testing.assert_close(model.predict(hypotheses, small), full, atol=1e-5, rtol=1e-4)


def test_poses_and_shifts_can_be_learned(box: int, generator: torch.Generator) -> None:
    batch = batch_of(random_ctf(N_IMAGES, generator), make_disc(box))
    model = model_of(random_phantom(generator, reach=box / 4), box)
    start = random_hypotheses(box, generator)
    assert start.shift_box is not None
    shift = start.shift_box.clone().requires_grad_()
    rotation = start.rotation.clone().requires_grad_()
    predicted = model.predict(PoseHypotheses(rotation=rotation, shift_box=shift), batch)
    for gradient in torch.autograd.grad(predicted.square().sum(), (rotation, shift)):
        per_hypothesis = gradient.flatten(2).norm(dim=-1)
        assert bool((per_hypothesis > 0).all() and per_hypothesis.isfinite().all())
