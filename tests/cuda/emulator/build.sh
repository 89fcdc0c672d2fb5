#!/bin/sh
# build.sh ROOT OUTPUT PYTHON_INCLUDE PYBIND11_INCLUDE: the CUDA half of the extension for the CPU, its kernels sanitized.
set -e
here=$1/tests/cuda/emulator
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cxx="${CXX:-g++} -std=c++20 -fPIC -fvisibility=hidden -w -I$here -I$1/csrc"
for file in "$1"/csrc/cuda/*.cu; do
    $cxx -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -x c++ -c "$file" -o "$work/$(basename "$file").o"
done
for file in "$1"/csrc/bindings/cuda*.cpp "$1/csrc/bindings/module.cpp" "$here/module.cpp"; do
    $cxx -O0 -DPYNANOCHAT_CUDA_BUILT='"emulated"' -isystem "$3" -isystem "$4" -c "$file" -o "$work/$(basename "$(dirname "$file")")-$(basename "$file").o"
done
$cxx -shared -fsanitize=address,undefined "$work"/*.o -o "$2"
