"""The pose network for a known map: a disc row in, M rotations out for each symmetric copy.

Rows are GEMM-sized: the network is fully connected, which at these sizes sees ten times as many
images a second as a convolutional one, and what it lacks in built-in knowledge it is given exactly.
The eight symmetries of the image plane are undone outside of it, and the CTF is undone before it.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.errors import InputError
from cryogimbal.fourier.disc import Disc, make_disc
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.plane_symmetry import plane_symmetries, symmetric_places
from cryogimbal.inference.config_heads import RowEncoderConfig
from cryogimbal.inference.precision import network_precision
from cryogimbal.rotations import six_d_to_rotation

ROTATION_NUMBERS = 6
# Heads start apart from each other by about this much, beside which an image counts for little.
HEAD_SPREAD = 0.5


class RowEncoder(nn.Module):
    """Fully connected layers, shared by M linear heads to 6-D, on rows freed of their CTF."""

    def __init__(
        self, config: RowEncoderConfig, disc: Disc, power: Float[Tensor, " coefficient"]
    ) -> None:
        """``power`` is the mean square of the map's slices at each coefficient of the disc."""
        super().__init__()
        self.config = config
        self.disc = disc
        self.power: Tensor
        self.register_buffer("power", power)
        self.places: Tensor
        self.register_buffer("places", symmetric_places(disc), persistent=False)
        layers: list[nn.Module] = []
        n_features = disc.n_coefficients
        for width in config.widths:
            layers += [
                nn.Linear(n_features, width, bias=False),
                nn.BatchNorm1d(width),
                nn.ReLU(),
            ]
            n_features = width
        layers.append(nn.Linear(n_features, config.n_heads * ROTATION_NUMBERS))
        self.network = nn.Sequential(*layers)

    @property
    def n_heads(self) -> int:
        """Rotations proposed for each copy of an image."""
        return self.config.n_heads

    @property
    def radius(self) -> float:
        """Highest frequency that the network sees, in cycles per box."""
        return self.disc.radius

    def propose(self, batch: ParticleBatch) -> PoseHypotheses:
        """M rotations for each of the eight symmetric copies of every image, copies first."""
        symmetries = plane_symmetries(batch.observed.device)
        copies = signal_estimate(self, batch)[:, self.places]
        rotation = self(copies.flatten(0, 1)).unflatten(0, copies.shape[:2])
        # The pose of a copy is G R.
        undone = symmetries.transpose(-1, -2)[:, None] @ rotation
        return PoseHypotheses(rotation=undone.flatten(1, 2))

    def forward(self, rows: Float[Tensor, "batch coefficient"]) -> Float[Tensor, "batch head 3 3"]:
        """Rotations within the asymmetric unit, of rows that :func:`signal_estimate` made."""
        with network_precision(rows.device):
            numbers = self.network(rows)
        return six_d_to_rotation(numbers.float().unflatten(-1, (-1, ROTATION_NUMBERS)))


def initialise_row_encoder(encoder: RowEncoder, generator: torch.Generator) -> None:
    """Fresh weights from a generator: He's rule; heads start spread over the rotations."""
    for layer in encoder.network:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=HEAD_SPREAD, generator=generator)


def signal_estimate(
    encoder: RowEncoder, batch: ParticleBatch
) -> Float[Tensor, "batch coefficient"]:
    """What the rows say of the slice behind them, each coefficient in units of its own spread.

    With a slice ``sqrt(P) u``, u from N(0, 1), seen as ``H = C sqrt(P) u + N(0, 1)``, the mean of u
    given H is ``C sqrt(P) H / (C^2 P + 1)`` (Wiener): no sign of the CTF is left in it, and a
    coefficient counts by what it is worth.
    """
    n = encoder.disc.n_coefficients
    ctf, observed = batch.ctf[:, :n], batch.observed[:, :n]
    return observed * ctf * encoder.power.sqrt() / (ctf.square() * encoder.power + 1)


@torch.no_grad()
def propose_poses(encoder: RowEncoder, batch: ParticleBatch) -> PoseHypotheses:
    """What a taught encoder proposes: no statistics of the batch enter."""
    encoder.eval()
    return encoder.propose(batch)


def mirrored_row_encoder(encoder: RowEncoder, column_signs: Float[Tensor, "3"]) -> RowEncoder:
    """The encoder of the map of the other hand: a few weights with the other sign.

    Heads give the first two columns of a rotation, which ``column_signs`` multiply. Turns and mirrors of
    the image plane, which are undone outside of the network, change with neither.
    """
    mirrored = copy.deepcopy(encoder)
    last = mirrored.network[-1]
    assert isinstance(last, nn.Linear)
    signs = column_signs.to(last.weight).repeat(2 * encoder.n_heads)
    with torch.no_grad():
        last.weight.mul_(signs[:, None])
        last.bias.mul_(signs)
    return mirrored


def row_encoder_to_state(encoder: RowEncoder) -> dict[str, Any]:
    """Everything needed to make the encoder anew, as tensors and plain values."""
    return {
        "config": asdict(encoder.config),
        "box": encoder.disc.box,
        "radius": encoder.disc.radius,
        "weights": encoder.state_dict(),
    }


def row_encoder_from_state(state: Mapping[str, Any], origin: str) -> RowEncoder:
    """The encoder that :func:`row_encoder_to_state` described; ``origin`` is named in errors.

    Raises
    ------
    InputError
        If the state is not one of an encoder.
    """
    try:
        disc = make_disc(state["box"], state["radius"])
        encoder = RowEncoder(
            RowEncoderConfig(**state["config"]), disc, torch.ones(disc.n_coefficients)
        )
        encoder.load_state_dict(state["weights"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{origin}: expected an encoder, found something else ({error})"
        ) from error
    return encoder.eval()
