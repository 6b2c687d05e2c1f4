"""Options of a simulation are checked when they are given."""

import math
from pathlib import Path

import pytest

from cryogimbal.errors import InputError
from cryogimbal.simulation.settings import SimulationSettings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box": 4}, r"--box: expected at least 8 pixels, found 4"),
        ({"pixel_size": 0.0}, r"--pixel-size: expected a number above 0, found 0\.0"),
        ({"n_particles": 0}, r"--n-particles: expected a number of at least 1, found 0"),
        ({"snr": -0.1}, r"--snr: expected a number above 0, found -0\.1"),
        ({"snr": math.inf}, r"--snr: .* found inf"),
        ({"snr": math.nan}, r"--snr: .* found nan"),
        ({"seed": -1}, r"--seed: expected a number of at least 0, found -1"),
        ({"phantom_seed": -1}, r"--phantom-seed: .* found -1"),
        ({"envelope_b_factor": -3.0}, r"--envelope-b-factor: .* found -3\.0"),
        ({"shift_sd": -1.0}, r"--shift-sd: .* found -1\.0"),
        ({"astigmatism_sd": math.nan}, r"--astigmatism-sd: .* found nan"),
        ({"voltage": 0.0}, r"--voltage: expected a number above 0, found 0\.0"),
        ({"spherical_aberration": -1.0}, r"--spherical-aberration: .* found -1\.0"),
        ({"defocus_range": (2e4, 1e4)}, r"--defocus-range: .* found 20000\.0 10000\.0"),
        ({"defocus_range": (math.nan, 1e4)}, r"--defocus-range: .* found nan"),
        ({"view_density_ratio": 0.5}, r"--view-density-ratio: .* at least 1, found 0\.5"),
        ({"noise_length": -1.0}, r"--noise-length: .* found -1\.0"),
        ({"noise_floor": 0.1}, r"--noise-floor: found 0\.1 but no --noise-length"),
        ({"noise_length": 40.0, "noise_floor": math.inf}, r"--noise-floor: .* found inf"),
        ({"junk_fraction": 1.0}, r"--junk-fraction: expected 0 to below 1, found 1\.0"),
        ({"junk_fraction": math.nan}, r"--junk-fraction: .* found nan"),
        ({"junk_kinds": ()}, r"--junk-kinds: expected some of noise, edge, .* found none"),
        ({"junk_kinds": ("edge", "edge")}, r"--junk-kinds: .* each once, found edge, edge"),
        (
            {"ctf_table": Path("ctf.pkl"), "voltage": 200.0},
            r"--voltage: found 200\.0 beside --ctf-table ctf\.pkl, which has values of its own",
        ),
        ({"amplitude_contrast": 1.5}, r"--amplitude-contrast: expected 0 to 1, found 1\.5"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_flag(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SimulationSettings(**options)


def test_an_underfocus_around_zero_and_full_amplitude_contrast_are_allowed() -> None:
    settings = SimulationSettings(defocus_range=(0.0, 0.0), amplitude_contrast=1.0, shift_sd=2.0)
    assert settings.defocus_range == (0.0, 0.0)
