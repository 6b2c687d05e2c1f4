"""Phantoms the package makes itself: compact chains folded into several domains, drawn from a seed.

A domain is an ellipsoid, and its fold a chain of straight rods of pseudo-residues that keep a
distance from each other, as helices do. At 8 to 10 Å such a phantom looks like a globular protein:
domains, grooves between them, and rods inside. Lengths are drawn in half-boxes and scaled to the
box, so one name is one structure at every sampling of the same field of view.

Every pseudo-residue is a Gaussian, so the density and its Fourier transform have closed forms.
"""

import math
from dataclasses import dataclass

import roma
import torch
from jaxtyping import Bool, Float
from scipy.spatial import KDTree
from torch import Tensor

from cryogimbal.errors import InputError
from cryogimbal.simulation.points import PointModel
from cryogimbal.symmetry import SymmetryGroup, symmetry_group

ASYMMETRIC = "asymmetric"
SYMMETRIC = (
    *(f"c{n}" for n in range(2, 21)),
    *(f"d{n}" for n in range(2, 11)),
    *("t", "o", "i"),
)
PHANTOMS = "asymmetric, c2 to c20, d2 to d10, t, o or i"

# In half-boxes.
RADIUS = 0.58
N_DOMAINS = 7
SMALLEST_DOMAIN = 0.065
RESIDUE_SPACING = 0.022
ROD_DISTANCE = 0.10
LONGEST_ROD = 0.40
# Standard deviation of a pseudo-residue: domains differ, as the order in a molecule does.
WIDTHS = (0.010, 0.016)

DIRECTION_TRIALS = 2000
DOMAIN_TRIALS = 400
ROD_TRIALS = 96
# This many rods in a row that find no free place end a domain.
PATIENCE = 6


@dataclass(frozen=True, kw_only=True)
class Domain:
    """An ellipsoid: rows of ``axes`` are its half-axes, at right angles to each other."""

    centre: Float[Tensor, "3"]
    axes: Float[Tensor, "3 3"]

    @property
    def radius(self) -> float:
        """Radius of the ball of the same volume."""
        return float(self.axes.norm(dim=-1).prod()) ** (1 / 3)

    def holds(self, point: Float[Tensor, "*n 3"]) -> Bool[Tensor, "*n"]:
        """Whether each point lies inside."""
        along = ((point - self.centre)[..., None, :] * self.axes).sum(-1)
        return (along / self.axes.square().sum(-1)).square().sum(-1) <= 1


def is_phantom(name: str) -> bool:
    """Whether a name is ``asymmetric`` or that of a symmetric phantom."""
    return name == ASYMMETRIC or name in SYMMETRIC


def phantom(name: str, side_angstrom: float, seed: int = 0) -> PointModel:
    """Point model of a named phantom that fills 0.58 of the half-box.

    Parameters
    ----------
    name
        ``asymmetric``, or a point group in small letters (``c2`` to ``c20``, ``d2`` to ``d10``, ``t``,
        ``o``, ``i``), whose axes are those of :mod:`cryogimbal.symmetry`.
    side_angstrom
        Box times pixel size: the phantom is scaled with it.
    seed
        Another seed is another structure.

    Raises
    ------
    InputError
        If there is no phantom of that name.
    """
    if not is_phantom(name):
        raise InputError(f"phantom {name!r}: expected {PHANTOMS}, found none of them; choose one")
    group = symmetry_group("C1" if name == ASYMMETRIC else name)
    generator = torch.Generator().manual_seed(seed)
    domains = place_domains(group, generator)
    chains = [fold_chain(domain, generator) for domain in domains]
    points = turned_copies(torch.cat(chains), group).flatten(0, 1)
    points = points - points.mean(0) * _free_axes(group)
    scale = RADIUS / float(points.norm(dim=-1).max()) * side_angstrom / 2
    species = torch.cat([torch.full((len(chain),), index) for index, chain in enumerate(chains)])
    width = torch.empty(len(domains), 1, dtype=torch.float64)
    width.uniform_(*WIDTHS, generator=generator)
    return PointModel(
        name=f"phantom {name}",
        position_angstrom=points * scale,
        weight=torch.ones(len(points), dtype=torch.float64),
        species_index=species.repeat(group.order),
        amplitude_angstrom=torch.ones_like(width),
        width_angstrom2=8 * math.pi**2 * (width * side_angstrom / 2).square(),
    )


def place_domains(group: SymmetryGroup, generator: torch.Generator) -> list[Domain]:
    """Domains of one asymmetric unit, each touching an earlier one, none inside another.

    The first domain touches its own copies; without symmetry it is the largest.
    """
    first, radius = _first_domain(group, generator)
    domains = [first]
    for _ in range(DOMAIN_TRIALS):
        # Thin units of a large ring are stacked higher.
        if len(domains) == N_DOMAINS + group.order // 2:
            break
        candidate = _beside(domains, radius, generator)
        copies = turned_copies(torch.stack([d.centre for d in domains]), group)
        gap = (copies - candidate.centre).norm(dim=-1)
        room = torch.tensor([d.radius for d in domains], dtype=torch.float64) + candidate.radius
        own = (turned_copies(candidate.centre[None], group)[1:] - candidate.centre).norm(dim=-1)
        free = bool((gap > 0.85 * room).all()) and bool((own > 1.7 * candidate.radius).all())
        if free and float(candidate.centre.norm()) + candidate.radius < 1.15 * RADIUS:
            domains.append(candidate)
    return domains


