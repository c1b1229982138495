#!/bin/sh
# Proves that a change keeps every bit: records the hashes of features, logits, maps, learned values and checkpoints of
# all methods at every SIMD level, and compares them later, on the same machine and with the same compiler.
#   sh tests/same_bits.sh record FILE [BUILD]             before the change
#   sh tests/same_bits.sh check  FILE [BUILD [LEVEL]]     after it: exit code 0 if every line is the same
set -e
build=${3:-build}
mkdir -p "$build"
stb=$(make -s stb)
${CC:-cc} -std=c99 -O2 tools/world.c -o "$build/world" -lm
${CC:-cc} -std=c99 -O2 $stb tests/same_bits.c -o "$build/same_bits" -lm -lpthread
rm -rf "$build/same_bits_data"
"$build/world" "$build/same_bits_data" --set things --train 3 --test 2 >/dev/null
"$build/same_bits" examples/tiny-clip "$build/same_bits_data/things" "$build" ${4:+"$4"} >"$build/same_bits.txt"
rm -rf "$build/same_bits_data"
case $1 in
  record) cp "$build/same_bits.txt" "$2"; echo "$(wc -l <"$2") hashes recorded in $2" ;;
  check)  grep "^${4:-}" "$2" | diff - "$build/same_bits.txt" && echo "$(wc -l <"$2") hashes are the same" ;;
  *)      echo "usage: same_bits.sh record|check FILE [BUILD]" >&2; exit 1 ;;
esac
