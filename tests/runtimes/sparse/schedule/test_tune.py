"""Tuning: measured once, remembered, and never in the way."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from convs import Layer
from engines import network
from lowered import Small

from prunedeploy.core.files import cache_folder
from prunedeploy.engines import building
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache
from prunedeploy.runtimes.sparse.plan.lower import lower
from prunedeploy.runtimes.sparse.plan.steps import Conv, Plan
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule import trials, tune
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule, geometry
from prunedeploy.runtimes.sparse.toolchain.compile import Toolchain, toolchain
from prunedeploy.targets import by_name


@pytest.fixture(scope="module")
def tools() -> Toolchain:
    return toolchain(by_name("host"))


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two candidates a case, and no optimisation: what is chosen does not matter here."""
    monkeypatch.setitem(tune.CANDIDATES, "quick", 2)
    monkeypatch.setitem(tune.ROUNDS, "quick", 1)
    monkeypatch.setattr(trials, "FLUSH", 1 << 10)


def _quick(tools: Toolchain) -> Toolchain:
    """The same compiler, faster: later flags win."""
    return dataclasses.replace(tools, flags=(*tools.flags, "-O0"))


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Two tiled layers of one shape, a depthwise and a narrow one."""
    net = Small(seed=3)
    x = net.input(1, 9, 9, 9)
    for _ in range(2):
        weight = net.normal(9, 9, 3, 3)
        weight.reshape(-1)[np.arange(weight.size) % 5 > 0] = 0
        x = net.node("Conv", x, weight, net.normal(9), pads=[1, 1, 1, 1])
    x = net.conv(x, 9, 9, group=9)
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x))
    model = net.model(net.node("Gemm", pooled, net.normal(9, 4), net.normal(4)))
    found = lower(model, 1, {})
    assert isinstance(found, Plan)
    return found


def _tiled(plan: Plan) -> list[Conv]:
    return [s for s in plan.steps if isinstance(s, Conv) and tune.is_tiled(s)]


def test_effort_none_takes_the_models_word_without_a_compiler(
    plan: Plan, tools: Toolchain, tmp_path: Path
) -> None:
    none = dataclasses.replace(tools, command=("/nowhere/cc",))
    found = tune.tune(plan, none, 2, "none", tmp_path)
    assert found.measured == 0
    assert found.schedules == {
        step.name: choose.schedule(step, tools.isa, 2) for step in _tiled(plan)
    }
    assert len(found.schedules) == 2
    assert not list(tmp_path.iterdir())


def test_what_was_measured_is_remembered(plan: Plan, tools: Toolchain, tmp_path: Path) -> None:
    told: list[str] = []
    first = tune.tune(plan, _quick(tools), 2, "quick", tmp_path, told.append)
    assert first.measured == 1  # both layers are one case
    assert set(told) == {"measuring 1 kinds of layers"}
    assert set(first.schedules) == {step.name for step in _tiled(plan)}
    for step in _tiled(plan):
        assert first.schedules[step.name] in set(choose.candidates(step, tools.isa, 2))
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    assert file.name.startswith(f"schedules-{tools.isa}-")

    none = dataclasses.replace(tools, command=("/nowhere/cc",))
    told.clear()
    second = tune.tune(plan, none, 2, "quick", tmp_path, told.append)
    assert second == dataclasses.replace(first, measured=0)
    assert 0 < first.seconds == first.without  # there are no blocks
    assert not told
    assert file.read_bytes() == before
    # another number of threads is another case: this one needs the compiler
    with pytest.raises(Exception, match=r"nowhere|compiler"):
        tune.tune(plan, none, 1, "quick", tmp_path)


def _changed(choice: dict[str, Any], **fields: object) -> dict[str, Any]:
    return {**choice, "schedule": {**choice["schedule"], **fields}}


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "no JSON": lambda data: b"\xff\xfe\x00",
    "a list": lambda data: b"[1, 2]",
    "null": lambda data: b"null",
    "no tilings": lambda data: json.dumps(dict.fromkeys(json.loads(data), 7)).encode(),
    "other fields": lambda data: json.dumps(
        {key: _changed(choice, colour=1) for key, choice in json.loads(data).items()}
    ).encode(),
    "missing fields": lambda data: json.dumps(
        {key: {"kernel": "rows"} for key in json.loads(data)}
    ).encode(),
    "wrong types": lambda data: json.dumps(
        {key: _changed(choice, tile_rows="many") for key, choice in json.loads(data).items()}
    ).encode(),
    "absurd": lambda data: json.dumps(
        {key: _changed(choice, tile_width_x8=0) for key, choice in json.loads(data).items()}
    ).encode(),
    "more rows than registers": lambda data: json.dumps(
        {key: _changed(choice, kernel="jit", rows=32) for key, choice in json.loads(data).items()}
    ).encode(),
    "a comb of programs": lambda data: json.dumps(
        {
            key: _changed(choice, kernel="jit", packing="interleaved", tile_width_x8=4)
            for key, choice in json.loads(data).items()
        }
    ).encode(),
    "rows that nobody would try": lambda data: json.dumps(
        {key: _changed(choice, kernel="rows", rows=3) for key, choice in json.loads(data).items()}
    ).encode(),
    "a whole number as a fraction": lambda data: json.dumps(
        {key: _changed(choice, groups=1.5) for key, choice in json.loads(data).items()}
    ).encode(),
    "a list for a kernel": lambda data: json.dumps(
        {key: _changed(choice, kernel=[]) for key, choice in json.loads(data).items()}
    ).encode(),
    "no time": lambda data: json.dumps(
        {key: {**choice, "seconds": "soon"} for key, choice in json.loads(data).items()}
    ).encode(),
    "no number for a time": lambda data: json.dumps(
        {key: {**choice, "seconds": float("nan")} for key, choice in json.loads(data).items()}
    ).encode(),
    "depths": lambda _: b"[" * 100_000,
}


@pytest.fixture(scope="module")
def remembered(
    plan: Plan, tools: Toolchain, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, bytes]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tune.CANDIDATES, "quick", 2)
        patch.setitem(tune.ROUNDS, "quick", 1)
        tune.tune(plan, _quick(tools), 2, "quick", folder)
    (file,) = folder.iterdir()
    return file.name, file.read_bytes()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_ignored(
    damage: str,
    plan: Plan,
    tools: Toolchain,
    remembered: tuple[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The case is measured anew, and the cache is whole again."""
    name, data = remembered
    (tmp_path / name).write_bytes(DAMAGES[damage](data))
    asked: list[str] = []

    def measured(
        cases: dict[str, Conv],
        _far: int,
        tools: Toolchain,
        threads: int,
        effort: tune.Effort,
        _blocks: BlockCache,
        _progress: tune.Progress,
    ) -> dict[str, tune.Choice]:
        """In place of the compiler: this is about the cache."""
        asked.extend(cases)
        schedules = {key: choose.schedule(step, tools.isa, threads) for key, step in cases.items()}
        return {
            key: tune.Choice(schedule, schedule, 1.0, 1.0) for key, schedule in schedules.items()
        }

    monkeypatch.setattr(tune, "_measure", measured)
    said: list[str] = []
    found = tune.tune(plan, tools, 2, "quick", tmp_path, said.append)
    assert len(asked) == found.measured == 1
    assert name in said[0]
    for step in _tiled(plan):
        geometry(step, found.schedules[step.name])
    assert tune.tune(plan, tools, 2, "quick", tmp_path) == dataclasses.replace(found, measured=0)


