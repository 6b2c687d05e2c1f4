"""Tables and images that other programs made: read as those programs mean them, or refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from cryogimbal.errors import InputError
from cryogimbal.io.star import read_particles, read_poses
from cryogimbal.io.star_optics import read_optics, read_pixel_size
from cryogimbal.io.star_table import read_table

# What becomes of each table whose images are not in the reference data, and of those that are no
# particles: rows, or a piece of the refusal.
TABLES = {
    "metadata/cryodrgn/FinalRefinement-OriginalParticles-PfCRT.star": 5,
    "metadata/cryodrgn/relion31.6opticsgroups.star": 139,
    "metadata/cryodrgn/relion5.star": 17,
    "metadata/cryodrgn/sta_testing_bin8.star": 219,
    "metadata/cryojax/ribosome_4ug0_particles.star": 5,
    "metadata/cryojax/test_starfile.star": 3,
    "metadata/cryolike/relion_style_particles.star": 106,
    "metadata/scipion_esrf/input_particles.star": 2021,
    "metadata/cryolike/particle_data.star": "column _rlnImageName, found only data_images",
    "metadata/starfile/one_loop.star": "found no _rlnDefocusU",
    "metadata/starfile/postprocess.star": "found only data_general, data_fsc, data_guinier",
    "metadata/starfile/rln3.1_data_style.star": "found 2: data_block_2, data_block_3",
    "particles/aspire/sample_data_model.star": "found only data_model_general",
    "particles/cryodrgn_synthetic/toy_projections.star": "expected a pixel size",
}
# Images, their number, box and pixel size.
PARTICLES = {
    "particles/aspire/sample_particles_relion30.star": (17, 200, 1.338),
    "particles/aspire/sample_particles_relion31.star": (17, 200, 1.4),
    "particles/aspire/sample_relion_symmetry_group_D4.star": (17, 200, 1.338),
    "particles/aspire/sample_incomplete_ctf_params.star": (1, 200, 1.338),
    "particles/cryodrgn/empiar_10076_7.star": (7, 320, 1.31),
    "particles/cryodrgn/relion31.star": (5, 256, 2.806),
    "particles/cryodrgn/relion31.v2.star": (5, 256, 2.806),
    "particles/convention_relion_pointmass/relion_proj_batch.star": (24, 64, 3.54),
}


class ArraysOnly(pickle.Unpickler):
    """Unpickler for arrays of numpy and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if name in ("_reconstruct", "ndarray", "dtype", "scalar") and module.startswith("numpy"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def load_arrays(path: Path) -> object:
    with path.open("rb") as file:
        return ArraysOnly(file).load()


def test_every_reference_table_is_expected_here(reference_data: Path) -> None:
    found = {str(p.relative_to(reference_data)) for p in reference_data.rglob("*.star")}
    assert found == set(TABLES) | set(PARTICLES)


@pytest.mark.parametrize("name", TABLES)
def test_table_is_read_or_refused(reference_data: Path, name: str) -> None:
    expected = TABLES[name]
    path = reference_data / name
    if isinstance(expected, str):
        with pytest.raises(InputError) as caught:
            read_particles(path)
        assert expected in str(caught.value) and str(path) in str(caught.value)
        return
    optics = read_optics(read_table(path))
    assert len(optics.index) == expected
    assert optics.ctf.voltage_kilovolt.min() >= 100
    with pytest.raises(InputError, match="no such image file; tried"):
        read_particles(path)


def test_the_table_with_six_groups_has_their_pixel_sizes(reference_data: Path) -> None:
    path = reference_data / "metadata/cryodrgn/relion31.6opticsgroups.star"
    sizes = read_optics(read_table(path)).pixel_size_angstrom
    assert {1.24, 1.25} <= {round(float(size), 4) for size in sizes}


@pytest.mark.parametrize("name", PARTICLES)
def test_real_particles_have_sane_values(reference_data: Path, name: str) -> None:
    n_images, box, pixel_size = PARTICLES[name]
    stack, _ = read_particles(reference_data / name)
    images = stack.images.read(torch.arange(n_images))
    assert images.shape == (n_images, box, box)
    assert images.isfinite().all()
    assert stack.pixel_size_angstrom == pytest.approx(pixel_size, abs=2e-3)
    assert 5e3 < stack.ctf.defocus_u_angstrom.mean() < 4e4
    if "pointmass" not in name:  # extracted by RELION: background of mean 0 and deviation 1
        corner = images[:, : box // 8, : box // 8]
        assert corner.mean().abs() < 0.3
        assert 0.8 < corner.std() < 1.2
        spread = images.flatten(1).std(1)
        assert ((spread > 0.8) & (spread < 1.3)).all()


def test_both_dialects_of_the_same_particles_agree(reference_data: Path) -> None:
    old, _ = read_particles(reference_data / "particles/aspire/sample_particles_relion30.star")
    new, _ = read_particles(reference_data / "particles/aspire/sample_particles_relion31.star")
    assert torch.equal(old.ctf.defocus_u_angstrom, new.ctf.defocus_u_angstrom)
    assert torch.equal(old.ctf.voltage_kilovolt, new.ctf.voltage_kilovolt)
    assert old.poses is not None and new.poses is not None
    # The files themselves differ in the angles of image 15.
    same = [row for row in range(17) if row != 14]
    assert torch.equal(old.poses.rotation[same], new.poses.rotation[same])


def test_poses_of_relion_30_as_cryodrgn_reads_them(reference_data: Path) -> None:
    folder = reference_data / "metadata/cryodrgn"
    path = folder / "FinalRefinement-OriginalParticles-PfCRT.star"
    rotation, shift_of_box = load_arrays(folder / "pose.star.pkl")
    ctf = load_arrays(folder / "ctf1.pkl")
    poses = read_poses(path)
    assert np.allclose(poses.rotation.numpy(), rotation, atol=1e-6)
    # cryoDRGN keeps RELION's origin in units of the box; ours is the opposite, in Å.
    box, pixel_size = ctf[:, :1], ctf[:, 1:2]
    expected = -shift_of_box * box * pixel_size
    assert np.allclose(poses.shift_angstrom.numpy(), expected, atol=1e-5)


def test_ctf_of_relion_30_as_cryodrgn_reads_it(reference_data: Path) -> None:
    folder = reference_data / "metadata/cryodrgn"
    table = read_table(folder / "FinalRefinement-OriginalParticles-PfCRT.star")
    expected = load_arrays(folder / "ctf1.pkl")
    optics = read_optics(table)
    ctf = optics.ctf
    assert np.allclose(read_pixel_size(table), expected[:, 1])
    columns = [
        ctf.defocus_u_angstrom,
        ctf.defocus_v_angstrom,
        torch.rad2deg(ctf.defocus_angle_rad),
        ctf.voltage_kilovolt,
        ctf.spherical_aberration_mm,
    ]
    assert np.allclose(torch.stack(columns, 1).numpy(), expected[:, 2:7], rtol=1e-6)
    # The table has no amplitude contrast; cryoDRGN was told 0.1 by hand.
    assert "_rlnAmplitudeContrast" in optics.warnings[0]


def test_a_point_mass_lies_where_pose_and_shift_put_it(reference_data: Path) -> None:
    # p appears at (A p)_xy + shift; p, the same for all images, is found by least squares.
    folder = reference_data / "particles/convention_relion_pointmass"
    stack, _ = read_particles(folder / "relion_proj_batch.star")
    poses = stack.poses
    assert poses is not None and stack.given_shift_angstrom is not None
    assert torch.equal(stack.given_shift_angstrom, poses.shift_angstrom)
    # The CTF spreads a point evenly to opposite sides: the energy's centroid stays on it.
    energy = stack.images.read(torch.arange(24)).square()
    place = torch.arange(64.0) - 32
    x, y = (energy.sum(axis) @ place / energy.sum((1, 2)) for axis in (1, 2))
    seen = stack.pixel_size_angstrom * torch.stack([x, y], dim=1)
    matrix = poses.rotation[:, :2].flatten(0, 1)

    def misfit_px(shift: torch.Tensor) -> float:
        point = torch.linalg.lstsq(matrix, (seen - shift).flatten()[:, None]).solution
        error = matrix @ point - (seen - shift).flatten()[:, None]
        return error.square().mean().sqrt().item() / stack.pixel_size_angstrom

    assert misfit_px(poses.shift_angstrom) < 0.5
    assert misfit_px(-poses.shift_angstrom) > 4
    assert misfit_px(torch.zeros_like(seen)) > 2
