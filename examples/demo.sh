#!/usr/bin/env bash
# The main job on the checkpoint in digits/: a ResNet-56 with half of its inner channels and many
# single weights at zero (train_digits.py made it). `build` takes the fastest runtime; ONNX Runtime's
# engine stands beside it, and both are measured against the dense network. Writes to out/demo;
# "make demo" runs it in an environment that has prunedeploy installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

show() {
  printf '\n$ %s\n' "$*"
  "$@"
}

rm -rf out/demo
mkdir -p out/demo
show prunedeploy shrink examples/digits/resnet56_digits_sparse.pt -o out/demo/digits.onnx
show prunedeploy build out/demo/digits.onnx -o out/demo/digits.engine
show prunedeploy build out/demo/digits.onnx --runtime ort -o out/demo/digits.ort
show prunedeploy bench out/demo/digits.engine out/demo/digits.ort \
  --data examples/digits/test.npz -o out/demo/result.json
show prunedeploy report out/demo/digits.json out/demo/result.json -o out/demo/report.md
