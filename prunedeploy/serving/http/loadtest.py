"""Load tests: clients that ask as fast as they are answered, and check every answer."""

from __future__ import annotations

import http.client
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, Dim, Engine, TensorSpec
from prunedeploy.engines import engine_folder, opening
from prunedeploy.engines.sizes import each_engine, refuse_several
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.reference.verify import Tolerance, compare
from prunedeploy.runtimes.api import silent
from prunedeploy.serving.http.client import Client, Form, Message, message
from prunedeploy.serving.http.launch import launched
from prunedeploy.serving.http.options import ServeOptions
from prunedeploy.serving.http.plan import padded, plan_of

CASES = 16  # different requests, so that answers that are mixed up are seen
MAX_WAIT = 1.0  # seconds before a client that was refused asks again

Verdict = Literal["right", "wrong", "refused", "lost"]


@dataclass(frozen=True)
class LoadLevel:
    """The result with one number of clients at a time, for about ``seconds``.

    Attributes:
        right: answers that were compared and passed; the latencies are theirs, in milliseconds.
        refused: requests that the server had no room for (status 503), and that were sent again.
        wrong: other answers; ``problem`` says of the first one what is wrong with it.
        lost: requests without an answer.
    """

    clients: int
    seconds: float
    right: int
    refused: int
    wrong: int
    lost: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    problem: str = ""

    @property
    def requests_per_second(self) -> float:
        """Right answers a second."""
        return self.right / self.seconds


@dataclass(frozen=True)
class LoadResult:
    """The result of ``prunedeploy.loadtest``: one level for each number of clients.

    ``reference`` is what answers were compared with: the name of an engine, or of the server.
    """

    server: str
    model: str
    form: Form
    batch: int
    reference: str
    levels: tuple[LoadLevel, ...]

    @property
    def passed(self) -> bool:
        """Whether answers came, and every one was right."""
        return all(level.right and not level.wrong + level.lost for level in self.levels)


@dataclass(frozen=True)
class _Case:
    """A request, and the answer to it."""

    request: Message
    expected: Mapping[str, Array]


@dataclass(frozen=True)
class _Outcome:
    verdict: Verdict
    nanoseconds: int
    problem: str = ""


def loadtest(
    server: str | Path,
    *,
    model: str = "",
    engine: str | Path | None = None,
    clients: Sequence[int] = (1, 8, 50),
    seconds: float = 10.0,
    batch: int = 1,
    form: Form = "binary",
    inputs: Mapping[str, Array] | Array | None = None,
    options: ServeOptions | None = None,
    progress: Callable[[str], None] = silent,
) -> LoadResult:
    """Measure throughput and latency of a server of the V2 protocol, and check every answer.

    Each client has a connection, and sends its next request when it has the answer to the last.

    Args:
        server: its URL; or an engine, which is then served for the test, and compared with.
        model: of the server, where it has several.
        engine: to compare answers with; by default those that the server gives to the same
            requests one at a time, before the load.
        clients: how many ask at a time, one number after another.
        seconds: how long each number of clients asks.
        batch: samples of a request.
        form: how tensors are sent, as bytes or as JSON.
        inputs: samples to send, for the only input or by name; random ones by default.
        options: of the server that is started for an engine.
        progress: called with a line of text for each step.

    Returns:
        Throughput, latencies, and the answers that were wrong or lost, for each number of clients.

    Raises:
        UserError: no such server, model or engine, it does not answer, or not as the engine does.

    Example:
        >>> import prunedeploy
        >>> result = prunedeploy.loadtest("net.engine", clients=(8,))  # doctest: +SKIP
    """
    if not clients or min(clients) < 1 or seconds <= 0 or batch < 1:
        raise UserError("give numbers of clients, seconds and samples above 0")
    with ExitStack() as stack:
        url = str(server)
        here = "://" not in url and (":" not in url or Path(url).exists())
        compared = engine if engine is not None or not here else url
        known = None if compared is None else engine_folder.read_engine(compared)
        if here:
            progress(f"starting a server for {url}")
            url = stack.enter_context(launched(Path(url), options or ServeOptions()))
        one = Client(url)
        stack.callback(one.close)
        name = model or _only_model(one)
        if known is not None and inputs is not None:
            refuse_several(known, "a load test with given inputs")
        progress("computing what the answers should be")
        cases: list[_Case] = []
        for size in (None,) if known is None else each_engine(known):
            feeds = _feeds(_inputs(one, name, size), batch, inputs)
            expected, tolerance = _expected(one, name, size, feeds, form)
            cases += [
                _Case(message(each, form), answer)
                for each, answer in zip(feeds, expected, strict=True)
            ]
        levels = []
        for count in clients:
            progress(f"{count} clients for {seconds:g} s")
            levels.append(_level(url, name, cases, tolerance, count, seconds))
    reference = url if known is None else known.path.name
    return LoadResult(str(server), name, form, batch, reference, tuple(levels))


def _only_model(client: Client) -> str:
    names = client.get("/v2/models").get("models", [])
    if len(names) != 1:
        raise UserError(f"the server has the models {', '.join(names)}: name one with --model")
    return str(names[0])


