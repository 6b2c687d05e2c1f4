"""How the poses of a table move, given the volume: by Gauss and Newton, or by Adam."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.imaging.model import ImageModel, ParticleBatch
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.volume import Decoder
from cryogimbal.inference.gauss_newton import FIRST_DAMPING, gauss_newton
from cryogimbal.inference.loss import Residual, loss_of
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.inference.rescue import OutlierSearch
from cryogimbal.rotations import polish_rotation, rotvec_to_rotation

FIRST_DECAY = 0.9
SECOND_DECAY = 0.999
EPSILON = 1e-8


@runtime_checkable
class PoseSteps(Protocol):
    """Moves the poses of a batch, with its own state for every pose."""

    def improve(
        self, table: PoseTable, batch: ParticleBatch, decoder: Decoder, rate: float
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Mean residual per coefficient of each image, and the share of its weight that moved."""
        ...

    def search_outliers(self, table: PoseTable, radius: float) -> int | None:
        """Search images that fit badly anew; how many, or none where that is not done."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        ...


class GaussNewtonSteps:
    """Damped Gauss-Newton steps of all hypotheses; squared residual only, no rate."""

    def __init__(self, table: PoseTable, n_steps: int, outliers: OutlierSearch) -> None:
        self._n_steps = n_steps
        self._outliers = outliers
        self._damping = torch.full_like(table.weight, FIRST_DAMPING)

    def improve(
        self,
        table: PoseTable,
        batch: ParticleBatch,
        decoder: Decoder,
        rate: float,  # noqa: ARG002 (a step's length follows from the curvature)
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Mean residual per coefficient at the best pose, and the share of weight that moved."""
        assert isinstance(decoder, PreparedGrid)
        rows, _ = table.alive(batch.index)
        image, slot = rows.hypotheses.image, rows.slot
        place = (batch.index[image], slot)
        found = gauss_newton(
            decoder, rows.hypotheses, batch, damping=self._damping[place], n_steps=self._n_steps
        )
        self._damping[place] = found.damping
        moved = table.update(batch.index, slot, found.hypotheses, found.residual)
        best = torch.full_like(moved, torch.inf)
        best = best.scatter_reduce(0, image, found.residual, "amin")
        return best / batch.disc.n_coefficients, moved

    def search_outliers(self, table: PoseTable, radius: float) -> int | None:
        """Give images that fit badly new hypotheses, by a search over all orientations."""
        return self._outliers.rescue(table, radius)

    def state_dict(self) -> dict[str, Tensor]:
        """The damping of each hypothesis, and what is known of outliers."""
        return {"damping": self._damping, **self._outliers.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue with the damping of a checkpoint."""
        self._damping = state["damping"].to(self._damping.device)
        self._outliers.load_state_dict(state)


class AdamSteps:
    """Adam on the rotation vector of each image's one pose (the paper), and on its shift if it has one.

    A pose moves as ``R <- exp(w^) R`` and the rotation vector w starts again at 0 after each step (the
    paper's supplement A), so moments live in the tangent space of the image frame. The rate, in radians
    of rotation, is one in radii of the box for shifts.
    """

    def __init__(self, table: PoseTable, n_steps: int, residual: Residual) -> None:
        n, n_parameters = len(table.rotation), 3 if table.shift_box is None else 5
        self._per_visit = n_steps
        self._residual = residual
        self._first_moment = table.rotation.new_zeros(n, n_parameters)
        self._second_moment = table.rotation.new_zeros(n, n_parameters)
        self._n_steps = torch.zeros(n, dtype=torch.long, device=table.rotation.device)

    def improve(
        self, table: PoseTable, batch: ParticleBatch, decoder: Decoder, rate: float
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Mean residual per coefficient before the last step; no weight moves."""
        loss = table.weight.new_zeros(len(batch.index))
        for _ in range(self._per_visit):
            loss, gradient = self._gradient(table, batch, decoder)
            self.step(table, batch.index, gradient, rate)
        return loss, torch.zeros_like(loss)

    def search_outliers(self, table: PoseTable, radius: float) -> None:
        """The paper leaves every image where its own steps take it."""

    def step(
        self, table: PoseTable, index: Tensor, gradient: Float[Tensor, "batch number"], rate: float
    ) -> None:
        """Move the poses of a batch against the gradient in w (radians) and in the shift, if any."""
        steps = self._n_steps[index] + 1
        first = torch.lerp(gradient, self._first_moment[index], FIRST_DECAY)
        second = torch.lerp(gradient.square(), self._second_moment[index], SECOND_DECAY)
        unbiased_first = first / (1 - FIRST_DECAY**steps)[:, None]
        unbiased_second = second / (1 - SECOND_DECAY**steps)[:, None]
        move = -rate * unbiased_first / (unbiased_second.sqrt() + EPSILON)
        self._n_steps[index], self._first_moment[index] = steps, first
        self._second_moment[index] = second
        table.rotation[index, 0] = polish_rotation(
            rotvec_to_rotation(move[:, :3]) @ table.rotation[index, 0]
        )
        if table.shift_box is not None:
            table.shift_box[index, 0] += move[:, 3:] / 2

    def state_dict(self) -> dict[str, Tensor]:
        """Adam's moments and step counts."""
        return {
            "first_moment": self._first_moment,
            "second_moment": self._second_moment,
            "n_steps": self._n_steps,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue with the moments of a checkpoint."""
        device = self._first_moment.device
        self._first_moment = state["first_moment"].to(device)
        self._second_moment = state["second_moment"].to(device)
        self._n_steps = state["n_steps"].to(device)

    def _gradient(
        self, table: PoseTable, batch: ParticleBatch, decoder: Decoder
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch number"]]:
        """Loss of each image and its gradient in w of ``exp(w^) R``, at w = 0, and in the shift."""
        current = table.propose(batch.index)
        rotvec = torch.zeros(len(batch.index), 1, 3, device=current.rotation.device)
        moving = [rotvec.requires_grad_()]
        if current.shift_box is not None:
            moving.append(current.shift_box.clone().requires_grad_())
        moved = PoseHypotheses(
            rotation=rotvec_to_rotation(rotvec) @ current.rotation,
            shift_box=moving[1] if len(moving) > 1 else None,
        )
        losses = loss_of(ImageModel(decoder=decoder), moved, batch, self._residual)
        gradients = torch.autograd.grad(losses.sum(), moving)
        return losses.detach()[:, 0], torch.cat(gradients, dim=-1)[:, 0]
