#!/usr/bin/env bash
# The main job on the checkpoints in digits/ (train_digits.py made them): a ResNet-56 with half of
# its inner channels at zero, and a ResNet-20 with 90 % of its weights at zero one by one. Each is
# shrunk, built with the fastest runtime, and measured beside the dense network. Writes to out/demo;
# "make demo" runs it in an environment that has prunedeploy installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

show() {
  printf '\n$ %s\n' "$*"
  "$@"
}

rm -rf out/demo
mkdir -p out/demo
for network in resnet56_digits_sparse resnet20_digits_scattered; do
  show prunedeploy optimize "examples/digits/$network.pt" --data examples/digits/test.npz \
    -o "out/demo/$network"
done
