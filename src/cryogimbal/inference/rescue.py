"""Images that no hypothesis fits are searched again over all orientations."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.imaging.centres import Centres
from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.pose_fit import pose_fits
from cryogimbal.imaging.shift_search import SPACING_PERIODS
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import HartleyVolume
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.mode_search import (
    REFINEMENT_OVERSAMPLING,
    ModeSearch,
    find_modes,
    prepared_density,
)
from cryogimbal.inference.modes import Modes
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.symmetry import SymmetryGroup, nearest_same_image

# Robust standard deviations below the median image at which a fit counts as an outlier.
OUTLIER_DEVIATIONS = 1.5
# Standard deviation of a normal distribution over its median absolute deviation.
NORMAL_OVER_MAD = 1.4826
IMAGES_AT_ONCE = 1024
# What was not found in so many searches at the full band limit is not there to be found: most outliers
# are chance or junk. Searches before that do not count: of faint images they find few.
MOST_SEARCHES = 3
# Robust standard deviations of the stack's displacements within which one is looked for.
SHIFT_DEVIATIONS = 3.0
# The same below it for what an image explains beside a particle of strength 1.
FAINT_DEVIATIONS = 1.0


class OutlierSearch:
    """Finds images that fit badly, and gives them new hypotheses."""

    def __init__(
        self,
        spectra: ParticleSpectra,
        volume: HartleyVolume,
        search: ModeSearch,
        budget: MemoryBudget,
    ) -> None:
        """``search`` says how; its band limit is the most that is needed to tell modes apart."""
        self._spectra = spectra
        self._volume = volume
        self._search = search
        self._budget = budget
        self._n_searches = torch.zeros(len(spectra), dtype=torch.int32, device=spectra.device)

    def rescue(self, table: PoseTable, radius: float) -> int:
        """Search outliers anew with the volume as it is; returns how many were searched."""
        search = replace(
            self._search,
            radius=min(radius, self._search.radius),
            n_modes=max(1, table.weight.shape[1] - 1),
        )
        density, is_last = self._volume.density(), search.radius == self._search.radius
        index = misfits(self._spectra, density, table, search.radius)
        _, centres = near_usual_places(search, self._spectra, table)
        if self._spectra.noise.estimated and (centres is not None or is_last):
            faint = faint_images(self._spectra, density, table, search.radius)
            if centres is None:
                # So many shifts take long: once.
                faint = faint[self._n_searches[faint] == 0]
            index = torch.cat([index, faint]).unique()
        index = index[self._n_searches[index] < MOST_SEARCHES]
        if is_last:
            self._n_searches[index] += 1
        search_again(self._spectra, density, table, index, search, self._budget)
        return len(index)

    def state_dict(self) -> dict[str, Tensor]:
        """How often each image has been searched at the full band limit."""
        return {"n_searches": self._n_searches}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        self._n_searches = state["n_searches"].to(self._spectra.device)


def search_again(
    spectra: ParticleSpectra,
    density: Float[Tensor, "box box box"],
    table: PoseTable,
    index: Int[Tensor, " outlier"],
    search: ModeSearch,
    budget: MemoryBudget,
) -> None:
    """Search some images over all orientations, and where the stack's particles usually are.

    What is found stands beside the pose that the image had, until both have been compared.
    """
    if len(index) > 0:
        search, centres = near_usual_places(search, spectra, table)
        nearby = None if centres is None else centres[index]
        modes = find_modes(spectra.subset(index), density, search, budget, nearby)
        table.challenge(index, nearest_to(table.best_of(index), modes, search.group))


def near_usual_places(
    search: ModeSearch, spectra: ParticleSpectra, table: PoseTable
) -> tuple[ModeSearch, Centres | None]:
    """Shifts looked for no farther from the usual one than those found so far spread.

    Most images have the right pose by now, and theirs say where particles are in their boxes; a noisy
    image agrees with something at any other place.
    """
    shift = table.best_shift_box()
    if shift is None:
        return search, None
    before = torch.zeros_like(shift) if spectra.centres is None else spectra.centres.shift_box
    place = shift + before
    usual = place.median(dim=0).values
    spread = NORMAL_OVER_MAD * float((place - usual).abs().median())
    range_box = max(SHIFT_DEVIATIONS * spread, SPACING_PERIODS / search.radius)
    if range_box >= search.shift_range_box:
        return search, None
    centres = Centres(shift_box=usual - before, variance_box2=torch.zeros_like(shift[:, 0]))
    return replace(search, shift_range_box=range_box), centres


def nearest_to(best: Hypotheses, modes: Modes, group: SymmetryGroup) -> Modes:
    """Of the poses that look the same those that lie nearest to the pose which an image has.

    What is the same pose after all is then seen to be the same.
    """
    reference = best.rotation[:, None].expand_as(modes.rotation)
    return replace(modes, rotation=nearest_same_image(modes.rotation, reference, group))


def misfits(
    spectra: ParticleSpectra,
    density: Float[Tensor, "box box box"],
    table: PoseTable,
    radius: float,
) -> Int[Tensor, " outlier"]:
    """Images of which their pose explains much less than it predicts.

    With P the power of the prediction, the power explained at the right pose is P on average with
    variance ``4 P`` (noise 1 per coefficient); at a wrong one it is far less, even negative. The
    deviations are measured against the stack's own median and spread, for no scale is ever exact.
    """
    own, _ = _deviations(spectra, density, table, radius)
    return _below(own, OUTLIER_DEVIATIONS)


def faint_images(
    spectra: ParticleSpectra,
    density: Float[Tensor, "box box box"],
    table: PoseTable,
    radius: float,
) -> Int[Tensor, " faint"]:
    """Images that explain little of what a particle of strength 1 would.

    Where each particle's strength is estimated, that of a wrong pose becomes so low that it predicts no
    more than it explains, and is no misfit.
    """
    _, usual = _deviations(spectra, density, table, radius)
    return _below(usual, FAINT_DEVIATIONS)


def _deviations(
    spectra: ParticleSpectra,
    density: Float[Tensor, "box box box"],
    table: PoseTable,
    radius: float,
) -> Float[Tensor, "2 particle"]:
    """What poses explain beyond what they predict, at each particle's own strength and at 1."""
    prepared = prepared_density(spectra, density, radius, REFINEMENT_OVERSAMPLING)
    parts = []
    for index in torch.arange(len(spectra), device=spectra.device).split(IMAGES_AT_ONCE):
        batch, scale = spectra.batch(index, radius), spectra.noise.scale[index]
        residual, power = pose_fits(prepared, table.best_of(index), batch)
        strength = (batch.observed.square().sum(1) - residual + power) / 2
        both = torch.stack([strength - power, strength - power / scale])
        parts.append(both / power.sqrt())
    return torch.cat(parts, dim=1)


def _below(
    deviation: Float[Tensor, " particle"], robust_deviations: float
) -> Int[Tensor, " outlier"]:
    centred = deviation - deviation.median()
    spread = NORMAL_OVER_MAD * centred.abs().median()
    return (centred < -robust_deviations * spread).nonzero()[:, 0]
