#!/bin/sh
# Runs every test program in the folder $1 and the command-line tests, two at a time, and adds up their
# "N passed, N failed" lines.  A program that prints no such line, or fails without counting it, is itself one failure.
# So is one that makes fewer checks than tests/checks.txt says, and one that is not listed there.
#
#   sh tests/run.sh BUILD             runs them
#   sh tests/run.sh --count BUILD     writes what the last run counted into tests/checks.txt
count=no
if [ "$1" = --count ]; then count=yes; shift; fi
build=$1
results=$build/results
table=tests/checks.txt
names="$(ls tests/test_*.c tests/fuzz_*.c | sed 's|.*/||; s|\.c$||') test_commands test_everyday"
run() {
  if [ -f "tests/$1.sh" ]; then sh "tests/$1.sh" "$build"; else "$build/$1"; fi >"$results/$1" 2>&1
  echo $? >"$results/$1.status"
}
work() {                                                 # runs whatever no other worker has taken; the longest comes first
  for test in test_commands $names; do
    if mkdir "$results/$test.taken" 2>/dev/null; then run "$test"; fi
  done
}
# "passed failed" of a program's last line, or nothing
counts_of() {
  tail -n 1 "$results/$1" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p'
}
# The column of the table, 2 to 5, that holds here
column() {
  with_stb=1
  with_shared=0
  grep -q '^skipped.*FVGPT_STB_IMAGE' "$results/test_images" && with_stb=0
  [ -d "${FVGPT_SHARED:-../shared}/golden" ] && with_shared=1
  echo $((2 + with_stb + 2 * with_shared))
}
least() { awk -v name="$1" -v column="$here" '$1 == name { print $column }' "$table"; }

if [ $count = yes ]; then
  here=$(column)
  for name in $names; do
    set -- $(counts_of "$name")
    [ $# -eq 2 ] && echo "$name $(($1 + $2))"
  done >"$results/counted"
  awk -v column="$here" -v form="%-18s %6d %6d %6d %6d" '
    FNR == NR { counted[$1] = $2; order[++n] = $1; next }
    /^#/ || !NF { print; next }
    $6 != "least" && $1 in counted { $column = counted[$1] }
    { listed[$1] = 1; printf form "%s\n", $1, $2, $3, $4, $5, $6 == "" ? "" : "   " $6 }
    END {
      for (i = 1; i <= n; i++) {
        if (order[i] in listed) continue
        $0 = order[i] " 1 1 1 1"                         # one check where nothing has been counted
        $column = counted[$1]
        printf form "\n", $1, $2, $3, $4, $5
      }
    }' "$results/counted" "$table" >"$results/checks.txt" && cp "$results/checks.txt" "$table"
  exit
fi

rm -rf "$results"
mkdir -p "$results"
work &
work
wait
here=$(column)
passed=0
failed=0
for name in $names; do
  status=$(cat "$results/$name.status")
  last=$(tail -n 1 "$results/$name")
  counts=$(counts_of "$name")
  printf '%-22s %s\n' "$name" "${counts:+$last}${counts:-no result, exit code $status: $last}" | sed 's/failed[0-9 ]*$/failed/'
  grep -E '^(FAILED|skipped)' "$results/$name" | sed 's/^/    /'
  set -- ${counts:-0 1}
  [ "$2" -eq 0 ] && [ "$status" -ne 0 ] && { echo "    FAILED exit code $status"; set -- "$1" 1; }
  passed=$((passed + $1))
  failed=$((failed + $2))
  wanted=$(least "$name")
  if [ -z "$wanted" ]; then
    echo "    FAILED $name is not in $table; sh tests/run.sh --count $build adds it"
    failed=$((failed + 1))
  elif [ -n "$counts" ] && [ $(($1 + $2)) -lt "$wanted" ]; then
    echo "    FAILED $name: $(($1 + $2)) checks, at least $wanted expected"
    failed=$((failed + 1))
  fi
done
for name in $(awk '!/^#/ { print $1 }' "$table"); do
  case " $(echo $names) " in *" $name "*) continue ;; esac
  echo "FAILED $name is in $table, but there is no such test"
  failed=$((failed + 1))
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
