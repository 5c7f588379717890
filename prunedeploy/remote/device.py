"""Bundles built and measured on a device over SSH: sent, run, brought back, verified here."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from prunedeploy import targets
from prunedeploy.bundle import archive as archives
from prunedeploy.bundle.write import BundleOptions, write_bundle
from prunedeploy.core.errors import OutputError, UserError
from prunedeploy.core.files import atomic_directory, read_text, to_json
from prunedeploy.core.log import logged
from prunedeploy.engines.bundle_record import ARCHIVE, Written, check, is_bundle
from prunedeploy.remote import ssh, transfer, untrusted
from prunedeploy.remote.collect import collect, engines
from prunedeploy.remote.record import RemoteResult

RECORD = "device.json"  # beside the engines of remote_build
LOOK = 60.0  # seconds for a first look at the device
TIMEOUT = 3600.0  # seconds on the device: TensorRT builds take minutes
QUIET = 120.0  # without a sign of life; there is one a second
MADE = ("results", "built/model.*.plan", "sparse/model.so")  # what a build brings back
TOOLS = ("python3", "tar", "sha256sum", "timeout")  # of the device
MAX_SECONDS = 1e7  # a third of a year
MAX_RECORD_BYTES = 256 << 20
# Of the archive of results: more than any has, and less than would fill a disk.
RESULTS, RESULTS_PER_BYTE = 1 << 30, 16
BUILD_ROUNDS = 5  # to see that an engine runs at all

_RUN = (
    "cd {name} || exit 9; rm -rf results; export PYTHONDONTWRITEBYTECODE=1; "
    # compilers are silent for minutes
    """(while :; do echo '{{"event": "alive"}}'; sleep 5 >/dev/null 2>&1; done) & beat=$!; """
    "sh build.sh sparse >&2; status=$?; kill $beat; "
    '[ $status = 0 ] || [ $status = 3 ] || {{ echo "build.sh ended with $status" >&2; exit 7; }}; '
    "timeout -k 10 {limit} python3 bench.py --events {options} </dev/null & "
    "echo $! > bench.pid; wait $!; status=$?; rm -f bench.pid; exit $status"
)
_STOP = "cd {name} && [ -f bench.pid ] && kill $(cat bench.pid) && rm -f bench.pid"


def remote_build(
    source: str | Path | None,
    host: str,
    target: str | None = None,
    output: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    threads: int = 0,
    ssh_options: Sequence[str] = (),
    timeout: float = TIMEOUT,
    quiet: float = QUIET,
    **bundle: Unpack[BundleOptions],
) -> RemoteResult:
    """Build engines on the device ``host``, bring them here, and verify what they computed.

    Args:
        source: an ONNX model, of which a bundle is written, or a bundle.
        host: what ssh calls it: user@host, or a name of its configuration.
        target: what kind of machine it is; that of the bundle when ``source`` is one.
        output: the folder for the engines and ``device.json``;
            ``<model>.<target>.engines`` in the current one when None.
        progress: called with one line of text for each step.
        threads: how many the sparse engine will mostly run with; 0 for all cores of the target.
        ssh_options: options of ssh, such as "-p 2222".
        timeout: seconds that the device has for all.
        quiet: seconds without a sign of life after which it is given up.
        bundle: options of ``write_bundle``, where there is a model.

    Returns:
        What the device is, what ran on it, and what did not.

    Raises:
        UserError: no connection, another kind of machine, ``output`` is something else already.

    Example:
        >>> import prunedeploy
        >>> prunedeploy.remote_build("net.onnx", "user@nano", "jetson-nano")  # doctest: +SKIP
    """
    to, progress = ssh.host(host, ssh_options), logged(progress)
    _check_limits(timeout, quiet)
    with _bundle(source, target, progress, bundle, threads) as (written, packed):
        stem = written.bundle.model.removesuffix(".onnx")
        output_path = Path(output or f"{stem}.{written.bundle.target}.engines")
        _refuse_to_replace(output_path)
        options = f"--rounds {BUILD_ROUNDS} --repeats 1"
        limits = (timeout, quiet)
        with _results(to, written, packed, options, limits, progress, MADE) as (result, folder):
            if not any(run.difference is not None for run in result.runs):
                return result
            with atomic_directory(output_path) as made:
                names = engines(result, written, folder, made)
                done = replace(result, engines=names, output=output_path)
                (made / RECORD).write_text(to_json(done))
            return done


def remote_bench(
    source: str | Path | None,
    host: str,
    target: str | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    rounds: int = 100,
    repeats: int = 3,
    threads: int = 0,
    ssh_options: Sequence[str] = (),
    timeout: float = TIMEOUT,
    quiet: float = QUIET,
    **bundle: Unpack[BundleOptions],
) -> RemoteResult:
    """Measure on the device ``host``, engines in turn with the dense baseline where it has one.

    Args:
        source: an ONNX model, of which a bundle is written, or a bundle.
        host: what ssh calls it: user@host, or a name of its configuration.
        target: what kind of machine it is; that of the bundle when ``source`` is one.
        progress: called with one line of text for each step.
        rounds: timed runs of each engine each time it has its turn.
        repeats: how often each has its turn.
        threads: of the sparse engine; 0 for those that it was cut for.
        ssh_options: options of ssh, such as "-p 2222".
        timeout: seconds that the device has for all.
        quiet: seconds without a sign of life after which it is given up.
        bundle: options of ``write_bundle``, where there is a model.

    Returns:
        What the device is, what ran on it, and what did not.

    Raises:
        UserError: no connection, or another kind of machine.

    Example:
        >>> import prunedeploy
        >>> prunedeploy.remote_bench("net.onnx", "user@nano", "jetson-nano")  # doctest: +SKIP
    """
    to, progress = ssh.host(host, ssh_options), logged(progress)
    _check_limits(timeout, quiet)
    options = f"--rounds {rounds} --repeats {repeats} --threads {threads}"
    with (
        _bundle(source, target, progress, bundle) as (written, packed),
        _results(to, written, packed, options, (timeout, quiet), progress) as (result, _),
    ):
        return result


def _check_limits(timeout: float, quiet: float) -> None:
    """Seconds that a clock can wait for."""
    for seconds in (timeout, quiet):
        if not 0 < seconds <= MAX_SECONDS:
            raise UserError(f"cannot wait for {seconds} s: give a number up to {MAX_SECONDS:.0f}")


# -- the bundle ------------------------------------------------------------------------------------


@contextmanager
def _bundle(
    source: str | Path | None,
    target: str | None,
    progress: Callable[[str], None],
    options: BundleOptions,
    threads: int = 0,
) -> Iterator[tuple[Written, Path]]:
    """The bundle in a folder, its hashes checked, and the archive of it to send."""
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as name:
        folder = Path(name)
        if source is not None and is_bundle(Path(source)):
            written = _given(Path(source), target, folder / "bundle")
        else:
            if target is None:
                raise UserError("say what kind of machine it is with --target; see: targets")
            if targets.by_name(target).name == "host":
                raise UserError(
                    "host is this machine: name what the other one is with --target; see: targets"
                )
            written = write_bundle(
                *(source, target, folder / "bundle"),
                progress=progress,
                threads=threads,
                **options,
            )
        packed = folder / f"bundle{ARCHIVE}"
        clean = folder / "clean"  # without what a device may have left in it
        for file in (*written.bundle.files, "bundle.json", "SHA256SUMS"):
            (clean / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(written.path / file, clean / file)
        archives.pack(clean, packed, "bundle")
        yield written, packed


def _given(path: Path, target: str | None, folder: Path) -> Written:
    if path.is_file():
        archives.unpack(path, folder)
        path = folder
    written = check(path)
    if target is not None and targets.by_name(target).name != written.bundle.target:
        raise UserError(f"{path} is a bundle for {written.bundle.target}, not for {target}")
    return written


# -- the device ------------------------------------------------------------------------------------


@contextmanager
def _results(
    to: ssh.Host,
    written: Written,
    packed: Path,
    options: str,
    limits: tuple[float, float],
    progress: Callable[[str], None],
    files: tuple[str, ...] = ("results",),
) -> Iterator[tuple[RemoteResult, Path]]:
    """Run on the device; yield the verified result and the folder of the files that it sent."""
    timeout, quiet = limits
    _check_machine(to, written.bundle.arch)
    name = transfer.send(to, packed, timeout, progress)
    known, problem = _run(to, name, options, limits, progress)
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as temporary:
        folder = Path(temporary)
        try:
            progress("bringing the results back")
            wait = timeout if not problem else min(quiet, 60.0)
            limit = RESULTS + RESULTS_PER_BYTE * packed.stat().st_size
            transfer.fetch(to, name, files, folder / "result.tar.gz", wait, limit, progress)
            archives.unpack(folder / "result.tar.gz", folder / "result", limit)
            known = _document(folder / "result" / "results" / "result.json")
        except (UserError, OSError, ValueError) as error:
            if not problem:
                raise UserError(f"the results of {to.address} cannot be read: {error}") from None
        progress("verifying the outputs here")
        yield collect(to.address, written, known, problem, folder / "result"), folder / "result"


def _document(path: Path) -> dict[str, Any]:
    """Read the record that ``bench.py`` wrote.

    Raises:
        UserError: it is something else.
    """
    record = (
        untrusted.document(read_text(path)) if path.stat().st_size <= MAX_RECORD_BYTES else None
    )
    if record is None:
        raise UserError(f"{path.name} is no record of bench.py")
    return record


def _check_machine(to: ssh.Host, arch: str) -> None:
    """Check, before anything is sent, that the device is of the architecture of the bundle."""
    look = f"uname -m; for tool in {' '.join(TOOLS)}; do command -v $tool; done; true"
    status, output = ssh.run(to, look, LOOK)
    words = output.split()
    if not words or words[0] != arch:
        machine = untrusted.text(words[0]) if words else f"silent (status {status})"
        raise UserError(f"the bundle is for {arch}, {to.address} is {machine}: give its --target")
    for tool in TOOLS:
        if not any(word.endswith(f"/{tool}") for word in words):
            raise UserError(f"{to.address} has no {tool}, which a bundle needs: install it there")


def _run(
    to: ssh.Host,
    name: str,
    options: str,
    limits: tuple[float, float],
    progress: Callable[[str], None],
) -> tuple[dict[str, Any], str]:
    """Build and measure there; what is known at the end, and why it ended early, if it did."""
    timeout, quiet = limits
    known: dict[str, Any] = {}

    def take(line: str) -> None:
        event = (
            untrusted.document(line) or {}
        )  # a program that prints between the events is no mistake
        result = event.get("result")
        if isinstance(result, dict):
            known.update(result)
        if "say" in event:
            progress(f"{to.address}: {untrusted.text(event['say'])}")

    script = _RUN.format(name=shlex.quote(name), limit=int(timeout) + 5, options=options)
    try:
        status = ssh.lines(to, transfer.ENTER + script, take, timeout, quiet)
    except ssh.ConnectionLostError as error:
        return known, str(error)
    except ssh.SilenceError as error:
        progress(f"{error}; it is given up")
        with suppress(UserError):  # what runs there would run on
            ssh.run(to, transfer.ENTER + _STOP.format(name=name), 20.0)
        return known, f"{error}: given up"
    if status in (0, 1, 3) and known.get("complete") is True:
        return known, ""
    if status == 7:
        return known, f"the sparse engine does not compile on {to.address}"
    return known, f"bench.py on {to.address} ended with {status} before its end"


def _refuse_to_replace(path: Path) -> None:
    """Refuse to replace anything but engines that came from a device."""
    if path.is_symlink() or (path.exists() and not (path / RECORD).is_file()):
        raise OutputError(f"cannot write {path}: what is there did not come from a device")
