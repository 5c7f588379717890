"""Training after one shot: nearer to the dense outputs, and no zero lost."""

from __future__ import annotations

import torch
from sparse_nets import Small, stripes, trainer

from prunedeploy import OneShotOptions
from prunedeploy.sparsify.oneshot.distill import distill
from prunedeploy.sparsify.oneshot.one_shot import one_shot


def test_distillation_comes_nearer_and_holds_the_masks() -> None:
    training = trainer()
    training.run()
    dense, data = training.module.requires_grad_(False), stripes()
    inputs = data.batch(torch.arange(256))
    done = one_shot(dense, [inputs], OneShotOptions(density=0.1, method="magnitude"))
    before = (done.module(inputs) - dense(inputs)).square().mean()
    distill(done.module, dense, inputs, done.masks, 30)
    after = (done.module(inputs) - dense(inputs)).square().mean()
    assert after < before
    assert not done.module.training
    for name, mask in done.masks.items():
        assert not done.module.get_parameter(name)[~mask].any()


def test_labels_train_and_the_masks_hold() -> None:
    data = stripes()
    inputs = data.batch(torch.arange(256))
    options = OneShotOptions(density=0.5, finetune=2)
    done = one_shot(Small(), [inputs], options, labels=data.labels)
    right = (done.module(inputs).argmax(1) == data.labels).float().mean()
    assert right > 0.5  # of four classes, by a network that knew none
    assert not done.module.conv3.weight[~done.masks["conv3.weight"]].any()