def test_a_folder_for_a_cache(plan: Plan, tools: Toolchain, tmp_path: Path) -> None:
    path = tune._Store(tmp_path, tools.isa, 2)._path
    path.mkdir()
    said: list[str] = []
    found = tune.tune(plan, _quick(tools), 2, "quick", tmp_path, said.append)
    assert found.measured == 1
    assert path.name in said[0]


def test_numbers_are_of_their_type_though_json_has_others(plan: Plan, tmp_path: Path) -> None:
    """1.0 is 1 for Python; what is taken is the candidate."""
    step = _tiled(plan)[0]
    schedule = choose.schedule(step, "avx512", 2)
    store = tune._Store(tmp_path, "avx512", 2)
    odd = dataclasses.replace(schedule, groups=float(schedule.groups))  # type: ignore[arg-type]
    store.update({"key": tune.Choice(odd, odd, 1.0, 1.0)})
    found = tune._Store(tmp_path, "avx512", 2).get(step, "key")
    assert found == tune.Choice(schedule, schedule, 1.0, 1.0)
    assert type(found.schedule.groups) is int


def test_a_cache_that_cannot_be_written_is_no_error(
    plan: Plan, tools: Toolchain, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    found = tune.tune(plan, _quick(tools), 2, "quick", tmp_path / "file" / "cache")
    assert found.measured == 1
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_users_cache_is_where_xdg_says(
    plan: Plan, tools: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tune.tune(plan, _quick(tools), 2, "quick")
    assert [f.name[:10] for f in (tmp_path / "prunedeploy").iterdir()] == ["schedules-"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "prunedeploy"


def test_kernels_of_other_layers_are_other_cases(plan: Plan, tmp_path: Path) -> None:
    """All that speed depends on is in the key; the values of the weights are not."""
    store = tune._Store(tmp_path, "avx512", 2)
    step = _tiled(plan)[0]
    key = store.key(step, "quick")
    same = dataclasses.replace(step, name="other", weight=-step.weight)
    assert store.key(same, "quick") == key
    others = [
        dataclasses.replace(step, residual=step.y),
        dataclasses.replace(step, pads=(0, 1, 2, 1)),
        dataclasses.replace(step, dilations=(1, 2)),
        dataclasses.replace(step, weight=np.ones_like(step.weight)),
    ]
    keys = {key, store.key(step, "full"), *(store.key(other, "quick") for other in others)}
    assert len(keys) == 6
    assert tune._Store(tmp_path, "avx512", 1).key(step, "quick") not in keys


def test_every_kernel_is_measured(plan: Plan) -> None:
    """The model's ranks do not keep a kernel from being tried."""
    step = dataclasses.replace(_tiled(plan)[0], weight=np.ones_like(_tiled(plan)[0].weight))
    schedules = choose.ranked(step, "avx512", 2)
    chosen = tune._diverse(schedules, "quick")
    assert {schedule.kernel for schedule in chosen} == {schedule.kernel for schedule in schedules}
    assert len(chosen) <= 2 * len({schedule.kernel for schedule in schedules})


def test_hopeless_kernels_are_not_measured() -> None:
    """Of a pointwise layer with half of its weights: dense blocks compute twice as much."""
    step = Layer((1, 64, 28, 28), 64, density=0.5).step
    tried = [
        tune._tried(step, "avx512", 1, effort, BlockCache()) for effort in get_args(tune.Effort)[1:]
    ]
    kernels = [{schedule.kernel for schedule in found} for found in tried]
    assert kernels == [{"jit"}, {"jit", "block"}]
    few = dataclasses.replace(step, weight=step.weight * (np.arange(64) % 4 == 0)[:, None, None])
    assert {
        schedule.kernel for schedule in tune._tried(few, "avx512", 1, "quick", BlockCache())
    } == {
        "jit",
        "rows",
    }


def test_blocks_have_to_be_faster_by_more_than_noise() -> None:
    rows, mixed = Schedule("rows", 1, 2, 4), Schedule("mixed", 1, 2, 4, rows=4)
    assert tune._choice([(1.0, rows), (0.9, mixed)]) == tune.Choice(mixed, rows, 0.9, 1.0)
    assert tune._choice([(1.0, rows), (0.99, mixed)]) == tune.Choice(rows, rows, 1.0, 1.0)
    assert tune._choice([(0.99, mixed)]) == tune.Choice(mixed, mixed, 0.99, 0.99)


def test_what_blocks_brought_is_said() -> None:
    rows, mixed = Schedule("rows", 1, 2, 4), Schedule("mixed", 1, 2, 4, rows=4)
    found = tune.Tuned({"one": rows, "two": mixed}, 0, 0.0012, 0.0015)
    assert str(found) == (
        "blocks in 1 of 2 layers: measured one by one, all take 1.20 ms, without blocks 1.50"
    )
    assert not str(tune.Tuned({"one": rows}, 0, 0.0012, 0.0012))


@pytest.mark.slow
def test_a_remembered_choice_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = network(tmp_path / "net.onnx")
    engines = [
        building.build(model, "host", "sparse", tmp_path / name, tune="quick", threads=2)
        for name in ("one", "two")
    ]
    for name in ("model.so", "model.h", "layers.json"):
        assert (engines[0].path / name).read_bytes() == (engines[1].path / name).read_bytes()
    assert list((tmp_path / "cache" / "prunedeploy").iterdir())
