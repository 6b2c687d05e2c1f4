"""The pictures of a run: each function draws one figure and writes it as one PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.evaluation.fsc import FscCurve
from cryogimbal.report.curves import fsc_figure, pose_errors_figure
from cryogimbal.report.directions import view_directions_figure
from cryogimbal.report.images import ParticlePicture, map_figure, particles_figure
from cryogimbal.report.progress import progress_figure
from cryogimbal.report.style import write_png


def plot_map(density: DensityMap, path: Path) -> None:
    """Three central sections and three projections of a density, with a scale bar in Å.

    Raises
    ------
    InputError
        If a voxel is not finite, or for a path that :func:`write_png` refuses.
    """
    write_png(map_figure(density), path)


def plot_fsc(curves: Mapping[str, FscCurve], path: Path) -> None:
    """FSC curves with their labels, pose origins and resolutions (Å) at 0.5 and 0.143.

    Raises
    ------
    InputError
        If there is no curve or one is not finite, or for a path that :func:`write_png` refuses.
    """
    write_png(fsc_figure(curves), path)


def plot_view_directions(rotation: Float[Tensor, "particle 3 3"], path: Path) -> None:
    """Particles per equal-area bin of the view direction.

    Raises
    ------
    InputError
        If there is no particle or a rotation is not one, or for a path that :func:`write_png`
        refuses.
    """
    write_png(view_directions_figure(rotation), path)


def plot_progress(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss, pose change (degrees), band limit (Å), heads and switches, from ``metrics.jsonl``.

    Raises
    ------
    InputError
        If a record is none of a run's or no epoch is finished, or for a path that
        :func:`write_png` refuses.
    """
    write_png(progress_figure(records), path)


def plot_particles(particles: Sequence[ParticlePicture], path: Path) -> None:
    """Observed, predicted and residual images of a few particles, with their losses.

    Raises
    ------
    InputError
        If there are none or too many, or an image is not finite, or for a path that
        :func:`write_png` refuses.
    """
    write_png(particles_figure(particles), path)


def plot_pose_errors(rotation_error_deg: Float[Tensor, " particle"], path: Path) -> None:
    """Histogram of rotation errors with median and mean.

    Raises
    ------
    InputError
        If there is none or one lies outside 0 to 180 degrees, or for a path that
        :func:`write_png` refuses.
    """
    write_png(pose_errors_figure(rotation_error_deg), path)
