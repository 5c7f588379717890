"""Per-sample plans: when a batch is computed so, and that it gives the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from engines import build
from lowered import Small, agree, reference

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Engine
from prunedeploy.engines import opening
from prunedeploy.graph.model import save
from prunedeploy.runtimes.sparse.plan import per_sample as split
from prunedeploy.runtimes.sparse.plan.lower import lower
from prunedeploy.runtimes.sparse.plan.steps import Conv, Plan

BATCH = 16


def _network() -> ir.Model:
    """Two results, one of them an image; two inputs, one of them indices."""
    net = Small(seed=5)
    image, words = net.input("n", 3, 9, 11), net.input("n", 4, dtype=np.int64)
    x = net.node("Relu", net.conv(image, 3, 6, strides=[2, 2]))
    x = net.node("Add", net.node("Relu", net.conv(x, 6, 6, group=6)), x)
    looked = net.node("Gather", net.normal(10, 5), words, axis=0)
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x))
    joined = net.node("Concat", pooled, net.node("Flatten", looked), axis=1)
    return net.model(net.node("Gemm", joined, net.normal(26, 7), net.normal(7)), x)


def _feeds(batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "in0": random.standard_normal((batch, 3, 9, 11)).astype(np.float32),
        "in1": random.integers(-10, 10, (batch, 4)),
    }


def _plans(model: ir.Model, batch: int = BATCH) -> tuple[Plan, Plan]:
    whole, one = lower(model, batch, batch_innermost=False), lower(model, 1)
    assert isinstance(whole, Plan)
    assert isinstance(one, Plan)
    return whole, one


def _split(whole: Plan, one: Plan) -> Plan:
    found = split.per_sample_plan(whole, one, 2)
    assert found is not None
    return found


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing fits into the caches, and no map is small."""
    monkeypatch.setattr(split, "CACHED", 0)
    monkeypatch.setattr(split, "MAX_PIXELS", 0)


def test_what_fits_into_the_caches_stays_whole() -> None:
    whole, one = _plans(_network())
    assert split.per_sample_plan(whole, one, 2) is None


@pytest.mark.usefixtures("near")
def test_what_does_not_fit_is_computed_in_samples() -> None:
    net = Small()
    x = net.conv(net.input("n", 3, 9, 11), 3, 6)
    whole, one = _plans(net.model(net.conv(x, 6, 5)))
    found = split.per_sample_plan(whole, one, 2)
    assert found is not None
    assert found == replace(
        one, batch=BATCH, repeats=BATCH, inputs=whole.inputs, outputs=whole.outputs
    )
    assert found.arena == one.arena < whole.arena


@pytest.mark.usefixtures("near")
def test_the_linear_layer_at_the_end_is_computed_once_for_all_samples() -> None:
    whole, one = _plans(_network())
    found = split.per_sample_plan(whole, one, 2)
    assert found is not None
    suffix = found.suffix
    assert suffix is not None
    assert found.steps == one.steps[: len(found.steps)]
    assert isinstance(suffix.plan.steps[0], Conv)
    names = [step.name for step in (*found.steps, *suffix.plan.steps)]
    assert len(set(names)) == len(names)
    assert suffix.count == suffix.plan.steps[0].weight.shape[1] == 26
    assert suffix.plan.arena < whole.arena


@pytest.mark.usefixtures("near")
def test_no_head_where_more_than_its_input_is_needed() -> None:
    """What is added behind the first linear layer comes from before it."""
    net = Small()
    image = net.conv(net.input("n", 3, 9, 11), 3, 6)
    pooled = net.node("Flatten", net.node("GlobalAveragePool", image))
    largest = net.node("Flatten", net.node("GlobalMaxPool", image))
    first = net.node("Gemm", pooled, net.normal(6, 6), net.normal(6))
    joined = net.node("Add", first, largest)
    whole, one = _plans(net.model(net.node("Gemm", joined, net.normal(6, 4), net.normal(4))))
    suffix = _split(whole, one).suffix
    assert suffix is not None  # the second one alone
    assert [len(step.weight) for step in suffix.plan.steps if isinstance(step, Conv)] == [4]


@pytest.mark.usefixtures("near")
def test_no_head_for_images() -> None:
    """A layer of single pixels whose result scales an image is no suffix."""
    net = Small()
    image = net.conv(net.input("n", 3, 9, 11), 3, 6)
    scale = net.conv(net.node("GlobalAveragePool", image), 6, 6)
    whole, one = _plans(net.model(net.node("Mul", image, scale)))
    assert _split(whole, one).suffix is None


