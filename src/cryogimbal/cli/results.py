"""The files that a finished run leaves."""

from typing import Any

import torch

from cryogimbal.cli.prepare import PreparedInput
from cryogimbal.cli.taught_encoder import write_encoder
from cryogimbal.data.poses import PoseHypotheses, PoseSet
from cryogimbal.imaging.model import ImageModel
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.spectra import images_from_rows
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.loss import loss_of, squared_residual
from cryogimbal.inference.reconstruct import Reconstruction, ReconstructionRun
from cryogimbal.io.mrc import write_density
from cryogimbal.io.run_folder import RunFolder, read_metrics
from cryogimbal.io.star_write import write_particles
from cryogimbal.report.images import ParticlePicture
from cryogimbal.report.plots import (
    plot_fsc,
    plot_map,
    plot_particles,
    plot_progress,
    plot_view_directions,
)

SHOWN_PARTICLES = 6


# What the files of a finished run are, in the order in which a person would look at them.
FILES = {
    "map.mrc": "the density",
    "particles.star": "the input table with the poses found",
    "encoder.pt": "the pose network: cryogimbal infer-poses gives poses to new images by it",
    "summary.json": "numbers and circumstances",
    "figures": "map, view directions, progress, images beside predictions",
}


def write_results(
    run: RunFolder,
    prepared: PreparedInput,
    reconstruction: ReconstructionRun,
    diameter: float | None,
) -> dict[str, Any]:
    """Write map, table and figures; returns what the summary says of them.

    ``diameter`` (Å) is what the images were normalised with.
    """
    result = reconstruction.result()
    write_density(run.density, result.density)
    shift = result.poses.shift_angstrom + prepared.shift_angstrom
    poses = PoseSet(rotation=result.poses.rotation, shift_angstrom=shift)
    write_particles(run.particles, prepared.table, poses)
    if result.encoder is not None:
        write_encoder(run, result.encoder, prepared.spectra, diameter)
    _write_figures(run, prepared, result)
    fsc, records = result.half_map_fsc, read_metrics(run)
    epochs = [record for record in records if record["type"] == "epoch"]
    return {
        "half_map_resolution_fsc0143_angstrom": fsc and fsc.resolution_angstrom(0.143),
        "half_map_poses": fsc and fsc.poses,
        "half_map_fsc": fsc and fsc.to_dict(),
        "final_loss": epochs[-1]["loss"],
        "switches": [record for record in records if record["type"] == "switch"],
    }


def _write_figures(run: RunFolder, prepared: PreparedInput, result: Reconstruction) -> None:
    run.figures.mkdir(exist_ok=True)
    plot_map(result.density, run.figures / "map.png")
    plot_view_directions(result.poses.rotation, run.figures / "view_directions.png")
    plot_progress(read_metrics(run), run.figures / "progress.png")
    if result.half_map_fsc is not None:
        plot_fsc({"half-maps": result.half_map_fsc}, run.figures / "fsc.png")
    _write_particle_figure(run, prepared, result)


def _write_particle_figure(run: RunFolder, prepared: PreparedInput, result: Reconstruction) -> None:
    """Observed and predicted images from the best to the worst explained particle."""
    spectra, density = prepared.spectra, result.density
    geometry = GridGeometry(box=density.box, radius=density.box / 2, oversampling=2)
    grid = geometry.grid_of_density(density.values.to(spectra.device))
    model = ImageModel(decoder=PreparedGrid.of(grid, geometry.oversampling))
    n = min(len(spectra), 2000)
    index = torch.linspace(0, len(spectra) - 1, n, device=spectra.device).long()
    box_angstrom = spectra.disc.box * spectra.pixel_size_angstrom
    poses = result.poses.to(spectra.device)
    hypotheses = PoseHypotheses(
        rotation=poses.rotation[:, None],
        shift_box=poses.shift_angstrom[:, None] / box_angstrom,
    )
    losses = torch.cat(
        [
            loss_of(
                model,
                hypotheses[part],
                spectra.batch(part, spectra.disc.radius),
                squared_residual,
            )[:, 0]
            for part in index.split(256)
        ]
    )
    ranked = index[losses.argsort()]
    shown = ranked[torch.linspace(0, n - 1, min(n, SHOWN_PARTICLES)).long()]
    batch = spectra.batch(shown, spectra.disc.radius)
    predicted = model.predict(hypotheses[shown], batch)[:, 0]
    losses = squared_residual(predicted[:, None], batch.observed)[:, 0]
    observed, rendered, residual = (
        images_from_rows(rows, batch.disc, batch.disc.box).cpu()
        for rows in (batch.observed, predicted, batch.observed - predicted)
    )
    pictures = [
        ParticlePicture(
            name=f"particle {int(particle) + 1}",
            loss=float(losses[place]),
            observed=observed[place],
            predicted=rendered[place],
            residual=residual[place],
        )
        for place, particle in enumerate(shown)
    ]
    plot_particles(pictures, run.figures / "particles.png")
