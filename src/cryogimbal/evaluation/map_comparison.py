"""Two whitened spectra in a ball of frequencies: how well frames fit, and their least squares."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.evaluation.spline import sample_spline, transform_to_spline
from cryogimbal.fourier.shells import shell_sum
from cryogimbal.fourier.transforms import density_to_hartley
from cryogimbal.rotations import rotvec_to_rotation

# Step of the forward differences: phase, in cycles, of a particle filling the box at the ball's
# surface. Their error of 2 % slows the steps a little and leaves the optimum where it is.
DIFFERENCE_CYCLES = 0.005
FIRST_DAMPING = 1e-3
# Rotation in rad and shift in boxes below which a frame has arrived.
ARRIVED = 1e-5


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Candidate frames, as :mod:`cryogimbal.evaluation.alignment` defines them."""

    rotation: Float[Tensor, "candidate 3 3"]
    shift: Float[Tensor, "candidate 3"]
    """In fractions of the box."""
    hand: Float[Tensor, " candidate"]
    """-1 where the moving map is mirrored first, else 1."""

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self.hand)

    def __getitem__(self, index: Int[Tensor, " chosen"] | slice) -> "Frames":
        """The chosen candidates."""
        return Frames(rotation=self.rotation[index], shift=self.shift[index], hand=self.hand[index])


@dataclass(frozen=True, kw_only=True)
class MapComparison:
    """Coefficients at k and -k, side by side, for each k of half a ball."""

    frequency: Float[Tensor, "point 3"]
    """k (x, y, z) in cycles per box."""
    shell: Int[Tensor, " point"]
    fixed: Float[Tensor, "2 point"]
    """Whitened Hartley coefficients of the fixed map."""
    moving_spline: Float[Tensor, "padded padded padded"]
    """The moving map's Hartley spectrum."""
    moving_weight: Float[Tensor, " point"]
    """What whitens it."""