def test_the_limit_is_the_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, one = _plans(_network())
    monkeypatch.setattr(split, "CACHED", 4 * whole.arena)
    assert split.per_sample_plan(whole, one, 2) is None
    monkeypatch.setattr(split, "CACHED", 4 * whole.arena - 1)
    assert _split(whole, one).repeats == BATCH


@pytest.mark.usefixtures("near")
@pytest.mark.parametrize("threads", [3, 5, 32])
def test_samples_that_threads_cannot_share_stay_whole(threads: int) -> None:
    whole, one = _plans(_network())
    assert split.per_sample_plan(whole, one, threads) is None


@pytest.mark.usefixtures("near")
def test_a_result_over_the_batch_stays_whole() -> None:
    """The mean over all samples is not computed sample by sample."""
    net = Small()
    x = net.conv(net.input("n", 3, 5, 5), 3, 4)
    model = net.model(net.node("ReduceMean", x, np.array([0]), keepdims=0))
    whole, one = _plans(model)
    assert split.per_sample_plan(whole, one, 2) is None


# -- small maps ------------------------------------------------------------------------------------


def _shrinking(side: int) -> ir.Model:
    """Two blocks with residuals, the second on smaller maps, and a classifier."""
    net = Small(seed=1)
    x = net.conv(net.input("n", 3, side, side), 3, 8, 3, pads=[1] * 4)
    for strides in ([1, 1], [2, 2]):
        first = net.node("Relu", net.conv(x, 8, 8, 1))
        second = net.node("Relu", net.conv(first, 8, 8, 3, pads=[1] * 4, strides=strides))
        short = net.conv(x, 8, 8, 1, strides=strides)
        x = net.node("Relu", net.node("Add", net.conv(second, 8, 8, 1), short))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.model(net.node("Gemm", pooled, net.normal(8, 5), net.normal(5)))


def _layers(plan: Plan) -> list[tuple[int, ...]]:
    return [step.y.shape for step in plan.steps if isinstance(step, Conv)]


def test_layers_of_small_maps_are_computed_once_for_all_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the one before them, from which on one tensor is needed."""
    monkeypatch.setattr(split, "CACHED", 0)
    whole, one = _plans(_shrinking(15))
    found = _split(whole, one)
    assert found.suffix is not None
    assert (found.suffix.count, found.suffix.pixels) == (8, 225)
    assert _layers(found.suffix.plan) == [
        (BATCH, 8, 15, 15), (BATCH, 8, 8, 8), (BATCH, 8, 8, 8), (BATCH, 8, 8, 8), (BATCH, 5, 1, 1)
    ]  # fmt: skip
    assert _layers(found) == [(1, 8, 15, 15)] * 5
    wide = _split(*_plans(_shrinking(17))).suffix  # from maps of 289 pixels
    assert wide is not None
    assert (wide.count, wide.pixels) == (8, 1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("side", [13, 15, 17])
def test_small_maps_of_all_samples_agree(
    side: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "CACHED", 0)
    model = _shrinking(side)
    save(model, tmp_path / "net.onnx")
    engine = build(tmp_path / "net.onnx", tmp_path / "a.engine", batch=6, threads=threads)
    feeds = {"in0": np.random.default_rng(side).standard_normal((6, 3, side, side), np.float32)}
    with opening.open(engine, threads) as session:
        for sample in (None, 2):
            if sample is not None:
                feeds["in0"][sample] = np.nan  # which the others do not see
            (found,), (wanted,) = session.run(feeds).values(), reference(model, feeds)
            agree(found, wanted)


def _halved(net: Small) -> str:
    """Small maps, behind a layer on larger ones."""
    x = net.conv(net.input("n", 3, 12, 10), 3, 8)
    return net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])


def _dense_block(net: Small) -> str:
    """What a layer reads is put together from before and from the layer in front of it."""
    x = _halved(net)
    for width in (8, 12, 16):
        y = net.conv(net.node("Relu", x), width, 6)
        x = net.node("Concat", x, net.conv(y, 6, 4, 3, pads=[1] * 4), axis=1)
    return net.node("Flatten", net.node("GlobalAveragePool", x))


def _branches(net: Small) -> str:
    """One half of a tensor is before the only place where one tensor is needed."""
    x = _halved(net)
    y = net.node("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
    return net.node("Sigmoid", net.node("Concat", y, net.conv(x, 8, 6), axis=1))


def _tokens(net: Small) -> str:
    """The positions of all samples are one axis of a linear layer."""
    x = net.node("Reshape", _halved(net), np.array([0, 8, 30]))
    x = net.node("MatMul", net.node("Transpose", x, perm=[0, 2, 1]), net.normal(8, 5))
    return net.node("MatMul", net.node("Relu", x), net.normal(5, 4))


def _rows(net: Small) -> str:
    x = net.node("Transpose", _halved(net), perm=[0, 2, 3, 1])
    x = net.node("Gemm", net.node("Reshape", x, np.array([-1, 8])), net.normal(8, 5), net.normal(5))
    x = net.node("Gemm", net.node("Relu", x), net.normal(5, 4), net.normal(4))
    return net.node("Reshape", x, np.array([-1, 120]))


def _decoder(net: Small) -> str:
    """From single pixels to images."""
    x = net.node("GlobalAveragePool", net.conv(net.input("n", 3, 20, 20), 3, 6))
    x = net.conv(x, 6, 6)
    weight = net.normal(6, 4, 20, 20)
    return net.conv(net.node("Relu", net.node("ConvTranspose", x, weight)), 4, 3, 3)


CUTS = (_dense_block, _branches, _tokens, _rows, _decoder)


@pytest.mark.parametrize(("grown", "batch"), [*((cut, 4) for cut in CUTS), (_dense_block, 16)])
def test_what_cannot_be_put_together_is_not_cut(
    grown: Callable[[Small], str], batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "CACHED", 0)
    net = Small(seed=2)
    model = net.model(grown(net))
    save(model, tmp_path / "net.onnx")
    engine = build(tmp_path / "net.onnx", tmp_path / "a.engine", batch=batch, threads=2)
    random = np.random.default_rng(batch)
    with opening.open(engine, 2) as session:
        feeds = {
            spec.name: random.standard_normal((batch, *spec.shape[1:])).astype(np.float32)
            for spec in session.inputs
        }
        for found, wanted in zip(session.run(feeds).values(), reference(model, feeds), strict=True):
            agree(found, wanted)


def test_a_decoder_is_no_batched_suffix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "CACHED", 0)
    net = Small()
    found = _split(*_plans(net.model(_decoder(net))))
    assert found.suffix is None


# -- engines ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    save(_network(), path)
    return path


@pytest.fixture(scope="module")
def engine(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """For batches of 16, sample by sample, and of 3, which two threads do not share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "CACHED", 0)
        yield build(model, tmp_path_factory.mktemp("engine") / "e", batch=(3, BATCH), threads=2)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("batch", [16, 3, 19, 35])
