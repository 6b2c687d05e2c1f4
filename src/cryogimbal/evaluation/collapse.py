"""Signs that a search has collapsed: what its map and its poses look like where it went wrong.

A search that finds nothing still ends with a map. Wrong poses average a particle over all directions,
which leaves a ball without features, or a hollow shell of aligned noise; an encoder that gives up puts
all images on a few orientations. Each sign is a number with a limit that real particles are far from: of
45 maps of runs that went well none was the same in all directions to more than 0.76, nor to more than
0.90 at six cycles per box (0.95 where the group was icosahedral).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.fourier.shells import radius_grid
from cryogimbal.rotations import rotation_grid

# Share of a map's power that is the same in all directions, above which it has no features.
FEATURELESS = 0.96
# Density near the centre over that of the strongest radius, below which a map is hollow. A hollow
# particle has features: both together are a sign.
HOLLOW, HOLLOW_FEATURELESS = 0.15, 0.93
# Cells of SO(3) (72 in all) that may hold most images only if the poses mean nothing.
FEW_CELLS, MOST_IMAGES = 3, 0.6
FEWEST_POSES = 200
CENTRE = 0.4
CHUNK = 4096


def radial_share(density: Float[Tensor, "box box box"]) -> float:
    """Share of a density's power about its mean that its radial average has: 1 for a ball.

    Within the inscribed sphere; an empty density has 1.
    """
    inside, radius = _radii(density)
    values = density[inside].double()
    values = values - values.mean()
    left = values - _smooth_profile(values, radius)
    total = float(values.square().sum())
    return 1 - float(left.square().sum()) / total if total > 0 else 1.0


def centre_over_rim(density: Float[Tensor, "box box box"]) -> float:
    """Mean density within 0.4 of the radius of the strongest shell, over that of the shell.

    The radius is that of the largest value of the radial average, outside of which nothing counts;
    about 1 or more for solid particles, 0 for hollow ones.
    """
    inside, radius = _radii(density)
    values, shell = density[inside].double(), radius.round().long()
    profile = _mean_per_shell(values, shell)
    rim = int(profile.argmax())
    if rim == 0 or float(profile[rim]) <= 0:
        return 1.0
    return float(values[shell <= CENTRE * rim].mean() / profile[rim])


def fullest_cells_share(rotation: Float[Tensor, "particle 3 3"]) -> float:
    """Share of the images in the three fullest of 72 cells of SO(3) of equal size.

    1/24 for uniform poses; a third or less where all particles lie on one side, for the in-plane
    angle is uniform then.
    """
    centres = rotation_grid(1).to(rotation).flatten(1)
    counts = torch.zeros(len(centres), device=rotation.device)
    for part in rotation.flatten(1).split(CHUNK):
        counts += torch.bincount((part @ centres.T).argmax(1), minlength=len(centres))
    return float(counts.topk(FEW_CELLS).values.sum() / counts.sum())


def signs_in_map(density: Float[Tensor, "box box box"]) -> tuple[str, ...]:
    """What is wrong with a map, one sentence for each sign; none for a particle."""
    share, centre = radial_share(density), centre_over_rim(density)
    if centre < HOLLOW and share > HOLLOW_FEATURELESS:
        return (
            f"the map is a hollow shell: its centre has {centre:.0%} of the density of its rim, and "
            f"{share:.0%} of it is the same in all directions",
        )
    if share > FEATURELESS:
        return (f"the map is a ball without features: {share:.0%} is the same in all directions",)
    return ()


def signs_in_poses(rotation: Float[Tensor, "particle 3 3"]) -> tuple[str, ...]:
    """What is wrong with the poses of a stack, one sentence for each sign."""
    if len(rotation) < FEWEST_POSES:
        return ()
    share = fullest_cells_share(rotation)
    if share <= MOST_IMAGES:
        return ()
    return (f"{share:.0%} of the images have one of {FEW_CELLS} orientations out of 72",)


def _radii(density: Tensor) -> tuple[Tensor, Tensor]:
    radius = radius_grid(density.shape[-1], 3, device=density.device)
    inside = radius < density.shape[-1] // 2
    return inside, radius[inside].double()


def _mean_per_shell(values: Tensor, shell: Tensor) -> Float[Tensor, " shell"]:
    n_shells = int(shell.max()) + 1
    total = values.new_zeros(n_shells).index_add(0, shell, values)
    return total / torch.bincount(shell, minlength=n_shells)


def _smooth_profile(values: Tensor, radius: Tensor) -> Float[Tensor, " inside"]:
    """Least-squares function of the radius that is linear between steps of one voxel, at each place.

    Means over shells would take the steep flank of a ball in a small box for features.
    """
    lower = radius.floor().long()
    upper_share = radius - lower
    n_knots = int(lower.max()) + 2
    shares = ((lower, 1 - upper_share), (lower + 1, upper_share))
    normal, right = values.new_zeros(n_knots, n_knots), values.new_zeros(n_knots)
    for row, row_share in shares:
        right.index_add_(0, row, row_share * values)
        for column, column_share in shares:
            place = row * n_knots + column
            normal.view(-1).index_add_(0, place, row_share * column_share)
    normal.diagonal().add_(1e-9)
    profile = torch.linalg.solve(normal, right)
    return sum((share * profile[knot] for knot, share in shares), torch.zeros_like(values))
