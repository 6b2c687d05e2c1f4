"""What a running reconstruction tells its caller, one record at a time."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One batch is done."""

    stage: str
    epoch: int
    """From 0."""
    n_epochs: int
    """Epochs this stage will take at most."""
    images_done: int
    """Images of this epoch seen so far."""
    images_total: int
    """Images an epoch sees."""
    loss: float
    """Mean residual per coefficient of this batch."""
    half_set: int | None = None
    """Half of the stack that is searched, 1 or 2; none where all images are."""
    class_number: int | None = None
    """Class whose images are searched, from 1; none where those of all classes are."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One pass (or one step of the posterior start) is done."""

    stage: str
    epoch: int
    n_epochs: int
    images_total: int
    loss: float
    """Mean residual per coefficient over the epoch; pure noise gives 1 (squared error). In head
    training: mean sine of half the angle between the best head and the known rotation."""
    radius: float
    """Band limit in cycles per box."""
    resolution_angstrom: float
    """The same band limit as a period."""
    pose_change_median_deg: float | None = None
    """Median turn of a pose since the epoch before; none in a first epoch."""
    head_usage: tuple[float, ...] | None = None
    """Fraction of images that each head won."""
    head_loss: tuple[float, ...] | None = None
    """Mean residual of each head over all images."""
    head_error_median_deg: float | None = None
    """Median angle between the best head and the known rotation of rendered images."""
    effective_orientations: float | None = None
    """Median number of orientations that share an image's posterior."""
    half_map_resolution_angstrom: float | None = None
    """Where the FSC of the two half-maps falls below 0.143; they share their poses."""
    held_out_log_likelihood: float | None = None
    """Nats per image that each half-map gains over no map on the images of the other half, whose poses
    are shared; none while the band limit or the support of the particle is not yet the last one."""
    held_out_standard_error: float | None = None
    """What noise in the images makes of it."""
    ended: str | None = None
    """Why stage 2 or its closing ends with this epoch; none while it goes on."""
    hypotheses_per_image: float | None = None
    """Mean number of poses still alive per image."""
    changed_over: float | None = None
    """Mean share of an image's weight that went over to another of its hypotheses."""
    searched_again: int | None = None
    """Images that no hypothesis fitted and that were searched anew."""
    class_sizes: tuple[int, ...] | None = None
    """Images of each class."""
    half_set: int | None = None
    """Half of the stack that is searched, 1 or 2; none where all images are."""
    class_number: int | None = None
    """Class whose images are searched, from 1; none where those of all classes are."""


@dataclass(frozen=True, kw_only=True)
class SwitchRecord:
    """One stage hands over to the next."""

    from_stage: str
    to_stage: str
    reason: str
    half_set: int | None = None
    """Half of the stack that is searched, 1 or 2; none where all images are."""
    class_number: int | None = None
    """Class whose images are searched, from 1; none where those of all classes are."""


@dataclass(frozen=True, kw_only=True)
class NoticeRecord:
    """Something that a person should know; the run goes on."""

    text: str
    half_set: int | None = None
    """Half of the stack that is searched, 1 or 2; none where all images are."""
    class_number: int | None = None
    """Class whose images are searched, from 1; none where those of all classes are."""


Record = StepRecord | EpochRecord | SwitchRecord | NoticeRecord
