"""Correlation of half-maps in a mask, phases drawn anew and the correction, by loops, float64."""

import math

import numpy

from tests.reference.shell_correlation import shell_correlation


def randomised_by_loop(values: numpy.ndarray, noise: numpy.ndarray, begin: int) -> numpy.ndarray:
    """Amplitudes of ``values``, phases of ``noise`` where ``|k| >= begin``."""
    box = values.shape[0]
    spectrum, other = numpy.fft.fftn(values), numpy.fft.fftn(numpy.fft.ifftshift(noise))
    # Phases count from the centre voxel in both.
    centre = numpy.fft.fftn(numpy.fft.ifftshift(values))
    signed = [i if i < (box + 1) // 2 else i - box for i in range(box)]
    for index in numpy.ndindex(box, box, box):
        if math.sqrt(sum(signed[i] ** 2 for i in index)) >= begin:
            phase = other[index] / abs(other[index])
            centre[index] = abs(spectrum[index]) * phase
    return numpy.fft.fftshift(numpy.fft.ifftn(centre).real)


def corrected_by_loop(
    masked: numpy.ndarray, randomised: numpy.ndarray, begin: int
) -> numpy.ndarray:
    """From shell begin + 2 on ``(m - r) / (1 - r)``, below it m; shell 0 not below 1."""
    curve = []
    for shell, (m, r) in enumerate(zip(masked, randomised, strict=True)):
        curve.append((m - r) / (1 - r) if shell >= begin + 2 else m)
    curve[0] = curve[0] if curve[0] > 0 else 1.0
    return numpy.array(curve)


def half_map_fsc_by_loop(
    a: numpy.ndarray, b: numpy.ndarray, mask: numpy.ndarray, noises: tuple[numpy.ndarray, ...]
) -> dict[str, numpy.ndarray | int]:
    """All four curves of two half-maps; ``noises`` give the random phases of a and b."""
    unmasked = shell_correlation(a, b)
    begin = next((s for s in range(1, len(unmasked)) if unmasked[s] < 0.8), len(unmasked) - 1)
    masked = shell_correlation(a * mask, b * mask)
    random = [
        randomised_by_loop(half, noise, begin) * mask
        for half, noise in zip((a, b), noises, strict=True)
    ]
    randomised = shell_correlation(*random)
    corrected = corrected_by_loop(masked, randomised, begin)
    return {
        "begin": begin,
        "unmasked": unmasked,
        "masked": masked,
        "phase-randomised": randomised,
        "corrected": corrected,
    }
