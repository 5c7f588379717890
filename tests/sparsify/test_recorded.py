"""A training that is killed and goes on gives the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prunedeploy.sparsify.network import network
from prunedeploy.sparsify.recipe import NetworkChoice
from prunedeploy.sparsify.recorded import Epoch, RecordedTrainer, fingerprint
from prunedeploy.sparsify.trainer import Data, Trainer, TrainSettings

SETTINGS = TrainSettings(epochs=4, batch=16, lr=0.05, augment="flip-crop")


class Killed(BaseException):
    pass


def data(count: int) -> Data:
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return Data(inputs, torch.randint(0, 10, (count,), generator=generator), (0.5,), (0.3,))


def trainer(folder: Path | None, kill_at: int = 0) -> RecordedTrainer:
    """One that is killed where so many epochs are done."""
    module = network(NetworkChoice("resnet8_digits"), (1, 8, 8), 10, 0)
    done = 0

    def told(_: str) -> None:
        nonlocal done
        done += 1
        if done == kill_at:
            raise Killed

    return RecordedTrainer(module, data(64), SETTINGS, data(32), folder, told)


def test_the_record_changes_nothing_of_the_training() -> None:
    plain = Trainer(network(NetworkChoice("resnet8_digits"), (1, 8, 8), 10, 0), data(64), SETTINGS)
    plain.run()
    recorded = trainer(None)
    recorded.run()
    assert fingerprint(recorded.module) == fingerprint(plain.module)
    assert [(epoch.call, epoch.step) for epoch in recorded.epochs] == [
        (0, 4), (0, 8), (0, 12), (0, 16),
    ]  # fmt: skip
    assert all(0 <= (epoch.accuracy or 0) <= 1 for epoch in recorded.epochs)


@pytest.mark.parametrize("kill_at", [2, 3])
def test_a_killed_training_goes_on_at_the_last_epoch(kill_at: int, tmp_path: Path) -> None:
    whole = trainer(None)
    whole.run()
    with pytest.raises(Killed):
        trainer(tmp_path, kill_at).run()
    again = trainer(tmp_path)
    again.run()
    assert again.resumed
    assert fingerprint(again.module) == fingerprint(whole.module)
    assert again.epochs == whole.epochs


def test_a_state_of_other_weights_is_not_taken(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    other = trainer(tmp_path)
    with torch.no_grad():
        next(other.module.parameters()).add_(1)
    other.run()
    assert not other.resumed


def test_a_hook_with_a_state_of_its_own_is_not_skipped(tmp_path: Path) -> None:
    seen: list[int] = []
    first = trainer(tmp_path)
    first.run(on_step=lambda step: seen.append(step))
    assert not list(tmp_path.iterdir())
    again = trainer(tmp_path)
    again.run(on_step=lambda step: seen.append(step))
    assert seen == [*range(1, 17), *range(1, 17)]


def test_an_epoch_is_plain() -> None:
    assert Epoch(0, 4, 1.0, None, 0.5).accuracy is None
