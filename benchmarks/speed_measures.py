"""What speed.py measures: each step of the search, and the obvious way of doing the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import obvious_way
import torch
from speed_scene import OVERSAMPLING, Scene
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cryogimbal.imaging.backprojection import SufficientStatistics
from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.signal_power import power_above_noise
from cryogimbal.imaging.slices import PreparedGrid, central_slices
from cryogimbal.imaging.spectra import images_from_rows
from cryogimbal.imaging.volume import GridGeometry, HartleyVolume
from cryogimbal.inference.auto_encoding import AutoEncoding
from cryogimbal.inference.config import EncoderConfig
from cryogimbal.inference.config_heads import RowEncoderConfig
from cryogimbal.inference.config_stages import AutoEncodingConfig, BandConfig, SwitchConfig
from cryogimbal.inference.encoder import PoseEncoder, initialise
from cryogimbal.inference.gauss_newton import FIRST_DAMPING, gauss_newton
from cryogimbal.inference.posterior import fast_dtype, log_likelihoods
from cryogimbal.inference.records import StepRecord
from cryogimbal.inference.row_encoder import (
    RowEncoder,
    initialise_row_encoder,
    signal_estimate,
)

POSE_STEPS = 5
SEARCH_RADIUS = 8.0
SEARCH_TILE = 512
ENCODER_BOX = 16
# Bytes asked for per coefficient in float32: eight corners are read, or read and written.
GATHER, SCATTER, NUMBER = 32, 64, 4

Bound = Literal["bandwidth", "gemm_float32", "gemm_bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One step in two ways."""

    name: str
    ours: Callable[[], object]
    obvious: Callable[[], object]
    images: int
    """Images in a call of ours."""
    obvious_images: int
    samples: float
    """Coefficients (for the encoder: pixels) of an image, times the poses it is compared at."""
    work: float
    """Bytes asked for, or floating-point operations, per image, by ours."""
    bound: Bound = "bandwidth"
    """The ceiling that the work is set against."""
    least_ratio: float | None = None
    most_seconds: float | None = None


def all_measures(scene: Scene) -> Iterator[Measure]:
    """Every measure, made when its turn comes."""
    yield from slicing(scene)
    yield pose_step(scene)
    yield from volume_steps(scene)
    yield posterior(scene)
    yield from encoder_passes(scene)
    yield from auto_encoding_steps(scene)


def slicing(scene: Scene) -> Iterator[Measure]:
    """Slices of a batch, and the gradient of their sum with weights in grid and poses."""
    n, disc = scene.sizes.batch, scene.disc
    prepared = PreparedGrid.of(scene.grid, OVERSAMPLING)

    def obvious() -> Tensor:
        return obvious_way.sampled_slices(scene.grid, scene.rotation, disc, OVERSAMPLING)

    ours = prepared.slices(scene.rotation, disc)
    error = float((obvious() - ours).norm() / ours.norm())
    if error > 1e-3:
        raise RuntimeError(f"the two ways of slicing differ by {error:.2g}")
    yield Measure(
        name="slicing, forward",
        ours=lambda: prepared.slices(scene.rotation, disc),
        obvious=obvious,
        images=n,
        obvious_images=n,
        samples=disc.n_coefficients,
        work=disc.n_coefficients * (GATHER + NUMBER),
    )
    leaves = [one.clone().requires_grad_() for one in (scene.grid, scene.rotation)]
    taken = central_slices(leaves[0], leaves[1], disc, OVERSAMPLING)
    sampled = obvious_way.sampled_slices(leaves[0], leaves[1], disc, OVERSAMPLING)

    def backward(out: Tensor) -> object:
        return torch.autograd.grad(out, leaves, ours, retain_graph=True)

    yield Measure(
        name="slicing, backward (grid and pose)",
        ours=lambda: backward(taken),
        obvious=lambda: backward(sampled),
        images=n,
        obvious_images=n,
        samples=disc.n_coefficients,
        work=disc.n_coefficients * (GATHER + SCATTER + 2 * NUMBER),
    )


