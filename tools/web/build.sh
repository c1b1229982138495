#!/bin/sh
# build.sh OUT NAME - compiles the library with the small world to WebAssembly: OUT/NAME.js and OUT/NAME.wasm, with SIMD
# if NAME is simd, without if it is scalar.  Linked at -O1: beyond that Debian's emcc wants a package of its own.
set -e
out=$1/$2
simd=""
[ "$2" = scalar ] || simd=-msimd128
emcc -std=gnu99 -Wall -Wextra -O3 $simd -DFVGPT_STATIC -c tools/web/web.c -o "$out.o"
emcc -O1 -sMODULARIZE=1 -sEXPORT_NAME=fvgpt -sENVIRONMENT=worker -sALLOW_MEMORY_GROWTH=1 -sTOTAL_STACK=1048576 \
  -sFORCE_FILESYSTEM=1 -lworkerfs.js -sEXPORTED_RUNTIME_METHODS=FS,UTF8ToString,ccall -sEXPORTED_FUNCTIONS=_malloc,_free \
  "$out.o" -o "$out.js"
