"""From what the user names, a phantom, an atomic model or a map, to the density to simulate."""

from pathlib import Path

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.io.atoms import is_atomic_model, read_atomic_model
from cryogimbal.io.mrc import read_density
from cryogimbal.simulation.atoms import atoms_to_points
from cryogimbal.simulation.maps import regrid_density, soften_density
from cryogimbal.simulation.phantoms import PHANTOMS, is_phantom, phantom
from cryogimbal.simulation.points import PointModel, default_envelope_b_factor, points_to_density
from cryogimbal.simulation.settings import SimulationSettings

DEFAULT_BOX = 64
PHANTOM_SIDE_ANGSTROM = 192.0


def source_to_density(source: str, settings: SimulationSettings) -> DensityMap:
    """The true density of a simulation.

    Parameters
    ----------
    source
        Name of a phantom, or path of a .pdb, .cif (packed with gzip or not) or .mrc file.
    settings
        Of which box, pixel size, envelope and the phantom's seed count here.

    Raises
    ------
    InputError
        If there is no such source, or it cannot be used or does not fit into the box.
    """
    path = Path(source)
    if is_phantom(source):
        box = settings.box or DEFAULT_BOX
        pixel_size = settings.pixel_size or PHANTOM_SIDE_ANGSTROM / box
        model = phantom(source, box * pixel_size, settings.phantom_seed)
        return _sampled(model, box, pixel_size, settings)
    if is_atomic_model(path):
        model = atoms_to_points(read_atomic_model(path))
        box = settings.box or DEFAULT_BOX
        if settings.pixel_size is None:
            raise InputError(
                f"{source}: expected --pixel-size for an atomic model, found none; its radius is "
                f"{model.radius_angstrom:.1f} Å, which fits a box of {box} from "
                f"{2 * model.radius_angstrom / box:.2f} Å on"
            )
        return _sampled(model, box, settings.pixel_size, settings)
    if path.suffix.lower() in (".mrc", ".map"):
        return _resampled(path, settings)
    raise InputError(
        f"source {source!r}: expected a phantom ({PHANTOMS}) or a .pdb, .cif, .pdb.gz, .cif.gz or "
        ".mrc file, found none of them; name one"
    )


def _sampled(
    model: PointModel, box: int, pixel_size: float, settings: SimulationSettings
) -> DensityMap:
    b_factor = settings.envelope_b_factor
    if b_factor is None:
        b_factor = default_envelope_b_factor(pixel_size)
    return points_to_density(model, box, pixel_size, b_factor)


def _resampled(path: Path, settings: SimulationSettings) -> DensityMap:
    found = read_density(path)
    box, voxel_size = settings.box or found.box, settings.pixel_size or found.voxel_size_angstrom
    same = (box, voxel_size) == (found.box, found.voxel_size_angstrom)
    density = found if same else regrid_density(found, box, voxel_size)
    if settings.envelope_b_factor is None:
        return density
    return soften_density(density, settings.envelope_b_factor)
