"""The switch is decided by what the run measures."""

from cryogimbal.inference.config_stages import SwitchConfig
from cryogimbal.inference.records import EpochRecord
from cryogimbal.inference.switching import SwitchRule


def record(epoch: int, loss: float, change: float | None, n_epochs: int = 100) -> EpochRecord:
    return EpochRecord(
        stage="auto_encoding",
        epoch=epoch,
        n_epochs=n_epochs,
        images_total=10,
        loss=loss,
        radius=8.0,
        resolution_angstrom=40.0,
        pose_change_median_deg=change,
        head_usage=(0.4, 0.3, 0.3),
    )


def first_switch(rule: SwitchRule, losses: list[float], changes: list[float | None]) -> int | None:
    for epoch, (loss, change) in enumerate(zip(losses, changes, strict=True)):
        if rule.reason_to_switch(record(epoch, loss, change)):
            return epoch
    return None


def test_no_switch_while_poses_jump_between_modes() -> None:
    rule = SwitchRule(config=SwitchConfig())
    assert first_switch(rule, [2.0] * 30, [None] + [90.0] * 29) is None


def test_no_switch_while_the_loss_still_falls() -> None:
    rule = SwitchRule(config=SwitchConfig(improvement=0.05, patience=3))
    losses = [2.0 * 0.9**epoch for epoch in range(20)]
    assert first_switch(rule, losses, [None] + [5.0] * 19) is None


def test_switch_once_settled_and_stalled_with_a_reason_that_says_so() -> None:
    rule = SwitchRule(config=SwitchConfig(patience=3, settled_deg=30.0))
    losses = [2.0, 1.8, 1.5, 1.2, 1.1, 1.099, 1.099, 1.099, 1.099]
    changes = [None, 120.0, 100.0, 60.0, 14.0, 12.0, 12.0, 11.0, 11.0]
    epochs = [
        rule.reason_to_switch(record(epoch, loss, change))
        for epoch, (loss, change) in enumerate(zip(losses, changes, strict=True))
    ]
    switched = next(epoch for epoch, reason in enumerate(epochs) if reason)
    assert switched == 7
    assert "11.0°" in (epochs[switched] or "")


def test_fixed_rule_waits_for_the_last_epoch() -> None:
    rule = SwitchRule(config=SwitchConfig(rule="fixed"))
    for epoch in range(6):
        assert rule.reason_to_switch(record(epoch, 1.0, 0.1, n_epochs=7)) is None
    assert rule.reason_to_switch(record(6, 1.0, 0.1, n_epochs=7)) == "all 7 epochs are done"
