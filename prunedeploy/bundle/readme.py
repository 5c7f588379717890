"""The README.md of a device bundle."""

from __future__ import annotations

from prunedeploy.engines.bundle_record import Bundle

_TEXT = """\
# {model} for {target}

**This is a device bundle, not an engine.** It holds what {target} needs to build engines and to
measure them. Nothing in it was built or measured on that device, so it has no speed.

On the device, in this folder:

    sh build.sh          # checks the hashes, builds what can only be built there
    python3 bench.py     # compares every engine with the recorded outputs, then times it

`bench.py` writes `results/result.json`: times, differences, clocks, temperatures, power mode and
throttling as far as the device tells. Both need {needs} and nothing
else. From another machine, `prunedeploy bench --target {target} --remote user@host` does all of it.

{parts}
- `check/`: {samples} recorded inputs and the outputs of the model for them, named in `tensors.txt`.
- `bundle.json`, `SHA256SUMS`: what everything is, and its hashes.
{notes}"""

_SPARSE = """\
- `sparse/`: the sparse engine{how}, batch {batch}. `model.so` with its header `pd_engine.h`
  is all that a program needs. `runner` computes one input, compares, takes its time:

      ./sparse/runner --check check/tensors.txt --rounds 100
      ./sparse/runner --input image.npy --output .
"""


def readme(bundle: Bundle) -> str:
    """The text of README.md for ``bundle``."""
    parts = ""
    if bundle.models:
        rows = "".join(
            f"  - `{x.file}`: opset {x.opset}, off by {x.difference.max_rel:.2g} of the range\n"
            for x in bundle.models
        )
        parts += f"- `models/`: ONNX models that {bundle.system or 'ONNX Runtime'} takes\n{rows}"
    if bundle.plans:
        parts += "- `built/` will hold TensorRT's engines: `build.sh` makes them with trtexec\n"
    if bundle.sparse is not None:
        how = f", compiled for {bundle.arch}"
        if bundle.sparse.glibc:
            how += f" (glibc {bundle.sparse.glibc} or newer)"
        if not bundle.sparse.compiled:
            how = " as C sources, which `build.sh` compiles there with make and a C compiler"
        parts += _SPARSE.format(how=how, batch=bundle.batch)
    lines = "".join(f"- {note}\n" for note in bundle.notes)
    return _TEXT.format(
        model=bundle.model,
        target=bundle.target,
        needs="Python 3.6 and trtexec of TensorRT" if bundle.plans else "Python 3.6",
        parts=parts.rstrip("\n"),
        samples=bundle.batch * bundle.runs,
        notes=f"\nWhat could not be put into it:\n\n{lines}" if lines else "",
    )
