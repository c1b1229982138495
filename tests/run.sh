#!/bin/sh
# Runs every test program in the folder $1 and the command-line tests, two at a time, and adds up their
# "N passed, N failed" lines.  A program that prints no such line, or fails without counting it, is itself one failure.
build=$1
results=$build/results
rm -rf "$results"
mkdir -p "$results"
names="$(ls tests/test_*.c tests/fuzz_*.c | sed 's|.*/||; s|\.c$||') test_commands"
run() {
  if [ "$1" = test_commands ]; then sh tests/test_commands.sh "$build"; else "$build/$1"; fi >"$results/$1" 2>&1
  echo $? >"$results/$1.status"
}
every_second() {                                         # the tests whose number is even ($1 = 0) or odd ($1 = 1)
  number=0
  for test in $names; do
    number=$((number + 1))
    if [ $((number % 2)) -eq "$1" ]; then run "$test"; fi
  done
}
every_second 0 &
every_second 1
wait
passed=0
failed=0
for name in $names; do
  status=$(cat "$results/$name.status")
  last=$(tail -n 1 "$results/$name")
  counts=$(printf '%s\n' "$last" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p')
  printf '%-22s %s\n' "$name" "${counts:+$last}${counts:-no result, exit code $status: $last}" | sed 's/failed[0-9 ]*$/failed/'
  grep -E '^(FAILED|skipped)' "$results/$name" | sed 's/^/    /'
  set -- ${counts:-0 1}
  [ "$2" -eq 0 ] && [ "$status" -ne 0 ] && { echo "    FAILED exit code $status"; set -- "$1" 1; }
  passed=$((passed + $1))
  failed=$((failed + $2))
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
