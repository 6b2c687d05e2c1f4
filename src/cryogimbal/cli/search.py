"""The search of a run: one over all images, one over each half, or one for each class."""

from cryogimbal.cli.prepare import PreparedInput, is_to_be_centred, read_part
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.centring import centred
from cryogimbal.inference.class_runs import Classes, ClassRuns
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.half_sets import HalfSetRuns, config_of_half
from cryogimbal.inference.reconstruct import ReconstructionRun
from cryogimbal.inference.restarts import MOST_RESTARTS, RestartingRun, config_of_attempt
from cryogimbal.inference.start_and_result import StartingPoint

Search = RestartingRun | HalfSetRuns | ClassRuns


def found_classes(search: Search) -> Classes:
    """What a search has found that has reached its end; most are of one class."""
    result = search.result()
    return result if isinstance(result, Classes) else Classes.of_one(result)


def begin_search(prepared: PreparedInput, config: ReconstructionConfig) -> Search:
    """The search that the options ask for, at its beginning.

    Images of a second half are read when its turn comes.
    """
    if config.n_classes > 1:
        return ClassRuns(prepared.spectra, config)
    if config.half_sets == "shared":
        return _restarting(prepared.spectra, config, prepared.start)

    def begin(number: int) -> RestartingRun:
        index, spectra, poses = (
            prepared.half_sets.index(number),
            prepared.spectra,
            prepared.start.poses,
        )
        if number != 1:
            box, device = spectra.disc.box, spectra.device
            spectra = read_part(prepared.stack, index, box, prepared.preprocessing, device)
            if is_to_be_centred(config):
                spectra = centred(spectra, config.shift_range_box)
        start = StartingPoint(
            density=prepared.start.density, poses=None if poses is None else poses[index]
        )
        return _restarting(spectra, config_of_half(config, number), start)

    return HalfSetRuns(prepared.half_sets, begin)


def _restarting(
    spectra: ParticleSpectra, config: ReconstructionConfig, start: StartingPoint
) -> RestartingRun:
    """A search that begins again where it fails, unless it would begin with the same map or poses."""

    def begin(attempt: int) -> ReconstructionRun:
        return ReconstructionRun(spectra, config_of_attempt(config, attempt), start)

    given = start.density is not None or start.poses is not None
    return RestartingRun(begin, most_restarts=0 if given else MOST_RESTARTS)
