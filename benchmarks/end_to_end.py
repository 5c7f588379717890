"""The main job on one checkpoint, its predictions compared with torch's, image by image.

    python benchmarks/end_to_end.py CKPT --data images.npz [-o FOLDER] [--rounds 200]

torch runs the network as ``prunedeploy.load`` gives it, masks applied; the engine is what shrink
and build make of the same file. Prints the report, and on how many images the two disagree.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import prunedeploy
from prunedeploy.measure.labelled import load as load_images


def predictions_of_torch(checkpoint: Path, images: np.ndarray) -> np.ndarray:
    """The classes that the masked network predicts in torch."""
    module = prunedeploy.load(checkpoint).module
    with torch.no_grad():
        batches = [module(batch).argmax(1) for batch in torch.from_numpy(images).split(100)]
    return torch.cat(batches).numpy()


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="the main job on one checkpoint")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path, default=Path("out/end_to_end"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    shrunk = prunedeploy.shrink(arguments.checkpoint, arguments.output / "model.onnx")
    engine = prunedeploy.build(shrunk.model, output=arguments.output / "engine")
    threads = [
        prunedeploy.bench([engine.path], data=arguments.data, rounds=arguments.rounds, threads=n)
        for n in (1, 2)
    ]
    print(prunedeploy.report([shrunk, *threads], arguments.output / "report.md"))
    data = load_images(arguments.data, engine.manifest.inputs, (shrunk.mean, shrunk.std))
    with prunedeploy.open(engine) as session:
        name, output = session.inputs[0].name, session.outputs[0].name
        images = np.concatenate([feeds[name] for feeds in data.batches(100)])[: len(data.labels)]
        predicted = session.run({name: images})[output].argmax(1)
    expected = predictions_of_torch(arguments.checkpoint, images)
    print(
        f"masked network in torch: {np.mean(expected == data.labels):.2%}, "
        f"engine: {np.mean(predicted == data.labels):.2%}, "
        f"different predictions: {np.count_nonzero(expected != predicted)} of {len(predicted)}"
    )


if __name__ == "__main__":
    main()
