"""The disc: Hartley coefficients inside a radius, as one row sorted by radius.

Row layout: the zero frequency first, then pairs ``k, -k`` side by side, by growing radius. So a band
limit is a prefix of the row, and ``H(-k)``, which shifts and real-space symmetry need, is a swap of
neighbours. The only meeting point of array order (y, x) and vector order (x, y).
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Disc:
    """Frequencies of a square box with ``|k| <= radius`` (cycles per box) and ``|k| < box / 2``.

    The bound keeps an even box's lone Nyquist row out: every coefficient has its mirror mate.
    """

    box: int
    radius: float
    frequency_index: Float[Tensor, "coefficient 2"]
    """Integer (kx, ky) in cycles per box, as float32."""

    @property
    def n_coefficients(self) -> int:
        """Length of a row."""
        return self.frequency_index.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the index tensors."""
        return self.frequency_index.device

    @cached_property
    def radius_per_coefficient(self) -> Float[Tensor, " coefficient"]:
        """``|k|`` in cycles per box, never decreasing along the row."""
        return self.frequency_index.norm(dim=-1)

    @cached_property
    def shell_per_coefficient(self) -> Int[Tensor, " coefficient"]:
        """Shell number ``round(|k|)`` of each coefficient."""
        return self.radius_per_coefficient.double().round().long()

    @cached_property
    def square_index(self) -> Int[Tensor, " coefficient"]:
        """Place of each coefficient in the flattened centred square spectrum."""
        column, row = (self.frequency_index.long() + self.box // 2).unbind(-1)
        return row * self.box + column

    def prefix(self, radius: float) -> int:
        """How many leading coefficients have ``|k| <= radius``."""
        squares = self.frequency_index.square().sum(-1)
        return int((squares <= radius * radius + 1e-6).sum())

    def truncate(self, radius: float) -> "Disc":
        """The smaller disc whose rows are prefixes of this one's rows."""
        if radius >= self.radius:
            return self
        return Disc(
            box=self.box,
            radius=radius,
            frequency_index=self.frequency_index[: self.prefix(radius)],
        )

    def to(self, device: torch.device | str) -> "Disc":
        """The same disc on another device."""
        return Disc(
            box=self.box, radius=self.radius, frequency_index=self.frequency_index.to(device)
        )

    def gather(
        self, square: Float[Tensor, "*batch box box"]
    ) -> Float[Tensor, "*batch coefficient"]:
        """Rows of centred square spectra."""
        return square.flatten(-2)[..., self.square_index]

    def scatter(self, rows: Float[Tensor, "*batch coefficient"]) -> Float[Tensor, "*batch box box"]:
        """Centred square spectra of rows; zero outside the disc."""
        square = rows.new_zeros(*rows.shape[:-1], self.box * self.box)
        square[..., self.square_index] = rows
        return square.unflatten(-1, (self.box, self.box))


@lru_cache(maxsize=32)
def make_disc(box: int, radius: float | None = None) -> Disc:
    """Disc of a box, up to just below Nyquist when no radius (cycles per box) is given.

    Raises
    ------
    ValueError
        If the box is smaller than 2 or the radius negative.
    """
    if box < 2 or (radius is not None and radius < 0):
        raise ValueError(f"a disc needs a box of at least 2 and a radius >= 0: {box=}, {radius=}")
    limit = box / 2 if radius is None else min(radius, box / 2)
    axis = torch.arange(-(box // 2), (box + 1) // 2)
    ky, kx = torch.meshgrid(axis, axis, indexing="ij")
    kx, ky = kx.flatten(), ky.flatten()
    squares = kx.square() + ky.square()
    # One of each pair k, -k; the zero frequency is put in front afterwards.
    half = (ky > 0) | ((ky == 0) & (kx > 0))
    inside = (squares.double() <= limit * limit + 1e-6) & (4 * squares < box * box) & half
    kx, ky, squares = kx[inside], ky[inside], squares[inside]
    order = torch.argsort(squares, stable=True)
    chosen = torch.stack([kx[order], ky[order]], dim=-1)
    pairs = torch.stack([chosen, -chosen], dim=1).flatten(0, 1)
    frequency_index = torch.cat([torch.zeros(1, 2, dtype=pairs.dtype), pairs]).float()
    return Disc(box=box, radius=limit, frequency_index=frequency_index)


def mirror_row(rows: Float[Tensor, "*batch coefficient"]) -> Float[Tensor, "*batch coefficient"]:
    """``H(-k)`` of every coefficient."""
    pairs = rows[..., 1:].unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.cat([rows[..., :1], pairs], dim=-1)