def compare_maps(
    moving: Float[Tensor, "box box box"], fixed: Float[Tensor, "box box box"]
) -> MapComparison:
    """Comparison of two densities over all frequencies below Nyquist."""
    box = fixed.shape[-1]
    frequency = _half_ball((box - 1) // 2).to(fixed)
    shell = frequency.norm(dim=-1).double().round().long()
    spectrum = density_to_hartley(fixed)
    x, y, z = (frequency.long() + box // 2).unbind(-1)
    mirror_x, mirror_y, mirror_z = (box // 2 - frequency.long()).unbind(-1)
    coefficients = torch.stack([spectrum[z, y, x], spectrum[mirror_z, mirror_y, mirror_x]])
    return MapComparison(
        frequency=frequency,
        shell=shell,
        fixed=coefficients * _whitening(spectrum)[shell],
        moving_spline=transform_to_spline(moving),
        moving_weight=_whitening(density_to_hartley(moving))[shell],
    )


def limit_band(comparison: MapComparison, radius: int) -> MapComparison:
    """The same comparison up to a shell."""
    n = int((comparison.shell <= radius).sum())
    return replace(
        comparison,
        frequency=comparison.frequency[:n],
        shell=comparison.shell[:n],
        fixed=comparison.fixed[:, :n],
        moving_weight=comparison.moving_weight[:n],
    )


def predict(comparison: MapComparison, frames: Frames) -> Float[Tensor, "candidate 2 point"]:
    """Whitened coefficients of the moving map in each frame.

    ``H'(k) = cos(2 pi k.s) h(k) + sin(2 pi k.s) h(-k)`` with ``h(k) = H(k Q M)``.
    """
    signs = torch.ones_like(frames.shift)
    signs[:, 2] = frames.hand
    rows = (comparison.frequency @ frames.rotation) * signs[:, None]
    here, there = sample_spline(comparison.moving_spline, torch.stack([rows, -rows])).unbind(0)
    phase = 2 * math.pi * frames.shift @ comparison.frequency.T
    cos, sin = phase.cos(), phase.sin()
    shifted = torch.stack([cos * here + sin * there, cos * there - sin * here], dim=1)
    return shifted * comparison.moving_weight


def correlation(comparison: MapComparison, frames: Frames) -> Float[Tensor, " candidate"]:
    """Correlation of the whitened spectra over the ball, for each frame."""
    return _correlation(comparison.fixed, predict(comparison, frames))


def correlation_per_shell(comparison: MapComparison, frame: Frames) -> Float[Tensor, " shell"]:
    """Fourier shell correlation in one frame, shells 0 (set to 1) to the band limit."""
    predicted = predict(comparison, frame)[0]
    sums = torch.zeros(3, int(comparison.shell[-1]) + 1, dtype=predicted.dtype)
    fixed = comparison.fixed
    for row, product in enumerate([fixed * predicted, fixed.square(), predicted.square()]):
        sums[row].index_add_(0, comparison.shell.cpu(), product.sum(0).cpu())
    cross, power_fixed, power_moving = sums.unbind(0)
    power = (power_fixed * power_moving).sqrt()
    curve = cross / power.clamp_min(torch.finfo(power.dtype).tiny)
    curve[0] = 1.0
    return curve


def refine_frames(comparison: MapComparison, frames: Frames, *, n_iterations: int) -> Frames:
    """Levenberg-Marquardt steps on rotation and shift towards the highest correlation.

    Least squares of ``fixed - a moving``, the scale a being solved for; a step is kept where the
    correlation rises.
    """
    damping = torch.full_like(frames.hand, FIRST_DAMPING)
    predicted = predict(comparison, frames)
    score = _correlation(comparison.fixed, predicted)
    for _ in range(n_iterations):
        step = _least_squares_step(comparison, frames, predicted, damping)
        trial = Frames(
            rotation=rotvec_to_rotation(step[:, :3]) @ frames.rotation,
            shift=frames.shift + step[:, 3:],
            hand=frames.hand,
        )
        trial_predicted = predict(comparison, trial)
        trial_score = _correlation(comparison.fixed, trial_predicted)
        better = trial_score > score
        frames = Frames(
            rotation=torch.where(better[:, None, None], trial.rotation, frames.rotation),
            shift=torch.where(better[:, None], trial.shift, frames.shift),
            hand=frames.hand,
        )
        predicted = torch.where(better[:, None, None], trial_predicted, predicted)
        score = torch.where(better, trial_score, score)
        damping = torch.where(better, damping / 5, damping * 20)
        if float(step.abs().max()) < ARRIVED:
            break
    return frames


def _least_squares_step(
    comparison: MapComparison,
    frames: Frames,
    predicted: Float[Tensor, "candidate 2 point"],
    damping: Float[Tensor, " candidate"],
) -> Float[Tensor, "candidate 6"]:
    """Rotation vector (rad) and shift (fractions of the box) of one damped Gauss-Newton step."""
    power = predicted.square().sum((1, 2)).clamp_min(torch.finfo(predicted.dtype).tiny)
    scale = (predicted * comparison.fixed).sum((1, 2)) / power
    slope = scale[:, None, None, None] * _slopes(comparison, frames, predicted)
    residual = comparison.fixed - scale[:, None, None] * predicted
    slope, residual = slope.flatten(2), residual.flatten(1)
    normal = slope @ slope.mT
    diagonal = normal.diagonal(dim1=-2, dim2=-1)
    floor = 1e-12 * diagonal.amax(-1, keepdim=True).clamp_min(1e-30)
    damped = normal + torch.diag_embed(damping[:, None] * diagonal + floor)
    return torch.linalg.solve(damped, (slope @ residual[..., None])[..., 0])


def _slopes(
    comparison: MapComparison, frames: Frames, predicted: Float[Tensor, "candidate 2 point"]
) -> Float[Tensor, "candidate 6 2 point"]:
    """Derivatives by rotation vector (forward differences) and by shift (exact)."""
    step = DIFFERENCE_CYCLES * 2 / float(comparison.frequency.norm(dim=-1).max())
    slopes = []
    for axis in torch.eye(3).to(frames.shift):
        turned = replace(frames, rotation=rotvec_to_rotation(step * axis) @ frames.rotation)
        slopes.append((predict(comparison, turned) - predicted) / step)
    # d/dphi of (cos h+ + sin h-, cos h- - sin h+) is its second row and minus its first.
    quarter = torch.stack([predicted[:, 1], -predicted[:, 0]], dim=1)
    slopes += [2 * math.pi * k * quarter for k in comparison.frequency.unbind(-1)]
    return torch.stack(slopes, dim=1)


def _correlation(
    fixed: Float[Tensor, "2 point"], predicted: Float[Tensor, "candidate 2 point"]
) -> Float[Tensor, " candidate"]:
    cross = (predicted * fixed).sum((1, 2))
    power = predicted.square().sum((1, 2)) * fixed.square().sum()
    return cross / power.sqrt().clamp_min(torch.finfo(power.dtype).tiny)


def _whitening(spectrum: Float[Tensor, "box box box"]) -> Float[Tensor, " shell"]:
    """What gives every shell a mean square of 1; 0 for a shell without power."""
    power = shell_sum(spectrum.square(), 3) / shell_sum(torch.ones_like(spectrum), 3)
    # Shells that hold nothing but rounding must not be blown up.
    empty = power <= 1e-12 * power.max()
    return torch.where(empty, 0.0, power.clamp_min(torch.finfo(power.dtype).tiny).rsqrt())


def _half_ball(radius: int) -> Float[Tensor, "point 3"]:
    """One of each pair k, -k of integer (x, y, z) with ``0 < round(|k|) <= radius``, by shell."""
    axis = torch.arange(-radius, radius + 1)
    z, y, x = (grid.flatten() for grid in torch.meshgrid(axis, axis, axis, indexing="ij"))
    k = torch.stack([x, y, z], dim=-1)
    shell = k.square().sum(-1).double().sqrt().round()
    chosen = ((z > 0) | ((z == 0) & ((y > 0) | ((y == 0) & (x > 0))))) & (shell <= radius)
    order = torch.argsort(shell[chosen], stable=True)
    return k[chosen][order].float()
