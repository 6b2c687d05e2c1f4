"""Grids, images and poses for tests of fused kernels, and what a naive twin says of them."""

from types import ModuleType

import torch
from torch import Tensor

from cryogimbal.fourier.disc import make_disc
from cryogimbal.imaging.kernels.contract import Hypotheses, PoseSweep
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.rotations import orthonormalise, random_rotations
from tests.reference.pose_derivatives import sweep_by_differences

# Box and oversampling.
GEOMETRIES = [(8, 1), (9, 1), (8, 2), (7, 3)]


def a_grid(box: int, oversampling: int, generator: torch.Generator) -> Tensor:
    side = 2 * -(-oversampling * box // 2) + 1
    return torch.randn(side, side, side, generator=generator, dtype=torch.float64)


def a_batch(box: int, n: int, generator: torch.Generator) -> ParticleBatch:
    disc = make_disc(box)
    ctf, observed = (
        torch.randn(n, disc.n_coefficients, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    return ParticleBatch(disc=disc, observed=observed, ctf=ctf, index=torch.arange(n))


def some_hypotheses(n: int, n_images: int, generator: torch.Generator) -> Hypotheses:
    return Hypotheses(
        rotation=orthonormalise(random_rotations(n, generator).double()),
        image=torch.randint(n_images, (n,), generator=generator),
        shift_box=0.1 * torch.randn(n, 2, generator=generator, dtype=torch.float64),
    )


def centred(hypotheses: Hypotheses) -> Hypotheses:
    return Hypotheses(rotation=hypotheses.rotation, image=hypotheses.image)


def prepared_with(kernels: ModuleType, grid: Tensor, oversampling: int) -> PreparedGrid:
    return PreparedGrid(values=kernels.prepare(grid), oversampling=oversampling, kernels=kernels)


def in_single_precision(
    grid: Tensor, hypotheses: Hypotheses, batch: ParticleBatch
) -> tuple[Tensor, Hypotheses, ParticleBatch]:
    shift = hypotheses.shift_box
    return (
        grid.float(),
        Hypotheses(
            rotation=hypotheses.rotation.float(),
            image=hypotheses.image,
            shift_box=None if shift is None else shift.float(),
        ),
        ParticleBatch(
            disc=batch.disc,
            observed=batch.observed.float(),
            ctf=batch.ctf.float(),
            index=batch.index,
        ),
    )


def expected_sweep(
    grid: Tensor, oversampling: int, hypotheses: Hypotheses, batch: ParticleBatch
) -> PoseSweep:
    parts = []
    for n, image in enumerate(hypotheses.image.tolist()):
        shift = hypotheses.shift_box
        moved = torch.zeros(2, dtype=torch.float64) if shift is None else shift[n]
        parts.append(
            sweep_by_differences(
                grid,
                (hypotheses.rotation[n], moved),
                batch.disc.frequency_index,
                oversampling,
                (batch.ctf[image], batch.observed[image]),
            )
        )
    residual, power, gradient, curvature = (torch.stack(p) for p in zip(*parts, strict=True))
    n_parameters = 3 if hypotheses.shift_box is None else 5
    return PoseSweep(
        residual=residual,
        power=power,
        gradient=gradient[:, :n_parameters],
        curvature=curvature[:, :n_parameters, :n_parameters],
    )


def assert_sweeps_agree(found: PoseSweep, expected: PoseSweep, tolerance: float) -> None:
    for name in ("residual", "power", "gradient", "curvature"):
        one, other = getattr(found, name).double(), getattr(expected, name)
        assert one.shape == other.shape
        assert float((one - other).abs().max() / other.abs().max()) < tolerance, name