def pose_step(scene: Scene) -> Measure:
    """A visit of several Gauss-Newton steps, per step; the other way a step of Adam."""
    n, samples = scene.sizes.batch, scene.disc.n_coefficients
    prepared = PreparedGrid.of(scene.grid, OVERSAMPLING)
    hypotheses = Hypotheses(rotation=scene.start, image=torch.arange(n, device=scene.device))
    damping = torch.full((n,), FIRST_DAMPING, device=scene.device)
    return Measure(
        name="pose step",
        ours=lambda: gauss_newton(
            prepared, hypotheses, scene.batch, damping=damping, n_steps=POSE_STEPS
        ),
        obvious=obvious_way.PoseStep(scene.grid, scene.start, scene.batch, OVERSAMPLING),
        images=n * POSE_STEPS,
        obvious_images=n,
        samples=samples,
        # A visit has one sweep more than steps.
        work=samples * (GATHER + 2 * NUMBER) * (POSE_STEPS + 1) / POSE_STEPS,
        least_ratio=8,
    )


def volume_steps(scene: Scene) -> Iterator[Measure]:
    """What the volume takes from a batch; both are set beside Adam the obvious way."""
    n, samples = scene.sizes.batch, scene.disc.n_coefficients
    sums = SufficientStatistics.zeros(scene.geometry, scene.device)
    volume = HartleyVolume(scene.geometry).to(scene.device)
    volume.set_spectrum(scene.grid)
    optimiser = torch.optim.Adam(volume.parameters(), lr=1e-3)

    def closed_form() -> None:
        sums.add_images(scene.batch, scene.rotation, OVERSAMPLING)

    def adam() -> None:
        predicted = scene.batch.ctf * volume.slices(scene.rotation, scene.disc)
        loss = (predicted - scene.batch.observed).square().sum(1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    for name, ours, n_bytes in (
        ("volume step, sums of the closed form", closed_form, 2 * (SCATTER + NUMBER)),
        ("volume step, Adam", adam, GATHER + SCATTER + 4 * NUMBER),
    ):
        yield Measure(
            name=name,
            ours=ours,
            obvious=obvious_way.VolumeStep(scene.grid, scene.rotation, scene.batch, OVERSAMPLING),
            images=n,
            obvious_images=n,
            samples=samples,
            work=samples * n_bytes,
        )


def posterior(scene: Scene) -> Measure:
    """Slices of all orientations, scores of all images, and their normalisation, in float32."""
    sizes, disc = scene.sizes, scene.disc.truncate(SEARCH_RADIUS)
    prepared = PreparedGrid.of(scene.grid, OVERSAMPLING)
    index = torch.arange(sizes.search_images, device=scene.device)
    batch = scene.spectra.batch(index, SEARCH_RADIUS)

    def ours() -> None:
        slices = prepared.slices(scene.orientations, disc)
        for start in range(0, sizes.search_images, SEARCH_TILE):
            part = batch.rows(slice(start, start + SEARCH_TILE))
            torch.softmax(log_likelihoods(part, slices), dim=1)

    samples = disc.n_coefficients * sizes.search_orientations
    return Measure(
        name="posterior",
        ours=ours,
        obvious=obvious_way.PlainPosterior(
            batch=batch.rows(slice(0, sizes.obvious_search_images)),
            slices=prepared.slices(scene.orientations, disc),
        ),
        images=sizes.search_images,
        obvious_images=sizes.obvious_search_images,
        samples=samples,
        # Two products, each of a multiplication and an addition.
        work=4 * samples,
        bound="gemm_float32",
        most_seconds=1.0,
    )


def encoder_passes(scene: Scene) -> Iterator[Measure]:
    """From rows to rotations, and back to the weights."""
    n = scene.sizes.encoder_batch
    encoder, plain = _encoders(scene)
    batch, images = _encoder_input(scene)
    forward, bound = _flops_per_image(plain, images), _bound(scene.device)

    def backward(rotation: Tensor) -> None:
        rotation.square().sum().backward()

    @torch.no_grad()
    def ours() -> object:
        return encoder.propose(scene.spectra.batch(batch.index, encoder.radius))

    @torch.no_grad()
    def obvious() -> object:
        return plain(images)

    ways = (
        ("encoder, forward", ours, obvious, forward),
        (
            "encoder, forward and backward",
            lambda: backward(
                encoder.propose(scene.spectra.batch(batch.index, encoder.radius)).rotation
            ),
            lambda: backward(plain(images)),
            # Going back takes a product for the weights and one for the inputs.
            3 * forward,
        ),
    )
    for name, one, other, work in ways:
        yield Measure(
            name=name,
            ours=one,
            obvious=other,
            images=n,
            obvious_images=n,
            samples=ENCODER_BOX**2,
            work=work,
            bound=bound,
        )


def auto_encoding_steps(scene: Scene) -> Iterator[Measure]:
    """A step of the stage itself; the other way is handed its images, rows and CTFs ready."""
    batch, images = _encoder_input(scene)
    bound = _bound(scene.device)
    convolutional, plain = _encoders(scene)
    rows = _row_encoder(scene)
    plain_rows, estimate = obvious_way.PlainRowEncoder(rows), signal_estimate(rows, batch)
    # The bar is for the default network; the paper's is bound by its convolutions.
    bar = 2.5 if bound == "gemm_bfloat16" else 1.3
    ways = (
        ("auto-encoding step, rows", rows, plain_rows, estimate, bar),
        ("auto-encoding step, vgg16", convolutional, plain, images, None),
    )
    for name, encoder, other, seen, least_ratio in ways:
        volume, ours = _stage_step(scene, encoder)
        yield Measure(
            name=name,
            ours=ours,
            obvious=obvious_way.AutoEncodingStep(
                other, volume.spectrum().detach().clone(), seen, batch
            ),
            images=scene.sizes.encoder_batch,
            obvious_images=scene.sizes.encoder_batch,
            samples=batch.disc.n_coefficients * encoder.propose(batch).rotation.shape[1],
            work=3 * _flops_per_image(other, seen),
            bound=bound,
            least_ratio=least_ratio,
        )


def _stage_step(
    scene: Scene, encoder: PoseEncoder | RowEncoder
) -> tuple[HartleyVolume, Callable[[], None]]:
    """A volume, and a step of the stage that encoder and volume learn in."""
    geometry = GridGeometry(box=scene.sizes.box, radius=SEARCH_RADIUS, oversampling=1)
    volume = HartleyVolume(geometry).to(scene.device)
    volume.randomise(torch.Generator().manual_seed(0), amplitude=0.1)
    config = AutoEncodingConfig(
        epochs=1_000_000,
        batch_size=scene.sizes.encoder_batch,
        band=BandConfig(end_radius=SEARCH_RADIUS),
        switch=SwitchConfig(rule="fixed"),
    )
    records = AutoEncoding(scene.spectra, encoder, volume, config, seed=0).records()

    def step() -> None:
        while not isinstance(next(records), StepRecord):
            pass

    return volume, step


def _row_encoder(scene: Scene) -> RowEncoder:
    disc = scene.spectra.disc.truncate(SEARCH_RADIUS)
    config = RowEncoderConfig(radius=SEARCH_RADIUS)
    encoder = RowEncoder(config, disc, power_above_noise(scene.spectra, disc))
    initialise_row_encoder(encoder, torch.Generator().manual_seed(0))
    return encoder.to(scene.device)


def _encoders(scene: Scene) -> tuple[PoseEncoder, obvious_way.PlainEncoder]:
    config = EncoderConfig(input_box=ENCODER_BOX)
    ours = PoseEncoder(config, ENCODER_BOX)
    initialise(ours, torch.Generator().manual_seed(0))
    plain = obvious_way.PlainEncoder(config, ENCODER_BOX)
    return ours.to(scene.device), plain.to(scene.device)


def _encoder_input(scene: Scene) -> tuple[ParticleBatch, Tensor]:
    index = torch.arange(scene.sizes.encoder_batch, device=scene.device)
    images = images_from_rows(scene.spectra.rows[index], scene.disc, ENCODER_BOX)
    return scene.spectra.batch(index, SEARCH_RADIUS), images


def _flops_per_image(encoder: nn.Module, images: Tensor) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(images)
    return counter.get_total_flops() / len(images)


def _bound(device: torch.device) -> Bound:
    return "gemm_bfloat16" if fast_dtype(device) == torch.bfloat16 else "gemm_float32"
