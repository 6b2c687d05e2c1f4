"""The posterior of an image as a mixture of normal distributions, and the ball that holds its mass."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.pose_fit import pose_fits, pose_sweep
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.inference.cross_maps import CrossMaps
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.rotations import geodesic_distance_rad, rotvec_to_rotation
from cryogimbal.symmetry import SymmetryGroup, nearest_same_image

# Where an image says nothing a rotation is known to a radian, and a shift to a quarter of the box.
PRIOR_TURN_RAD, PRIOR_SHIFT_BOX = 1.0, 0.25
# Modes of less posterior mass are left out of the ball's.
LEAST_MASS = 1e-3
# Largest share of a map's noise in what seems to tell poses apart.
MOST_NOISE = 0.9


@dataclass(frozen=True, kw_only=True)
class PoseMixture:
    """Modes of each image: rotations ``exp(w^) R`` and shifts t + u with (w, u) normal around 0."""

    rotation: Float[Tensor, "batch mode 3 3"]
    shift_box: Float[Tensor, "batch mode 2"] | None
    """Fractions of the box."""
    weight: Float[Tensor, "batch mode"]
    """Posterior mass; sums to 1 over the modes of an image."""
    spread: Float[Tensor, "batch mode parameter parameter"]
    """A root L of the covariance ``L L'`` of (w, u), w in radians."""


def pose_mixture(
    judge: PreparedGrid, maps: CrossMaps, table: PoseTable, batch: ParticleBatch
) -> PoseMixture:
    """Laplace's approximation at every pose that is alive in a table of the batch's own.

    With the residual r (sum of squares, noise 1) that the judge leaves and the information A of
    :func:`information_root` the mass of a mode is proportional to ``exp(-r / 2) det(A)^(-1/2)`` and
    its covariance is the inverse of A.
    """
    rows, _ = table.alive(batch.index)
    residual, _ = pose_fits(judge, rows.hypotheses, batch)
    root = information_root(
        pose_sweep(maps.joint, rows.hypotheses, batch).curvature,
        pose_sweep(maps.apart, rows.hypotheses, batch).curvature,
    )
    place = (rows.hypotheses.image, rows.slot)
    masses = torch.full_like(table.weight, -torch.inf)
    masses[place] = -residual / 2 - torch.linalg.slogdet(root)[1]
    spreads = root.new_zeros(*table.weight.shape, *root.shape[1:])
    spreads[place] = torch.linalg.inv(root).mT
    return PoseMixture(
        rotation=table.rotation,
        shift_box=table.shift_box,
        weight=torch.softmax(masses, dim=1),
        spread=spreads,
    )


def information_root(
    curvature: Float[Tensor, "hypothesis parameter parameter"],
    of_noise: Float[Tensor, "hypothesis parameter parameter"],
) -> Float[Tensor, "hypothesis parameter parameter"]:
    """Root B of what an image says of its pose, ``A = B B'``, when its map has noise of its own.

    The Gauss-Newton matrix H of a noisy map holds N of noise, which tells nothing. A pose fitted with
    that map has the covariance ``(H - N)^-1 H (H - N)^-1``. With ``H = L L'`` and
    ``L^-1 N L^-T = U Lambda U'`` its inverse has the root ``L U (1 - Lambda)``.

    Parameters
    ----------
    curvature, of_noise
        H and N; a wide prior is added to H.
    """
    n_parameters = curvature.shape[-1]
    precision = curvature.new_full((n_parameters,), PRIOR_TURN_RAD**-2)
    precision[3:] = PRIOR_SHIFT_BOX**-2
    root = torch.linalg.cholesky(curvature + torch.diag(precision))
    half_way = torch.linalg.solve_triangular(root, of_noise, upper=False)
    share = torch.linalg.solve_triangular(root, half_way.mT, upper=False)
    noise, basis = torch.linalg.eigh((share + share.mT) / 2)
    return root @ basis * (1 - noise.clamp(0, MOST_NOISE))[:, None, :]


def mass_radius(
    mixture: PoseMixture,
    written: Hypotheses,
    draws: Float[Tensor, "sample 5"],
    mass: float,
    group: SymmetryGroup,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Radii of the balls around the poses written that hold a share of the posterior mass.

    In radians and in fractions of the box; the latter is 0 where there are no shifts. Every mode is
    sampled with the same standard normal draws, each sample counting as much as its mode: equally
    good for any number of modes, and the same for an image whatever the others are.
    """
    image, mode = (mixture.weight > LEAST_MASS).nonzero(as_tuple=True)
    spread = mixture.spread[image, mode]
    moves = draws[:, : spread.shape[-1]] @ spread.mT
    here = written.rotation[image][:, None].expand(-1, len(draws), 3, 3)
    rotation = rotvec_to_rotation(moves[..., :3]) @ mixture.rotation[image, mode][:, None]
    turn = geodesic_distance_rad(nearest_same_image(rotation, here, group), here)
    shift = torch.zeros_like(turn)
    if mixture.shift_box is not None and written.shift_box is not None:
        offset = mixture.shift_box[image, mode] - written.shift_box[image]
        shift = (offset[:, None] + moves[..., 3:]).norm(dim=-1)
    kept = torch.zeros_like(mixture.weight)
    kept[image, mode] = mixture.weight[image, mode]
    shares = (kept / kept.sum(1, keepdim=True) / len(draws))[:, :, None].expand(-1, -1, len(draws))
    radii = []
    for found in (turn, shift):
        values = found.new_zeros(shares.shape)
        values[image, mode] = found
        radii.append(weighted_quantile(values.flatten(1), shares.flatten(1), mass))
    return radii[0], radii[1]


def weighted_quantile(
    values: Float[Tensor, "batch sample"], weight: Float[Tensor, "batch sample"], share: float
) -> Float[Tensor, " batch"]:
    """The smallest value that a share of the weight (which sums to 1) does not exceed."""
    ordered, order = values.sort(dim=1)
    reached = weight.gather(1, order).cumsum(1) < share
    place = reached.sum(1, keepdim=True).clamp(max=values.shape[1] - 1)
    return ordered.gather(1, place)[:, 0]
