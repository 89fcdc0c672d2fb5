#!/bin/sh
# build.sh ROOT OUTPUT PYTHON_INCLUDE PYBIND11_INCLUDE: the CUDA half of the extension for the CPU, its kernels sanitized.
set -e
here=$1/tests/cuda/emulator
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cxx="${CXX:-g++} -std=c++20 -fPIC -fvisibility=hidden -w -I$here -I$1/csrc"
# each file is compiled by its own process, as many at a time as there are processors
compile='$0 $1 -c "$3" -o "$2/$(basename "$(dirname "$3")")-$(basename "$3").o"'
all() { flags=$1; shift; printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} sh -c "$compile" "$cxx" "$flags" "$work" {}; }
all "-O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -x c++" "$1"/csrc/cuda/*.cu
all "-O0 -DPYNANOCHAT_CUDA_BUILT=\"emulated\" -isystem $3 -isystem $4" "$1"/csrc/bindings/cuda*.cpp \
    "$1/csrc/bindings/module.cpp" "$here/module.cpp"
$cxx -shared -fsanitize=address,undefined "$work"/*.o -o "$2"