def test_engines_agree_with_onnx_runtime(engine: Engine, threads: int, batch: int) -> None:
    feeds = _feeds(batch, seed=batch)
    with opening.open(engine, threads) as session:
        for _ in range(2):
            found = session.run(feeds)
            for name, wanted in zip(found, reference(_network(), feeds), strict=True):
                agree(found[name], wanted)


def test_samples_do_not_see_each_other(engine: Engine) -> None:
    feeds = _feeds(BATCH)
    with opening.open(engine, 2) as session:
        before = session.run(feeds)
        feeds["in0"][5] = np.nan
        after = session.run(feeds)
    others = np.arange(BATCH) != 5
    for name in before:
        np.testing.assert_array_equal(after[name][others], before[name][others])
        assert np.isnan(after[name][5]).any()


@pytest.mark.parametrize("sample", [0, 7, 15])
def test_an_index_outside_of_any_sample_is_an_error(engine: Engine, sample: int) -> None:
    feeds = _feeds(BATCH)
    with opening.open(engine, 2) as session:
        wanted = session.run(feeds)
        bad = {**feeds, "in1": feeds["in1"].copy()}
        bad["in1"][sample, 2] = 10
        with pytest.raises(UserError, match="cannot compute this"):
            session.run(bad)
        again = session.run(feeds)
    for name in wanted:
        np.testing.assert_array_equal(again[name], wanted[name])


def test_profiles_add_up_samples(engine: Engine) -> None:
    """The first thread's time of a step over all of its samples; work is the whole batch's."""
    with opening.open(engine, 2) as session:
        found = session.profile(_feeds(BATCH), rounds=12)
        layers = session.layers(BATCH)
        single = session.layers(3)
    assert set(found) == {BATCH}
    assert len(found[BATCH]) == 12
    for seconds in found[BATCH]:
        assert len(seconds) == len(layers)
        assert sum(seconds) < 1  # of one run, not of all that were
    # a run whose samples were all computed by the second thread has no times
    assert any(all(second > 0 for second in seconds) for seconds in found[BATCH])
    convs = [layer for layer in layers if layer["kind"] == "Conv"]
    others = [layer for layer in single if layer["kind"] == "Conv"]
    assert [layer["flops"] * 3 for layer in convs] == [layer["flops"] * BATCH for layer in others]