def fold_chain(domain: Domain, generator: torch.Generator) -> Float[Tensor, "residue 3"]:
    """Pseudo-residues of one domain, in half-boxes: rod after rod until there is no room."""
    start = domain.centre
    chain = start[None]
    failures = 0
    while failures < PATIENCE:
        rod = _next_rod(domain, chain, start, generator)
        if rod is None:
            failures += 1
            start = chain[int(torch.randint(len(chain), (), generator=generator))]
            continue
        failures = 0
        chain, start = torch.cat([chain, rod]), rod[-1]
    return chain


def turned_copies(points: Float[Tensor, "n 3"], group: SymmetryGroup) -> Float[Tensor, "copy n 3"]:
    """The points under every operator of a group."""
    return points @ group.operators.mT


def _first_domain(group: SymmetryGroup, generator: torch.Generator) -> tuple[Domain, float]:
    """The first domain, and the radius of the ball of its volume."""
    if group.order == 1:
        direction, sine, radius = torch.tensor([1.0, 0.0, 0.0]).double(), torch.inf, 0.30
    else:
        # Balls of radius r at distance d that touch: r = d sin(half the angle between them).
        direction, sine = _roomiest_direction(group, generator)
        radius = RADIUS * sine / (1 + sine)
    axes = _random_axes(radius, generator)
    return Domain(centre=radius / sine * direction, axes=axes), radius


def _roomiest_direction(
    group: SymmetryGroup, generator: torch.Generator
) -> tuple[Float[Tensor, "3"], float]:
    """Direction whose copies are farthest apart, and half of their least distance.

    On a ring any direction at right angles to the axis will do: x.
    """
    direction = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    if not group.name.startswith("C"):
        direction = _random_directions(DIRECTION_TRIALS, generator)
    distance = (turned_copies(direction, group)[1:] - direction).norm(dim=-1).amin(0)
    best = int(distance.argmax())
    return direction[best], float(distance[best]) / 2


def _free_axes(group: SymmetryGroup) -> Float[Tensor, "3"]:
    """1 along the axes of the volume frame on which a group leaves the origin open, else 0.

    The copies cancel the mean across these up to rounding, which is not to break the symmetry.
    """
    return torch.diag((group.operators.mean(0)).round())


def _beside(domains: list[Domain], radius: float, generator: torch.Generator) -> Domain:
    """A smaller domain that touches a random earlier one, somewhere around it."""
    neighbour = domains[int(torch.randint(len(domains), (), generator=generator))]
    size = radius * float(torch.empty(()).uniform_(0.5, 0.95, generator=generator))
    size = max(size, SMALLEST_DOMAIN)
    direction = _random_directions(1, generator)[0]
    axes = _random_axes(size, generator)
    return Domain(centre=neighbour.centre + 0.9 * (neighbour.radius + size) * direction, axes=axes)


def _random_axes(radius: float, generator: torch.Generator) -> Float[Tensor, "3 3"]:
    """Half-axes of ratio up to about 2, turned at random, of the volume of a ball."""
    frame = roma.special_gramschmidt(torch.randn(3, 2, generator=generator, dtype=torch.float64))
    stretch = torch.empty(3, dtype=torch.float64).uniform_(0.7, 1.4, generator=generator)
    return frame * (radius * stretch / stretch.prod() ** (1 / 3))[:, None]


def _random_directions(n: int, generator: torch.Generator) -> Float[Tensor, "n 3"]:
    vector = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(vector, dim=-1)


def _next_rod(
    domain: Domain,
    chain: Float[Tensor, "residue 3"],
    start: Float[Tensor, "3"],
    generator: torch.Generator,
) -> Float[Tensor, "rod 3"] | None:
    """The longest of some random rods that start at a point, stay inside and touch no other rod."""
    steps = torch.arange(1, int(LONGEST_ROD / RESIDUE_SPACING) + 1) * RESIDUE_SPACING
    rods = start + steps[:, None] * _random_directions(ROD_TRIALS, generator)[:, None]
    # The chain turns on the spot: near its own start a rod may be close to its predecessor.
    apart = min(ROD_DISTANCE, domain.radius)
    allowed = (0.8 * steps).clamp(max=apart)
    good = domain.holds(rods)
    # A tree rather than all pairs: less work, and no threads to wake for every small step.
    distance, _ = KDTree(chain.numpy()).query(rods[good].numpy())
    good[good.clone()] = torch.from_numpy(distance) >= allowed.expand(ROD_TRIALS, -1)[good]
    length = good.long().cumprod(dim=1).sum(1)
    best = int(length.argmax())
    if int(length[best]) < max(2, int(apart / RESIDUE_SPACING)):
        return None
    return rods[best, : int(length[best])]
