"""The files that a finished run leaves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryogimbal.cli.classes import ClassPart, parts_of, summary_of_class
from cryogimbal.cli.final_maps import summary_of_maps, write_final_maps
from cryogimbal.cli.prepare import PreparedInput
from cryogimbal.cli.taught_encoder import write_encoder
from cryogimbal.data.confidence import Confidence
from cryogimbal.data.poses import PoseHypotheses, PoseSet
from cryogimbal.imaging.model import ImageModel
from cryogimbal.imaging.noise import NoiseModel
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.spectra import images_from_rows
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.class_runs import Classes
from cryogimbal.inference.confidence import MASS
from cryogimbal.inference.final_maps import FinalMaps
from cryogimbal.inference.loss import loss_of, squared_residual
from cryogimbal.io.run_folder import RunFolder, read_metrics
from cryogimbal.io.star_confidence import confidence_columns
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
JUNK_BELOW = 0.5


# What the files of a finished run are, in the order in which a person would look at them.
FILES = {
    "map.mrc": "the density, filtered by what the half-maps have in common",
    "run_half1_class001_unfil.mrc": "the density of one half, unfiltered",
    "run_half2_class001_unfil.mrc": "that of the other: RELION's PostProcess takes them as they are",
    "mask.mrc": "what the half-maps are compared in",
    "fsc.star": "how they agree, as RELION's tables have it; fsc.xml is for EMDB",
    "particles.star": "the input table with the poses found, their widths and a score for each image",
    "encoder.pt": "the pose network: cryogimbal infer-poses gives poses to new images by it",
    "summary.json": "numbers and circumstances",
    "figures": "map, view directions, progress, images beside predictions",
}


def write_results(
    run: RunFolder,
    prepared: PreparedInput,
    classes: Classes,
    maps: Sequence[FinalMaps],
    diameter: float | None,
) -> dict[str, Any]:
    """Write maps of every class, table and figures; returns what the summary says of them.

    ``diameter`` (Å) is what the images were normalised with.
    """
    parts = parts_of(prepared, classes)
    for part, own in zip(parts, maps, strict=True):
        write_final_maps(run.of_class(part.number), own)
    confidence, others = classes.confidence(), None
    if confidence is not None:
        others = confidence_columns(confidence, prepared.stack.pixel_size_angstrom)
    write_particles(
        run.particles,
        prepared.table,
        found_poses(prepared, classes.poses()),
        prepared.half_sets.number,
        classes.number if len(classes.found) > 1 else None,
        others,
    )
    first = parts[0].found
    if first.encoder is not None:
        write_encoder(run, first.encoder, prepared.spectra, diameter)
    _write_figures(run, parts, maps)
    records = read_metrics(run)
    epochs = [record for record in records if record["type"] == "epoch"]
    return {
        **_summary_of_maps(run, parts, maps),
        "half_alignment": first.half_alignment and first.half_alignment.to_dict(),
        **first.symmetry.to_dict(),
        **summary_of_confidence(confidence, first.noise),
        "failed": bool(classes.signs_of_collapse),
        "signs_of_failure": list(classes.signs_of_collapse),
        "n_restarts": classes.n_restarts,
        "final_loss": epochs[-1]["loss"],
        "ended": [record for record in epochs if record.get("ended") is not None],
        "switches": [record for record in records if record["type"] == "switch"],
    }


def summary_of_confidence(confidence: Confidence | None, noise: NoiseModel) -> dict[str, Any]:
    """What the summary says of widths and scores, and whether these weigh the images in the maps."""
    if confidence is None:
        return {"particle_scores": None, "pose_widths": None}
    score, shift = confidence.score, confidence.shift_width_angstrom
    return {
        "particle_scores": {
            "weigh_images": noise.estimated,
            "sum": float(score.sum()),
            "n_below_0.5": int((score < JUNK_BELOW).sum()),
            "quartiles": _quartiles(score),
        },
        "pose_widths": {
            "mass": MASS,
            "quartiles_deg": _quartiles(confidence.width_deg),
            "shift_quartiles_angstrom": None if shift is None else _quartiles(shift),
        },
    }


def _quartiles(values: Tensor) -> list[float]:
    return [float(values.quantile(share)) for share in (0.25, 0.5, 0.75)]


def _summary_of_maps(
    run: RunFolder, parts: Sequence[ClassPart], maps: Sequence[FinalMaps]
) -> dict[str, Any]:
    """Of the first class, and of each where there are several."""
    told = [
        summary_of_maps(own, part.prepared.half_sets.sizes)
        for part, own in zip(parts, maps, strict=True)
    ]
    if len(parts) == 1:
        return told[0]
    of_classes = [
        summary_of_class(run.of_class(part.number), part, own)
        for part, own in zip(parts, told, strict=True)
    ]
    return {**told[0], "classes": of_classes}


def found_poses(prepared: PreparedInput, poses: PoseSet) -> PoseSet:
    """Poses of all particles, with displacements from the centres of the images as they are stored."""
    shift = poses.shift_angstrom + prepared.shift_angstrom
    return PoseSet(rotation=poses.rotation, shift_angstrom=shift)


def _write_figures(run: RunFolder, parts: Sequence[ClassPart], maps: Sequence[FinalMaps]) -> None:
    run.figures.mkdir(exist_ok=True)
    for part, own in zip(parts, maps, strict=True):
        suffix = run.of_class(part.number).suffix
        plot_map(own.density, run.figures / f"map{suffix}.png")
        directions = run.figures / f"view_directions{suffix}.png"
        plot_view_directions(part.found.poses.rotation, directions)
        plot_fsc(own.fsc.curves, run.figures / f"fsc{suffix}.png")
        _write_particle_figure(part, run.figures / f"particles{suffix}.png")
    for name, records in _by_search(read_metrics(run)).items():
        plot_progress(records, run.figures / f"progress{name}.png")


def _by_search(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records of the search of all images, of each half, or of each class, by endings of names."""
    searches: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        half, number = record["half_set"], record["class_number"]
        name = "" if half is None else f"_half{half}"
        name += "" if number is None else f"_class{number:03d}"
        searches.setdefault(name, []).append(record)
    return searches


def _write_particle_figure(part: ClassPart, path: Path) -> None:
    """Observed and predicted images from the best to the worst explained particle."""
    prepared, result = part.prepared, part.found
    spectra, density = prepared.spectra, result.density
    geometry = GridGeometry(box=density.box, radius=density.box / 2, oversampling=2)
    grid = geometry.grid_of_density(density.values.to(spectra.device))
    model = ImageModel(decoder=PreparedGrid.of(grid, geometry.oversampling))
    n = min(len(spectra), 2000)
    index = torch.linspace(0, len(spectra) - 1, n, device=spectra.device).long()
    box_angstrom = spectra.disc.box * spectra.pixel_size_angstrom
    searched = prepared.searched
    poses = result.poses[searched].to(spectra.device)
    shift_box = poses.shift_angstrom / box_angstrom
    if spectra.centres is not None:
        shift_box = shift_box - spectra.centres.shift_box
    hypotheses = PoseHypotheses(rotation=poses.rotation[:, None], shift_box=shift_box[:, None])
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
            name=f"particle {int(part.index[searched[int(particle)]]) + 1}",
            loss=float(losses[place]),
            observed=observed[place],
            predicted=rendered[place],
            residual=residual[place],
        )
        for place, particle in enumerate(shown)
    ]
    plot_particles(pictures, path)
