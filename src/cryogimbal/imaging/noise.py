"""What the noise of a stack is like: its power per shell and optics group, and each particle's strength.

Rows and CTFs are divided by the noise's standard deviation, so that everywhere else the noise of a
coefficient is 1, whatever its spectrum.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.fourier.disc import Disc
from cryogimbal.fourier.shells import shell_sum
from cryogimbal.fourier.transforms import image_to_hartley

# No shell is trusted beyond this, in units of the variance of the background.
LEAST_VARIANCE = 1e-3
# Robust standard deviations above the median image at which power counts as somebody else's.
OUTLIER_DEVIATIONS = 5.0
# Standard deviation of a normal distribution over its median absolute deviation.
NORMAL_OVER_MAD = 1.4826


@dataclass(frozen=True, kw_only=True)
class NoiseModel:
    """Noise per shell of each optics group, and the scale of each particle's signal.

    The tensors are estimates that a run makes better: they change in place, for all who hold them.
    """

    variance: Float[Tensor, "group shell"]
    """Of a Hartley coefficient, per shell ``round(|k|)`` of the working box, from shell 0."""
    scale: Float[Tensor, " particle"]
    """Strength of each particle's signal beside that of the others, 1 for a usual one."""
    group: Int[Tensor, " particle"]
    """Optics group of each particle, from 0."""
    trust: Float[Tensor, " particle"]
    """Share with which each image counts in maps and in what is measured of the noise: 1 for a
    particle, towards 0 for what looks like none."""
    excess: Float[Tensor, " particle"] | None = None
    """Variance of each image's noise beside that of its group, 1 for a usual one; none: all are."""
    estimated: bool = True
    """Whether variance and scale are to be made better."""

    @classmethod
    def white(cls, n_particles: int, box: int, group: Int[Tensor, " particle"]) -> "NoiseModel":
        """Variance 1 everywhere, all particles as strong as each other, for good."""
        n_groups = int(group.max()) + 1 if len(group) else 1
        return cls(
            variance=torch.ones(n_groups, box // 2 + 1, device=group.device),
            scale=torch.ones(n_particles, device=group.device),
            group=group,
            trust=torch.ones(n_particles, device=group.device),
            estimated=False,
        )

    def weight(
        self, index: Int[Tensor, " batch"], disc: Disc
    ) -> Float[Tensor, "batch coefficient"]:
        """One over the noise's standard deviation, for every coefficient of some particles.

        The last shell stands for all beyond it.
        """
        per_shell = self.variance[self.group[index]].rsqrt()
        if self.excess is not None:
            per_shell = per_shell * self.excess[index].rsqrt()[:, None]
        return per_shell[:, disc.shell_per_coefficient.clamp(max=per_shell.shape[1] - 1)]

    def subset(self, index: Int[Tensor, " chosen"]) -> "NoiseModel":
        """Of the chosen particles; the variance stays that of all, later changes included."""
        excess = None if self.excess is None else self.excess[index]
        return replace(
            self,
            scale=self.scale[index],
            group=self.group[index],
            trust=self.trust[index],
            excess=excess,
        )

    def copy(self) -> "NoiseModel":
        """The same values, which change apart from these."""
        return replace(
            self,
            variance=self.variance.clone(),
            scale=self.scale.clone(),
            trust=self.trust.clone(),
            excess=None if self.excess is None else self.excess.clone(),
        )

    def to(self, device: torch.device | str) -> "NoiseModel":
        """The same on another device."""
        return replace(
            self,
            variance=self.variance.to(device),
            scale=self.scale.to(device),
            group=self.group.to(device),
            trust=self.trust.to(device),
            excess=None if self.excess is None else self.excess.to(device),
        )

    def enter(self, variance: Float[Tensor, "group shell"]) -> None:
        """Replace the variance, in place."""
        self.variance.copy_(variance.clamp_min(LEAST_VARIANCE))

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs."""
        named = {
            "variance": self.variance,
            "scale": self.scale,
            "trust": self.trust,
            "excess": self.excess,
        }
        return {name: held.clone() for name, held in named.items() if held is not None}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a checkpoint, in place."""
        self.variance.copy_(state["variance"])
        self.scale.copy_(state["scale"])
        self.trust.copy_(state["trust"])
        if self.excess is not None and "excess" in state:
            self.excess.copy_(state["excess"])


class BackgroundSpectrum:
    """Mean power per shell of what lies outside the particles' circle, gathered group by group.

    Seen through a window w, noise of variance ``v(k)`` has the mean power ``v * |W|^2 / mean(w^2)``:
    its own spectrum, smoothed by the window's, which is narrow beside most spectra of ice and detector.
    """

    def __init__(self, window: Float[Tensor, "box box"], n_groups: int) -> None:
        box = window.shape[-1]
        self._window = window
        self._sum = torch.zeros(n_groups, box // 2 + 1, dtype=torch.float64)
        self._n = torch.zeros(n_groups, box // 2 + 1, dtype=torch.float64)
        self._per_shell = shell_sum(torch.ones(box, box, dtype=torch.float64), 2)

    def add(
        self,
        images: Float[Tensor, "batch box box"],
        group: Int[Tensor, " batch"],
        filtered: Float[Tensor, "batch box box"] | None = None,
    ) -> None:
        """Take in images whose background has mean 0.

        ``filtered`` is what the power of their noise has been multiplied by since it was made, at each
        sample of the centred spectrum; the variance is that of before.
        """
        power = image_to_hartley(images * self._window).square()
        for number in group.unique().tolist():
            chosen = power[group == number]
            self._sum[number] += shell_sum(chosen.double().sum(0), 2)
            if filtered is None:
                self._n[number] += len(chosen)
            else:
                passed = filtered[group == number].double().sum(0)
                self._n[number] += shell_sum(passed, 2) / self._per_shell

    @property
    def seen(self) -> bool:
        """Whether there has been any image."""
        return bool(self._n.any())

    def variance(self, n_shells: int) -> Float[Tensor, "group shell"]:
        """Of a Hartley coefficient in the first shells; groups without an image have that of all."""
        energy = self._window.double().square().mean()
        total = self._sum / (self._per_shell * energy)
        tiny = torch.finfo(total.dtype).tiny
        mean = total.sum(0) / self._n.sum(0).clamp_min(tiny)
        found = torch.where(self._n == 0, mean, total / self._n.clamp_min(tiny))
        # The background's own mean has been subtracted, which says nothing of that of the image.
        found[:, 0] = found[:, 1]
        return found[:, :n_shells].float()


def excess_of_power(power: Float[Tensor, " particle"]) -> Float[Tensor, " particle"]:
    """How much noisier than the others images are whose power stands out: bright spots, edges of frames.

    A few of them would rule every average over the stack.
    """
    usual = power.median()
    spread = NORMAL_OVER_MAD * (power - usual).abs().median()
    stands_out = power > usual + OUTLIER_DEVIATIONS * spread
    return torch.where(stands_out, power / usual, 1.0)


def shell_mean(
    rows: Float[Tensor, "*batch coefficient"], disc: Disc
) -> Float[Tensor, "*batch shell"]:
    """Mean of rows over each shell ``round(|k|)`` of a disc, from shell 0."""
    shell = disc.shell_per_coefficient
    n_shells = int(shell[-1]) + 1
    total = rows.new_zeros(*rows.shape[:-1], n_shells).index_add(-1, shell, rows)
    return total / torch.bincount(shell, minlength=n_shells)
