"""The training loop: the same numbers again, also across a stop, and what it trains on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from prunedeploy import UserError
from prunedeploy.sparsify.trainer import (
    LEARNING_RATES,
    Data,
    Trainer,
    TrainSettings,
    accuracy,
    flip_crop,
)

SETTINGS = TrainSettings(epochs=2, batch=16, augment="flip-crop", seed=3)


def data(count: int = 64) -> Data:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (count,), generator=generator)
    images = torch.randint(0, 64, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for at, label in enumerate(labels):
        images[at, 0, 2 * int(label) : 2 * int(label) + 2] += 128
    return Data(images, labels, (0.3,), (0.25,))


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(288, 4))


def weights(module: nn.Module) -> Tensor:
    return torch.cat([tensor.float().flatten() for tensor in module.state_dict().values()])


def test_a_stopped_run_goes_on_bit_identically() -> None:
    whole = Trainer(network(), data(), SETTINGS)
    whole.run()
    first = Trainer(network(), data(), SETTINGS)
    first.run(until=5)
    torch.rand(7)  # what else the process draws is of no effect
    second = Trainer(network(), data(), SETTINGS)
    second.load_state_dict(first.state_dict())
    seen: list[int] = []
    second.run(on_step=seen.append)
    assert seen == [6, 7, 8]
    assert torch.equal(weights(whole.module), weights(second.module))
    other = Trainer(network(), data(), replace(SETTINGS, seed=4))
    other.run()
    assert not torch.equal(weights(whole.module), weights(other.module))


def test_a_state_is_a_copy_that_can_be_gone_back_to() -> None:
    trainer = Trainer(network(), data(), SETTINGS)
    start = trainer.state_dict()
    before = weights(trainer.module)
    trainer.run(until=3)
    after = weights(trainer.module)
    assert not torch.equal(before, after)
    for _ in range(2):
        trainer.load_state_dict(start)
        assert trainer.step == 0
        assert torch.equal(before, weights(trainer.module))
        trainer.run(until=3)
        assert torch.equal(after, weights(trainer.module))


def test_training_learns_and_leaves_the_random_numbers_of_others() -> None:
    trainer = Trainer(network(), data(), replace(SETTINGS, epochs=15, augment="none"))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer.run()
    assert torch.equal(torch.rand(3), expected)
    assert not trainer.module.training
    assert accuracy(trainer.module, data()) == 1.0


def test_learning_rates() -> None:
    at = [0.0, 0.15, 0.3, 0.5, 0.75, 1.0]
    rates = {name: [rate(share) for share in at] for name, rate in LEARNING_RATES.items()}
    assert rates["constant"] == [1] * 6
    assert rates["steps"] == pytest.approx([1, 1, 1, 0.1, 0.01, 0.01])
    assert rates["onecycle"] == pytest.approx([0, 0.5, 1, 0.811745, 0.283058, 0], abs=1e-5)
    assert rates["cosine"] == pytest.approx([1, 0.945503, 0.793893, 0.5, 0.146447, 0], abs=1e-5)


def test_pixels_are_normalised_and_tokens_are_not() -> None:
    images = Data(torch.full((2, 1, 2, 2), 255, dtype=torch.uint8), torch.zeros(2), (0.5,), (0.25,))
    assert images.batch(torch.tensor([1])).tolist() == [[[[2, 2], [2, 2]]]]
    tokens = Data(torch.tensor([[3, 4]]), torch.zeros(1), (0.5,), (0.25,))
    assert tokens.batch(torch.tensor([0])).tolist() == [[3, 4]]


def test_a_flipped_and_moved_image_is_a_window_of_the_padded_one() -> None:
    image = torch.arange(1.0, 65).reshape(1, 1, 8, 8)
    moved = flip_crop(image.repeat(40, 1, 1, 1), torch.Generator().manual_seed(0))
    padded = [nn.functional.pad(each, (1, 1, 1, 1)) for each in (image, image.flip(3))]
    windows = [
        each[0, :, top : top + 8, left : left + 8]
        for each in padded
        for top in range(3)
        for left in range(3)
    ]
    found = [[torch.equal(one, window) for window in windows].index(True) for one in moved]
    assert len(set(found)) > 9  # of 18


def test_batches_for_scores_depend_on_the_seed_alone() -> None:
    trainer = Trainer(network(), data(), SETTINGS)
    first = trainer.batches(6, 16)
    trainer.run(until=2)
    again = trainer.batches(6, 16)
    assert [len(labels) for _, labels in first] == [16] * 6
    assert all(torch.equal(x, y) for (x, _), (y, _) in zip(first, again, strict=True))


@pytest.mark.parametrize("wrong", [{"schedule": "linear"}, {"augment": "mixup"}, {"epochs": 0}])
def test_settings_that_there_are_not(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError):
        replace(SETTINGS, **wrong)
