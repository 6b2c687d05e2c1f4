"""Files that say how half-maps agree, read back by other programs' readers."""

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import starfile
import torch

from cryogimbal.data.fsc import FscCurve
from cryogimbal.data.half_sets import HalfMapFsc, HalfPoses
from cryogimbal.io.resolution_files import write_fsc_star, write_fsc_xml

# Column names and their order as relion_postprocess 3.1 writes them.
COLUMNS = [
    "rlnSpectralIndex",
    "rlnResolution",
    "rlnAngstromResolution",
    "rlnFourierShellCorrelationCorrected",
    "rlnFourierShellCorrelationParticleMaskFraction",
    "rlnFourierShellCorrelationUnmaskedMaps",
    "rlnFourierShellCorrelationMaskedMaps",
    "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
]


def fsc_of(poses: HalfPoses) -> HalfMapFsc:
    def curve(*values: float) -> FscCurve:
        correlation = torch.tensor(values, dtype=torch.float64)
        return FscCurve(box=8, voxel_size_angstrom=2.5, correlation=correlation, poses=poses)

    return HalfMapFsc(
        unmasked=curve(1.0, 0.9, 0.7, 0.3, 0.05),
        masked=curve(1.0, 0.95, 0.9, 0.6, 0.1),
        randomised=curve(1.0, 0.95, 0.3, 0.1, -0.05),
        corrected=curve(1.0, 0.95, 0.9, 0.6, 0.15 / 1.05),
        randomised_from=2,
        mask_fraction=0.119,
    )


@pytest.mark.parametrize("poses", ["independent", "shared"])
def test_the_table_is_laid_out_as_that_of_relion(tmp_path: Path, poses: HalfPoses) -> None:
    path = tmp_path / "fsc.star"
    halves = (tmp_path / "run_half1.mrc", tmp_path / "run half2.mrc")
    write_fsc_star(path, fsc_of(poses), halves, tmp_path / "mask.mrc")
    tables = starfile.read(path, always_dict=True)
    assert list(tables) == ["general", "fsc"]
    general, fsc = tables["general"], tables["fsc"]
    # The last shell before the first one below 0.143 is shell 3 of a box of 20 Å.
    assert general["rlnFinalResolution"] == pytest.approx(20 / 3, abs=1e-6)
    assert general["rlnUnfilteredMapHalf1"] == "run_half1.mrc"
    assert general["rlnUnfilteredMapHalf2"] == "run half2.mrc"
    assert general["rlnMaskName"] == "mask.mrc"
    assert general["rlnParticleBoxFractionSolventMask"] == pytest.approx(4)
    assert general["rlnRandomiseFrom"] == 10
    assert general["cryogimbalHalfSets"] == poses
    assert f"# half-maps with {poses} poses" in path.read_text()

    assert list(fsc) == COLUMNS
    expected = fsc_of(poses)
    assert fsc["rlnSpectralIndex"].tolist() == [0, 1, 2, 3, 4]
    periods = [999.0, 20.0, 10.0, 20 / 3, 5.0]
    assert fsc["rlnAngstromResolution"].tolist() == pytest.approx(periods, abs=1e-6)
    assert fsc["rlnResolution"].tolist() == pytest.approx([1 / p for p in periods], abs=1e-6)
    for name, curve in zip(
        [COLUMNS[3], *COLUMNS[5:]],
        (expected.corrected, expected.unmasked, expected.masked, expected.randomised),
        strict=True,
    ):
        assert fsc[name].tolist() == pytest.approx(curve.correlation.tolist(), abs=1e-6)
    for found, whole in zip(fsc[COLUMNS[4]], fsc[COLUMNS[5]], strict=True):
        # With f = 0.476 / 0.119 = 4: the SNR is four times as large where only the mask holds noise.
        ratio = 4 * whole / (1 - whole) if whole < 1 else math.inf
        assert found == pytest.approx(ratio / (1 + ratio) if whole < 1 else 1, abs=1e-5)


def test_the_curve_for_emdb(tmp_path: Path) -> None:
    path = tmp_path / "fsc.xml"
    write_fsc_xml(path, fsc_of("shared").corrected)
    root = ElementTree.parse(path).getroot()
    assert root.tag == "fsc"
    assert root.attrib["xaxis"] == "Resolution (A-1)"
    assert root.attrib["yaxis"] == "Correlation Coefficient"
    assert "shared poses" in root.attrib["title"]
    points = [[float(part.text or "") for part in point] for point in root]
    assert [point.tag for point in root] == ["coordinate"] * 5
    assert [x for x, _ in points] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2], abs=1e-6)
    assert [y for _, y in points] == pytest.approx([1, 0.95, 0.9, 0.6, 0.142857], abs=1e-6)
