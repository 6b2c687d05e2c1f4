"""How half-maps agree, in the files that others read: RELION's STAR tables and EMDB's XML."""

from pathlib import Path
from xml.sax.saxutils import quoteattr

from cryogimbal.data.fsc import FscCurve
from cryogimbal.data.half_sets import HalfMapFsc
from cryogimbal.io.atomic import write_text_atomically
from cryogimbal.io.star_edit import quoted

# RELION's stand-in for the period of shell 0.
_NO_PERIOD_ANGSTROM = 999.0
_VERSION = "# version 30001"
_NAME_WIDTH = 45
# RELION's "fraction f": this number over the share of voxels where the mask exceeds one half.
_BOX_OVER_MASK = 0.476
_COLUMNS = (
    "rlnSpectralIndex",
    "rlnResolution",
    "rlnAngstromResolution",
    "rlnFourierShellCorrelationCorrected",
    "rlnFourierShellCorrelationParticleMaskFraction",
    "rlnFourierShellCorrelationUnmaskedMaps",
    "rlnFourierShellCorrelationMaskedMaps",
    "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
)


def write_fsc_star(path: Path, fsc: HalfMapFsc, half_maps: tuple[Path, Path], mask: Path) -> None:
    """Write the tables of RELION's postprocess.star: data_general and data_fsc.

    The final resolution is RELION's: the last shell before the corrected correlation first falls
    below 0.143. ``rlnFourierShellCorrelationParticleMaskFraction`` is ``f c / (1 + (f - 1) c)`` of the
    unmasked correlation c, with RELION's f = 0.476 / (share of the box in the mask). One value is
    ours: ``cryogimbalHalfSets`` says whether the halves came by their poses independent of each other
    or shared them.

    Parameters
    ----------
    path
        The file.
    fsc
        What was measured.
    half_maps, mask
        Files that it was measured on; only their names are written.
    """
    fraction = _BOX_OVER_MASK / fsc.mask_fraction
    general = {
        "rlnFinalResolution": f"{fsc.corrected.resolution_last_shell_angstrom(0.143):.6f}",
        "rlnBfactorUsedForSharpening": f"{0:.6f}",
        "rlnUnfilteredMapHalf1": quoted(half_maps[0].name),
        "rlnUnfilteredMapHalf2": quoted(half_maps[1].name),
        "rlnParticleBoxFractionSolventMask": f"{fraction:.6f}",
        "rlnMaskName": quoted(mask.name),
        "rlnRandomiseFrom": f"{fsc.randomised_from_angstrom:.6f}",
        "cryogimbalHalfSets": fsc.poses,
    }
    lines = [
        f"# half-maps with {fsc.poses} poses",
        "",
        _VERSION,
        "",
        "data_general",
        "",
        *(f"_{name:<{_NAME_WIDTH}} {value}" for name, value in general.items()),
        " ",
        "",
        _VERSION,
        "",
        "data_fsc",
        "",
        "loop_ ",
        *(f"_{name} #{number} " for number, name in enumerate(_COLUMNS, start=1)),
        *_rows(fsc, fraction),
        "",
    ]
    write_text_atomically(path, "\n".join(lines) + "\n")


def write_fsc_xml(path: Path, curve: FscCurve) -> None:
    """Write a curve as EMDB takes it; the title says how the halves came by their poses."""
    title = f"cryogimbal masked-corrected FSC, half-maps with {curve.poses} poses"
    points = zip(curve.frequency_per_angstrom.tolist(), curve.correlation.tolist(), strict=True)
    lines = [
        f'<fsc title={quoteattr(title)} xaxis="Resolution (A-1)" yaxis="Correlation Coefficient">',
        *(
            f"  <coordinate>\n    <x>{x:.6g}</x>\n    <y>{y:.6g}</y>\n  </coordinate>"
            for x, y in points
        ),
        "</fsc>",
    ]
    write_text_atomically(path, "\n".join(lines) + "\n")


def _rows(fsc: HalfMapFsc, fraction: float) -> list[str]:
    rows = []
    frequency = fsc.corrected.frequency_per_angstrom.tolist()
    curves = (fsc.corrected, fsc.unmasked, fsc.masked, fsc.randomised)
    values = zip(*(curve.correlation.tolist() for curve in curves), strict=True)
    for shell, (k, (corrected, unmasked, masked, randomised)) in enumerate(
        zip(frequency, values, strict=True)
    ):
        within = fraction * unmasked / (1 + (fraction - 1) * unmasked)
        numbers = (corrected, within, unmasked, masked, randomised)
        period = 1 / k if shell else _NO_PERIOD_ANGSTROM
        written = "".join(f" {number:12.6f}" for number in (1 / period, period, *numbers))
        rows.append(f"{shell:12d}{written} ")
    return rows
