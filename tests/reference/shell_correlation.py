"""Fourier shell correlation by one loop over all voxels, float64."""

import math

import numpy


def shell_correlation(a: numpy.ndarray, b: numpy.ndarray) -> numpy.ndarray:
    """Shells ``round(|k|)`` from 0 to ``box // 2`` of two cubes."""
    box = a.shape[0]
    spectrum_a, spectrum_b = numpy.fft.fftn(a), numpy.fft.fftn(b)
    signed = [i if i < (box + 1) // 2 else i - box for i in range(box)]
    cross, power_a, power_b = ([0.0] * (box // 2 + 1) for _ in range(3))
    for index in numpy.ndindex(box, box, box):
        shell = math.floor(math.sqrt(sum(signed[i] ** 2 for i in index)) + 0.5)
        if shell > box // 2:
            continue
        fa, fb = complex(spectrum_a[index]), complex(spectrum_b[index])
        cross[shell] += (fa.conjugate() * fb).real
        power_a[shell] += abs(fa) ** 2
        power_b[shell] += abs(fb) ** 2
    return numpy.array(
        [c / math.sqrt(p * q) for c, p, q in zip(cross, power_a, power_b, strict=True)]
    )
