#!/bin/sh
# Builds on the device what can only be built there: the TensorRT engines, and the sparse engine
# where the bundle holds it as C sources. Needs what the device's system brings, nothing else.
#
#     sh build.sh            all that can be built
#     sh build.sh sparse     only the sparse engine
#     sh build.sh tensorrt   only the TensorRT engines
#
# Exit status: 0 all is there; 3 some part cannot be had on this device, which is said; 1 it failed.
set -eu
cd "$(dirname "$0")"
want=${1:-all}
status=0

case $want in all|sparse|tensorrt) ;; *) echo "build.sh: error: give sparse, tensorrt or nothing" >&2; exit 2 ;; esac

if ! sha256sum --quiet -c SHA256SUMS; then
    echo "build.sh: error: files of this bundle are damaged or missing: copy it again" >&2
    exit 1
fi

if [ "$want" != tensorrt ] && [ -d sparse ] && [ ! -x sparse/runner ]; then
    if [ -e sparse/runner ]; then # copied without its mode
        chmod +x sparse/runner
    elif ! command -v make >/dev/null || ! command -v "${CC:-cc}" >/dev/null; then
        echo "build.sh: the sparse engine is here as C sources, and there is no C compiler or no make:" \
             "apt install build-essential" >&2
        status=3
    else
        echo "build.sh: compiling the sparse engine" >&2
        make -s -C sparse model.so
        "${CC:-cc}" -std=gnu11 -O2 -o sparse/runner sparse/runner.c sparse/model.so \
            -Wl,-rpath,'$ORIGIN' -lm -pthread
    fi
fi

if [ "$want" != sparse ] && [ -d models ]; then
    for python in "${PYTHON:-python3}" python; do
        command -v "$python" >/dev/null && break
    done
    command -v "$python" >/dev/null || { echo "build.sh: error: no Python here: apt install python3" >&2; exit 1; }
    result=0
    "$python" bench.py --build-only || result=$?
    [ "$result" = 0 ] || status=$result
fi
exit $status
