#!/bin/sh
# Builds every fuzzer with clang's sanitizers and libFuzzer, and runs each for some seconds:
#   sh tests/fuzz.sh BUILD SECONDS [NAME...]        without names, all of tests/fuzz_*.c
# What it finds new is kept in BUILD/fuzz/NAME/corpus, and the next run begins with it; a fault's input lies beside it.
# A line for each tells executions, executions a second, and edges of the program that were covered.
# FLAGS="-O2" (any flags of clang) takes the place of the sanitizers, for many executions in little time.
build=$1
seconds=$2
shift 2
[ $# -eq 0 ] && set -- $(ls tests/fuzz_*.c | sed 's|.*/fuzz_||; s|\.c$||')
FLAGS=${FLAGS:--O1 -g -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all}
STB=$(make -s stb)
export FVGPT_CACHE=none
here=$(pwd)
mkdir -p "$build/fuzz"
library=$build/fuzz/library.o
linked=" $(make -s linked) "
passed=0
failed=0
bodies() {                                               # what a fuzzer is built from: the headers' bodies are in itself, or in the library
  case "$linked" in
    *" fuzz_$1 "*) echo "-include tests/linked.h tests/fuzz_$1.c $library -lpthread" ;;
    *) echo "-DFVGPT_STATIC tests/fuzz_$1.c" ;;
  esac
}
clang -std=c99 $FLAGS $STB -DFVGPT_PTHREADS -DFVGPT_DIRENT -fsanitize=fuzzer-no-link -c tools/fvgpt_library.c -o "$library" || exit 1
for name; do
  folder=$build/fuzz/$name
  mkdir -p "$folder/corpus"
  { make -s BUILD="$build" "$build/fuzz_$name" && cp "$build/fuzz_$name" "$folder/seeds" &&
    (cd "$folder" && ./seeds 0 corpus) &&
    clang -std=c99 $FLAGS $STB -fsanitize=fuzzer -DFVG_LIBFUZZER $(bodies "$name") -o "$folder/fuzz" -lm &&
    cd "$folder" && ./fuzz -max_total_time="$seconds" -max_len=40000 -timeout=30 -rss_limit_mb=2048 -dict=corpus.dict \
      -print_final_stats=1 corpus; } >"$folder/log" 2>&1
  status=$?
  cd "$here" || exit 1
  if [ $status -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  awk -v name="$name" -v status="$status" '
    /cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") cov = $(i + 1) }
    /number_of_executed_units/ { n = $2 }
    /average_exec_per_sec/ { rate = $2 }
    END { printf "%-14s %12d executions, %7d a second, %6d edges%s\n", name, n, rate, cov, status ? "  FAILED" : "" }' "$folder/log"
  [ $status -eq 0 ] || grep -E 'ERROR|FAILED|runtime error|Test unit|error:' "$folder/log" | head -n 5 | sed 's/^/    /'
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
