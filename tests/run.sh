#!/bin/sh
# Runs every test program in the folder $1 and the command-line tests, and adds up their "N passed, N failed" lines.
# A program that prints no such line, or fails without counting it, is itself one failure.
build=$1
passed=0
failed=0
one() {
  name=$1
  shift
  printf '%-22s ' "$name"
  output=$("$@" 2>&1)
  status=$?
  last=$(printf '%s\n' "$output" | tail -n 1)
  counts=$(printf '%s\n' "$last" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p')
  set -- ${counts:-0 1}
  printf '%s\n' "${counts:+$last}${counts:-no result, exit code $status: $last}" | sed 's/failed[0-9 ]*$/failed/'
  printf '%s\n' "$output" | grep -E '^(FAILED|skipped)' | sed 's/^/    /'
  [ "$2" -eq 0 ] && [ $status -ne 0 ] && { echo "    FAILED exit code $status"; set -- "$1" 1; }
  passed=$((passed + $1))
  failed=$((failed + $2))
}
for test in tests/test_*.c tests/fuzz_*.c; do
  name=$(basename "$test" .c)
  one "$name" "$build/$name"
done
one test_commands sh tests/test_commands.sh "$build"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
