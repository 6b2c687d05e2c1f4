"""Which of several structures each image shows: every class's best pose, then the better fit.

Rounds of hard assignment: each image is searched against the density of each class, its best few modes
are moved up to the band limit of the round, and the class of least residual has it; the densities are
then made anew of the images they have. The band limit grows from round to round, for what tells similar
structures apart is often too fine for the search that found them.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.gauss_newton import FIRST_DAMPING, gauss_newton
from cryogimbal.inference.grid_search import density_of_poses
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.mode_search import ModeSearch, find_modes, prepared_density
from cryogimbal.inference.modes import Modes, joined_modes, modes_of
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.inference.records import EpochRecord, NoticeRecord

NAME = "class_sorting"
# Of fewer images no class is made.
LEAST_IMAGES_OF_A_CLASS = 100
OVERSAMPLING = 2
# Growth of the band limit from round to round and its end, in cycles per box.
GROWTH, LAST_RADIUS = 2.0, 16.0
# Rounds at the last band limit, at most, and the share of images that change when it is enough.
LAST_ROUNDS, SETTLED = 4, 0.003
# Steps at either of two band limits between that of the search and that of the round.
STEPS = 3
IMAGES_AT_ONCE = 1024


class ClassSorting:
    """Gives every image to one of several densities, which follow."""

    name = NAME

    def __init__(
        self,
        spectra: ParticleSpectra,
        densities: Float[Tensor, "class box box box"],
        mask: Float[Tensor, "box box box"],
        search: ModeSearch,
        budget: MemoryBudget,
    ) -> None:
        """Prepare; ``search`` is that of each round, moved on to the round's own band limit."""
        self._spectra = spectra
        self._densities = densities
        self._mask = mask
        self._search = replace(search, radius=min(search.radius, spectra.disc.radius))
        self._budget = budget
        self._number = torch.zeros(len(spectra), dtype=torch.long, device=spectra.device)
        self._round = 0
        self._changed = 1.0
        self._notice = ""

    def records(self) -> Iterator[EpochRecord | NoticeRecord]:
        """From where the stage stands to its end; it may be stopped after any record."""
        while True:
            if self._notice:
                text, self._notice = self._notice, ""
                yield NoticeRecord(text=text)
            if self._is_settled():
                return
            yield self._sort()

    def reason(self) -> str:
        """Why the stage ended."""
        return f"{self._changed:.1%} of the images changed their class in the last round"

    def sorted_classes(
        self,
    ) -> tuple[Int[Tensor, " particle"], Float[Tensor, "class box box box"]]:
        """Class of each image, from 0, and the densities, the class of most images first."""
        sizes = torch.bincount(self._number, minlength=len(self._densities))
        order = sizes.argsort(descending=True, stable=True)
        return order.argsort()[self._number], self._densities[order]

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        return {
            "round": self._round,
            "changed": self._changed,
            "notice": self._notice,
            "number": self._number,
            "densities": self._densities,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        device = self._spectra.device
        self._round, self._changed = state["round"], state["changed"]
        self._notice = state["notice"]
        self._number = state["number"].to(device)
        self._densities = state["densities"].to(device)

    def _sort(self) -> EpochRecord:
        radius = self._radius(self._round)
        modes = [
            best_poses(self._spectra, density, self._search, radius, self._budget)
            for density in self._densities
        ]
        left = torch.cat([mode.residual for mode in modes], dim=1)
        kept = classes_kept(left, LEAST_IMAGES_OF_A_CLASS)
        if len(kept) < len(modes):
            self._notice = (
                f"{len(modes) - len(kept)} of {len(modes)} classes had fewer than "
                f"{LEAST_IMAGES_OF_A_CLASS} images left and are given up; their images go to others"
            )
        before = self._number
        number = left[:, kept].argmin(dim=1)
        self._changed = float((kept[number] != before).float().mean())
        self._number = number
        following = self._radius(self._round + 1)
        self._densities = torch.stack(
            [
                self._density_of(number == place, modes[old], following)
                for place, old in enumerate(kept.tolist())
            ]
        )
        self._round += 1
        return self._record(left[:, kept].min(dim=1).values, radius)

    def _density_of(self, chosen: Tensor, modes: Modes, radius: float) -> Tensor:
        """Map of the images of one class at their best poses."""
        shift = modes.shift_box
        table = PoseTable.starting_at(modes.rotation[:, 0], None if shift is None else shift[:, 0])
        geometry = GridGeometry(
            box=self._spectra.disc.box, radius=radius, oversampling=OVERSAMPLING
        )
        found = density_of_poses(
            self._spectra, table, geometry, IMAGES_AT_ONCE, index=chosen.nonzero()[:, 0]
        )
        return found * self._mask

    def _radius(self, number: int) -> float:
        """Band limit of a round; the first two have that of the search."""
        grown = self._search.radius + GROWTH * max(0, number - 1)
        return min(grown, max(LAST_RADIUS, self._search.radius), self._spectra.disc.radius)

    def _first_at_end(self) -> int:
        number = 1
        while self._radius(number) < self._radius(number + 1):
            number += 1
        return number

    def _is_settled(self) -> bool:
        at_end = self._round - self._first_at_end()
        return at_end >= LAST_ROUNDS or (at_end >= 1 and self._changed <= SETTLED)

    def _record(self, left: Tensor, radius: float) -> EpochRecord:
        box_angstrom = self._spectra.disc.box * self._spectra.pixel_size_angstrom
        n_coefficients = self._spectra.disc.truncate(radius).n_coefficients
        sizes = torch.bincount(self._number, minlength=len(self._densities))
        return EpochRecord(
            stage=NAME,
            epoch=self._round - 1,
            n_epochs=max(self._round, self._first_at_end() + LAST_ROUNDS),
            images_total=len(self._spectra),
            loss=float(left.mean()) / n_coefficients,
            radius=radius,
            resolution_angstrom=box_angstrom / radius,
            changed_over=self._changed,
            class_sizes=tuple(sizes.tolist()),
        )


def classes_kept(left: Float[Tensor, "particle class"], least_images: int) -> Int[Tensor, " kept"]:
    """Classes that hold enough images once the smallest is given up, again and again."""
    kept = torch.arange(left.shape[1], device=left.device)
    while len(kept) > 1:
        sizes = torch.bincount(left[:, kept].argmin(dim=1), minlength=len(kept))
        if int(sizes.min()) >= least_images:
            break
        kept = kept[torch.arange(len(kept), device=kept.device) != sizes.argmin()]
    return kept


def best_poses(
    spectra: ParticleSpectra,
    density: Float[Tensor, "box box box"],
    search: ModeSearch,
    radius: float,
    budget: MemoryBudget,
) -> Modes:
    """The best pose of every image, its residual up to ``radius`` (cycles per box), one mode each.

    Its best modes at the search's band limit are moved by steps up to the other one.
    """
    found = find_modes(spectra, density, search, budget)
    if radius <= search.radius:
        return found.first(1)
    radii = ((search.radius * radius) ** 0.5, radius)
    grids = [prepared_density(spectra, density, one, OVERSAMPLING) for one in radii]
    parts = []
    for index in torch.arange(len(spectra), device=spectra.device).split(IMAGES_AT_ONCE):
        modes, there = found.of_images(index), torch.isfinite(found.residual[index])
        for one, grid in zip(radii, grids, strict=True):
            damping = torch.full_like(modes.residual.flatten(), FIRST_DAMPING)
            moved = gauss_newton(
                grid, modes.hypotheses, spectra.batch(index, one), damping=damping, n_steps=STEPS
            )
            modes = modes_of(moved.hypotheses, moved.residual, len(index))
        parts.append(modes.without(~there).best_first().first(1))
    return joined_modes(parts)
