"""The network on disc rows: what goes in, what comes out, and how it is kept."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cryogimbal.errors import InputError
from cryogimbal.fourier.disc import make_disc
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.plane_symmetry import N_SYMMETRIES, plane_symmetries
from cryogimbal.inference import precision
from cryogimbal.inference.config_heads import RowEncoderConfig
from cryogimbal.inference.row_encoder import (
    RowEncoder,
    initialise_row_encoder,
    propose_poses,
    row_encoder_from_state,
    row_encoder_to_state,
    signal_estimate,
)
from cryogimbal.rotations import geodesic_distance_deg

CONFIG = RowEncoderConfig(n_heads=3, widths=(32, 16), radius=5.0)


def new_encoder(box: int, seed: int = 0, config: RowEncoderConfig = CONFIG) -> RowEncoder:
    generator = torch.Generator().manual_seed(seed)
    disc = make_disc(box, config.radius)
    power = 10 * torch.rand(box, generator=generator)
    encoder = RowEncoder(config, disc, power[disc.shell_per_coefficient])
    initialise_row_encoder(encoder, generator)
    return encoder


def random_batch(encoder: RowEncoder, n: int, generator: torch.Generator) -> ParticleBatch:
    """Rows that reach farther than the encoder sees."""
    disc = make_disc(encoder.disc.box)
    shape = (n, disc.n_coefficients)
    return ParticleBatch(
        disc=disc,
        observed=torch.randn(shape, generator=generator),
        ctf=2 * torch.rand(shape, generator=generator) - 1,
        index=torch.arange(n),
    )


def nearest_deg(a: Tensor, b: Tensor) -> Tensor:
    """For each hypothesis of a the angle to the nearest of b."""
    return geodesic_distance_deg(*torch.broadcast_tensors(a[:, :, None], b[:, None])).amin(dim=2)


def test_a_changed_image_gets_the_changed_poses(box: int, generator: torch.Generator) -> None:
    encoder = new_encoder(box)
    batch = random_batch(encoder, 4, generator)
    expected = propose_poses(encoder, batch).rotation
    assert expected.shape == (4, N_SYMMETRIES * CONFIG.n_heads, 3, 3)
    truncated = batch.truncate(encoder.disc.radius)
    for symmetry, places in zip(plane_symmetries(), encoder.places, strict=True):
        changed = replace(
            truncated, observed=truncated.observed[:, places], ctf=truncated.ctf[:, places]
        )
        found = propose_poses(encoder, changed).rotation
        assert float(nearest_deg(found, symmetry @ expected).max()) < 0.5


def test_the_signal_estimate_is_the_best_linear_one(generator: torch.Generator) -> None:
    encoder = new_encoder(16)
    n, size = 20_000, encoder.disc.n_coefficients
    ctf = (2 * torch.rand(1, size, generator=generator) - 1).expand(n, -1)
    signal = torch.randn(n, size, generator=generator)
    observed = ctf * encoder.power.sqrt() * signal + torch.randn(n, size, generator=generator)
    batch = ParticleBatch(disc=encoder.disc, observed=observed, ctf=ctf, index=torch.arange(n))
    slope = (signal * observed).mean(0) / observed.square().mean(0)
    # The slope is known to about one part in sqrt(n).
    assert (signal_estimate(encoder, batch) - observed * slope).abs().mean() < 0.01


def test_weights_are_a_function_of_the_generator() -> None:
    first, again, other = new_encoder(16), new_encoder(16), new_encoder(16, seed=1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.network[0].weight, other.network[0].weight)


def test_an_encoder_comes_back_from_its_state(box: int, generator: torch.Generator) -> None:
    encoder = new_encoder(box)
    batch = random_batch(encoder, 3, generator)
    # Normalisation that has seen something.
    encoder.train()(signal_estimate(encoder, batch))
    back = row_encoder_from_state(row_encoder_to_state(encoder), "encoder.pt")
    assert back.config == encoder.config
    assert torch.equal(propose_poses(back, batch).rotation, propose_poses(encoder, batch).rotation)


@pytest.mark.parametrize("damage", ["missing", "other network", "unknown option"])
def test_a_state_that_is_none_of_an_encoder_is_refused(damage: str) -> None:
    state = row_encoder_to_state(new_encoder(16))
    if damage == "missing":
        del state["weights"]
    elif damage == "other network":
        state["config"]["widths"] = (8,)
    else:
        state["config"]["depth"] = 3
    with pytest.raises(InputError, match=r"RUN/encoder\.pt: expected an encoder, found"):
        row_encoder_from_state(state, "RUN/encoder.pt")


def test_bfloat16_changes_poses_by_its_rounding_only(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    encoder = new_encoder(16)
    batch = random_batch(encoder, 50, generator)
    found = {}
    for fast in (False, True):
        monkeypatch.setattr(precision, "has_fast_bfloat16", lambda _, answer=fast: answer)
        found[fast] = propose_poses(encoder, batch).rotation
    angle = geodesic_distance_deg(found[True], found[False])
    # Eight bits of mantissa are a relative rounding of 0.4 %, over a few layers.
    assert 0 < float(angle.median()) < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_heads": 0}, "row-encoder.n-heads: expected at least 1, found 0"),
        ({"widths": ()}, "row-encoder.widths: expected one or more positive widths"),
        ({"widths": (8, 0)}, "row-encoder.widths"),
        ({"radius": 0.5}, "row-encoder.radius: expected at least 1 cycle per box, found 0.5"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RowEncoderConfig(**options)
