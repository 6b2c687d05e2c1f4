"""What a person sees of a run: a live display in a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
)

from cryogimbal.inference.records import EpochRecord, NoticeRecord, Record, StepRecord, SwitchRecord

TITLES = {
    "posterior_search": "posterior search",
    "class_sorting": "class sorting",
    "auto_encoding": "auto-encoding",
    "auto_decoding": "auto-decoding",
    "head_training": "head training",
    "closing": "closing",
    "pose_inference": "pose inference",
}
# The steps of the posterior search are short; one line for so many.
POSTERIOR_LINE_EVERY = 10
BARS = " ▁▂▃▄▅▆▇█"


class Display:
    """Shows records as they come; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage: tuple[str, str] | None = None
        self._task: TaskID | None = None
        self._began, self._images_before, self._images = time.monotonic(), 0, 0
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """One line, above the live display where there is one; a terminal's lines end at words."""
        self._console.print(text, markup=False, soft_wrap=not self._console.is_terminal)

    def show(self, record: Record) -> None:
        """Move on by one record."""
        if isinstance(record, NoticeRecord):
            self.say(f"{_part(record)}note: {record.text}")
            return
        if isinstance(record, SwitchRecord):
            way = f"{TITLES[record.from_stage]} → {TITLES[record.to_stage]}"
            self.say(f"{_part(record)}{way}: {record.reason}")
            return
        in_epoch = record.images_done if isinstance(record, StepRecord) else record.images_total
        images = record.epoch * record.images_total + in_epoch
        # A search that failed begins again, perhaps in the stage that it was in.
        if (record.stage, _part(record)) != self._stage or images < self._images:
            self._begin_stage(record, images)
        self._images = images
        if self._task is not None:
            self._progress.update(
                self._task,
                completed=images,
                # A stage may turn out longer than it seemed.
                total=record.n_epochs * record.images_total,
                status=self._status(record),
            )
        if isinstance(record, EpochRecord) and _is_worth_a_line(record):
            self.say(self._line(record))

    def _begin_stage(self, record: StepRecord | EpochRecord, images: int) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._stage = (record.stage, _part(record))
        self._began, self._images_before = time.monotonic(), images
        self._task = self._progress.add_task(
            f"{_part(record)}{TITLES[record.stage]}",
            total=record.n_epochs * record.images_total,
            completed=images,
            status="",
        )

    def _rate(self) -> float:
        """Images per second since the stage began or was resumed."""
        seconds = time.monotonic() - self._began
        return (self._images - self._images_before) / max(1e-3, seconds)

    def _pace(self, record: StepRecord | EpochRecord) -> str:
        if self._images <= self._images_before:
            # A stage whose batches are as large as the stack has one record in its first epoch.
            return "rate not yet known"
        images_left = record.n_epochs * record.images_total - self._images
        left = clock(images_left / max(1e-9, self._rate()))
        return f"{self._rate():,.0f} images/s · {left} left"

    def _status(self, record: StepRecord | EpochRecord) -> str:
        return (
            f"{record.epoch + 1}/{record.n_epochs} · loss {record.loss:.4f} · {self._pace(record)}"
        )

    def _line(self, record: EpochRecord) -> str:
        parts = [
            f"{_part(record)}{TITLES[record.stage]} {record.epoch + 1:>3}/{record.n_epochs}",
            f"to {record.resolution_angstrom:.1f} Å",
            f"loss {record.loss:.4f}",
        ]
        if record.effective_orientations is not None:
            parts.append(f"{record.effective_orientations:.0f} orientations an image")
        if record.head_error_median_deg is not None:
            parts.append(f"best head {record.head_error_median_deg:.1f}° off")
        if record.pose_change_median_deg is not None:
            parts.append(f"poses turned {record.pose_change_median_deg:.2f}°")
        if record.hypotheses_per_image is not None and record.hypotheses_per_image >= 1.005:
            parts.append(f"{record.hypotheses_per_image:.2f} poses an image")
        if record.searched_again:
            parts.append(f"{record.searched_again} images searched again")
        if record.class_sizes is not None:
            parts.append(f"classes of {' + '.join(map(str, record.class_sizes))} images")
            parts.append(f"{record.changed_over or 0:.1%} changed")
        if record.head_usage is not None:
            parts.append(f"heads ▕{head_bars(record.head_usage)}▏")
        parts += _of_half_maps(record)
        if not self._console.is_terminal:
            # A terminal has them in its live display.
            parts.append(self._pace(record))
        return " · ".join(parts)


def _of_half_maps(record: EpochRecord) -> list[str]:
    parts = []
    if record.half_map_resolution_angstrom is not None:
        parts.append(f"half-maps, shared poses {record.half_map_resolution_angstrom:.1f} Å")
    if record.held_out_log_likelihood is not None:
        parts.append(f"{record.held_out_log_likelihood:.2f} nats an image held out")
    return parts


def head_bars(usage: tuple[float, ...]) -> str:
    """One bar per head, as tall as its share of the images beside the largest share."""
    largest = max(*usage, 1e-9)
    return "".join(BARS[round(share / largest * (len(BARS) - 1))] for share in usage)


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def _part(record: Record) -> str:
    """What tells the searches of halves or classes apart; empty where there is one search."""
    if record.class_number is not None:
        return f"class {record.class_number} · "
    return "" if record.half_set is None else f"half {record.half_set} · "


def _is_worth_a_line(record: EpochRecord) -> bool:
    if record.stage != "posterior_search":
        return True
    done = record.epoch + 1
    return done % POSTERIOR_LINE_EVERY == 0 or done == record.n_epochs