def _inputs(client: Client, model: str, engine: Engine | None) -> tuple[TensorSpec, ...]:
    """What the model takes, and where the engine is at hand, how random inputs are drawn for it."""
    specs = client.inputs(model)
    known = {spec.name: spec for spec in engine.manifest.inputs} if engine else {}
    if engine and set(known) != {spec.name for spec in specs}:
        raise UserError(f"{engine.path} is another network than {model} of the server")
    return tuple(
        replace(own, shape=tuple(map(_closed, itertools.count(), spec.shape, own.shape)))
        for spec in specs
        for own in (known.get(spec.name, spec),)
    )


def _closed(axis: int, served: Dim, known: Dim) -> Dim:
    """A size of an input: that of the engine's where a server of several sizes leaves it open."""
    return known if axis and isinstance(served, str) and isinstance(known, int) else served


def _feeds(
    specs: tuple[TensorSpec, ...], batch: int, inputs: Mapping[str, Array] | Array | None
) -> list[dict[str, Array]]:
    """The inputs of the requests."""
    if inputs is None:
        return [random_feeds(specs, batch, seed) for seed in range(CASES)]
    given = inputs if isinstance(inputs, Mapping) else {specs[0].name: inputs}
    samples = min((len(array) for array in given.values()), default=0)
    if samples < batch:
        raise UserError(f"the inputs have {samples} samples: a request takes {batch}")
    begins = range(0, samples - batch + 1, batch)
    return [{n: array[i : i + batch] for n, array in given.items()} for i in begins]


def _expected(
    client: Client, model: str, engine: Engine | None, feeds: list[dict[str, Array]], form: Form
) -> tuple[list[Mapping[str, Array]], Tolerance]:
    """The answers, and how far others may be from them."""
    if engine is None:
        replies = [client.infer(model, message(each, form)) for each in feeds]
        if problem := next((x.problem for x in replies if not x.outputs), ""):
            raise UserError(f"{model} does not answer: {problem}")
        return [reply.outputs for reply in replies], None
    built = engine.manifest.difference
    tolerance = None if built is None else built.tolerances or built.tolerance
    with opening.open(engine) as session:
        plan = plan_of(session, engine.manifest)
        answers: list[Mapping[str, Array]] = []
        for each in feeds:
            samples = len(next(iter(each.values()))) if plan.largest else 0
            results = session.run(padded(each, samples, plan.total(samples)))
            answers.append({n: x[:samples] if samples else x for n, x in results.items()})
    return answers, tolerance


def _level(
    url: str, model: str, cases: list[_Case], tolerance: Tolerance, clients: int, seconds: float
) -> LoadLevel:
    begin = time.monotonic()
    end = begin + seconds

    def client(number: int) -> list[_Outcome]:
        return _ask(Client(url), model, cases, tolerance, number, end)

    with ThreadPoolExecutor(clients) as pool:
        outcomes = [one for each in pool.map(client, range(clients)) for one in each]
    took = time.monotonic() - begin
    times = np.array([x.nanoseconds for x in outcomes if x.verdict == "right"] or [0]) / 1e6
    p50, p90, p99 = (float(x) for x in np.percentile(times, (50, 90, 99)))
    verdicts = [each.verdict for each in outcomes]
    return LoadLevel(
        clients=clients,
        seconds=took,
        right=verdicts.count("right"),
        refused=verdicts.count("refused"),
        wrong=verdicts.count("wrong"),
        lost=verdicts.count("lost"),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        max_ms=float(times.max()),
        problem=next((x.problem for x in outcomes if x.verdict in ("wrong", "lost")), ""),
    )


def _ask(
    client: Client, model: str, cases: list[_Case], tolerance: Tolerance, number: int, end: float
) -> list[_Outcome]:
    """What became of the requests of one client, until the time is over."""
    outcomes: list[_Outcome] = []
    while time.monotonic() < end:
        case = cases[(number + len(outcomes)) % len(cases)]
        begin = time.perf_counter_ns()
        try:
            reply = client.infer(model, case.request)
        except (OSError, http.client.HTTPException) as error:
            outcomes.append(_Outcome("lost", 0, f"{type(error).__name__}: {error}"))
            time.sleep(min(MAX_WAIT, max(0.0, end - time.monotonic())))
            continue
        took = time.perf_counter_ns() - begin
        if reply.status == 503:
            outcomes.append(_Outcome("refused", took))
            time.sleep(min(reply.retry_after, MAX_WAIT, max(0.0, end - time.monotonic())))
            continue
        problem = reply.problem or _difference(case.expected, reply.outputs, tolerance)
        outcomes.append(_Outcome("wrong" if problem else "right", took, problem))
    client.close()
    return outcomes


def _difference(
    expected: Mapping[str, Array], outputs: Mapping[str, Array], tolerance: Tolerance
) -> str:
    """What is wrong with an answer, empty where nothing is."""
    try:
        difference = compare(expected, outputs, tolerance)
    except UserError as error:
        return str(error)
    if difference.passed:
        return ""
    return f"output {difference.where} differs by {difference.max_rel:.0e} of its range"
