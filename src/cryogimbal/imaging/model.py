"""Image formation in one page: turn, slice, shift, multiply by the CTF.

``predicted(k) = CTF(k) * shift(slice of the spectrum at k @ rotation)``: the Fourier slice theorem in
Hartley form, one row of disc coefficients per image and hypothesis. Noise is white with standard
deviation 1 per coefficient, so a squared residual is twice a negative log-likelihood.
"""

from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.fourier.disc import Disc
from cryogimbal.imaging.shifts import shift_row
from cryogimbal.imaging.volume import Decoder


@dataclass(frozen=True, kw_only=True)
class ParticleBatch:
    """Some images of a stack as the search sees them."""

    disc: Disc
    observed: Float[Tensor, "batch coefficient"]
    ctf: Float[Tensor, "batch coefficient"]
    index: Int[Tensor, " batch"]
    """Place of each image in the stack."""

    def rows(self, chosen: slice | Int[Tensor, " chosen"]) -> "ParticleBatch":
        """Some of the images, in the given order."""
        return ParticleBatch(
            disc=self.disc,
            observed=self.observed[chosen],
            ctf=self.ctf[chosen],
            index=self.index[chosen],
        )

    def centred(self, shift_box: Float[Tensor, "batch 2"]) -> "ParticleBatch":
        """The images moved back by known displacements (fractions of the box)."""
        return replace(self, observed=shift_row(self.observed, -shift_box, self.disc))

    def truncate(self, radius: float) -> "ParticleBatch":
        """The same images up to a lower band limit (cycles per box)."""
        disc = self.disc.truncate(radius)
        n = disc.n_coefficients
        return ParticleBatch(
            disc=disc, observed=self.observed[:, :n], ctf=self.ctf[:, :n], index=self.index
        )


@dataclass(frozen=True, kw_only=True)
class ImageModel:
    """Predicts images of a decoder at hypothetical poses."""

    decoder: Decoder

    def predict(
        self, hypotheses: PoseHypotheses, batch: ParticleBatch
    ) -> Float[Tensor, "batch head coefficient"]:
        """Predicted rows of every hypothesis of every image."""
        slices = self.decoder.slices(hypotheses.rotation, batch.disc)
        if hypotheses.shift_box is not None:
            slices = shift_row(slices, hypotheses.shift_box, batch.disc)
        return slices * batch.ctf[:, None]
