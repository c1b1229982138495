#!/usr/bin/env bash
# Both headers on every platform that this machine can compile for, emulate or be: the compile matrix, the tests under
# other compilers and processors, Windows under wine, WebAssembly under node, and bare Cortex-M and RISC-V.
#
#   bash tests/platforms.sh BUILD             all; BUILD/fvgpt and BUILD/world must be there
#   bash tests/platforms.sh BUILD s390x|m32   those whose names match the expression
#
# Ends with a table of what was covered, and a line "N passed, N failed".  What a platform lacks here is said in the table;
# tests/README.md has the whole table, with what is not covered anywhere and why.
set -u
cd "$(dirname "$0")/.." || exit 1
build=$1
wanted=${2:-.}
here=$build/platforms
export FVGPT_CACHE=none
rm -rf "$here"
mkdir -p "$here"
: >"$here/jobs"
: >"$here/platforms"

# ---- what a platform is: a line of the table, and jobs ----
# platform NAME "what it is" TOOL...: begins a platform and is false if it is not wanted, or a tool is not there.
platform() {
  local tool
  name=$1
  printf '%s' "$name" | grep -q -E -e "$wanted" || return 1
  local missing=""
  for tool in "${@:3}"; do
    [ -e "$tool" ] || command -v "$tool" >/dev/null || missing="$missing $tool"
  done
  printf '%s\t%s\t%s\n' "$name" "$2" "$missing" >>"$here/platforms"
  [ -z "$missing" ]
}

# job COMMAND...: one more of the platform begun last.  OUT in the command is a file of its own, without a suffix.
job() { printf '%s\t%s\n' "$name" "$*" >>"$here/jobs"; }

# tests "COMPILE" "RUN" TEST...: each test is compiled, then RUN.
tests() {
  local compile=$1 run=$2 test
  shift 2
  for test in "$@"; do job "$compile -DFVGPT_STATIC tests/test_$test.c -o OUT -lm -lpthread && timeout 900 $run OUT"; done
}

# Runs all jobs, two at a time, and writes "platform status checks seconds command" for each; the seconds are the
# processor's.
run_jobs() {
  export here
  sed '=' "$here/jobs" | sed 'N; s/\n/\t/' | xargs -d '\n' -P 2 -n 1 bash -c '
    number=${1%%	*}
    rest=${1#*	}
    name=${rest%%	*}
    command=${rest#*	}
    command=${command//OUT/$here/out$number}
    log=$here/log$number
    TIMEFORMAT=%U
    { time sh -c "$command" >"$log" 2>&1; status=$?; } 2>"$log.time"
    checks=$(sed -n "s/^\([0-9]*\) passed, 0 failed$/\1/p" "$log" | tail -n 1)
    printf "%s\t%s\t%s\t%s\t%s\n" "$name" "$status" "${checks:-1}" "$(cat "$log.time")" "$command" >>"$here/done"
    if [ $status -ne 0 ]; then
      printf "FAILED: %s: %s\n%s\n" "$name" "$command" "$(grep -v "^$" "$log" | tail -n 15)"
    fi
    rm -f "$here/out$number" "$here/out$number".* "$log".*' _
}

# ---- compilers and standards ----
one() { printf '%s/one_%s.c' "$here" "$1"; }
for header in fvgpt.h fvgpt_clip.h; do
  printf '#define FVGPT_IMPLEMENTATION\n#include "%s"\nint main(void) { return 0; }\n' "$header" >"$(one "$header")"
  printf '#include "%s"\nint user(void);\nint user(void) { return FVG_OK; }\n' "$header" >"$here/two_$header.c"
done
printf '#define STB_IMAGE_IMPLEMENTATION\n#include <stb/stb_image.h>\n#define FVGPT_IMPLEMENTATION\n%s\n%s\n' \
  '#include "fvgpt_clip.h"' 'int main(void) { return 0; }' >"$here/stb_first.c"
warnings="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -I."

c_compiler() {                       # every option, with all warnings; programs are linked from one file and from two
  local header flags
  for header in fvgpt.h fvgpt_clip.h; do
    for flags in "-O2" "-O0 -DFVGPT_PTHREADS -DFVGPT_DIRENT -DFVGPT_STB_IMAGE" "-O2 -DFVGPT_NO_TRAINING"; do
      job "$1 -std=c99 $flags $warnings $(one $header) -o OUT -lm -lpthread"
    done
    for flags in -DFVGPT_STATIC -DFVGPT_NO_SIMD -DFVGPT_NO_STDIO -DFVGPT_ONLY_STDIO "-DFVGPT_NO_STDIO -DFVGPT_NO_MALLOC" \
      "-DFVGPT_NO_TRAINING -DFVGPT_NO_STDIO -DFVGPT_NO_MALLOC" "-DFVGPT_NO_TRAINING -DFVGPT_NO_SIMD -DFVGPT_STATIC" \
      "-DFVGPT_NO_TRAINING -DFVGPT_PTHREADS -DFVGPT_DIRENT -DFVGPT_STB_IMAGE"; do
      job "$1 -std=c99 $flags $warnings -fsyntax-only $(one $header)"
    done
    for flags in c11 c17 c2x; do job "$1 -std=$flags $warnings -fsyntax-only $(one $header)"; done
    job "$1 -std=c99 -O0 $warnings $(one $header) $here/two_$header.c -o OUT -lm"
  done
  job "$1 -std=c99 -Werror -DFVGPT_STB_IMAGE -I. $here/stb_first.c -o OUT -lm"
}
cxx_compiler() {
  local header std
  for header in fvgpt.h fvgpt_clip.h; do
    job "$1 -x c++ -std=c++11 -O1 -Wall -Wextra -Werror -I. $(one $header) -o OUT"
    job "$1 -x c++ -std=c++11 -DFVGPT_NO_TRAINING -Wall -Wextra -Werror -I. -fsyntax-only $(one $header)"
    for std in c++14 c++17 c++20 c++2b; do job "$1 -x c++ -std=$std -Wall -Wextra -Werror -I. -fsyntax-only $(one $header)"; done
  done
}

if platform gcc "C99, C11, C17, C2x with all warnings, every option" gcc /usr/include/stb/stb_image.h; then
  c_compiler gcc
  job "gcc -std=c99 -O0 -I. -c $(one fvgpt_clip.h) -o OUT && [ -z \"\$(nm -g --defined-only OUT | awk '{print \$3}' | grep -v -E '^(fvg_[a-z].*|main)\$')\" ]"
  job "! gcc -ffast-math -I. -c $(one fvgpt_clip.h) -o OUT 2>/dev/null"
  for tool in tools/*.c tests/replay.c; do           # the headers' bodies are compiled above
    job "gcc -std=c99 $warnings -DFVGPT_PTHREADS -DFVGPT_DIRENT -DFVGPT_STB_IMAGE -fsyntax-only $tool"
  done
  for example in examples/*.c; do
    job "gcc -std=c99 $warnings -fsyntax-only $example"
    job "g++ -x c++ -std=c++11 -Wall -Wextra -Werror -fsyntax-only -I. $example"
  done
  job "sh tests/include_orders.sh $build"
  job "sh tests/readme_program.sh $build"
fi
if platform clang "C99, C11, C17, C2x with all warnings, every option" clang /usr/include/stb/stb_image.h; then
  c_compiler clang
  job "clang -std=c99 $warnings -Wsign-conversion -fsyntax-only $(one fvgpt_clip.h)"
fi
if platform g++ "C++11, 14, 17, 20, 23" g++; then cxx_compiler g++; fi
if platform clang++ "C++11, 14, 17, 20, 23" clang++; then cxx_compiler clang++; fi
if platform tcc "C99; scalar kernels" tcc; then
  for header in fvgpt.h fvgpt_clip.h; do
    for flags in "" -DFVGPT_NO_TRAINING "-DFVGPT_NO_TRAINING -DFVGPT_NO_STDIO"; do
      job "tcc -std=c99 -Wall $flags -I. $(one $header) -o OUT -lm"
    done
  done
  tests "tcc -std=c99" "" kernels operations transformer optimizers fvgpt heads files tokenizer images tiny_clip
fi

# ---- other C libraries and processors ----
# Whatever a platform could do otherwise than x86-64 under glibc: arithmetic, byte order, sizes, files, words, pictures.
# test_kernels repeats its work with many numbers of threads; emulators, which take fifty times as long, do it with one.
elsewhere="optimizers fvgpt files context formats pytorch no_stdio"
brief="-DFVG_BRIEF"

# classify "COMPILE" "RUN": the program of examples/02_zero_shot.c says the same as here, of the tiny CLIP and a picture.
words="key boat bell car"
classify() {
  local program=$here/zero_shot picture=$here/world/things/images/key/002.ppm
  if [ ! -x "$program" ]; then
    "$build/world" "$here/world" --set things --train 2 --test 1 >/dev/null
    gcc -O1 -DFVGPT_STATIC -I. examples/02_zero_shot.c -o "$program" -lm
    "$program" examples/tiny-clip "$picture" $words >"$program.txt"
  fi
  job "$1 -DFVGPT_STATIC -I. examples/02_zero_shot.c -o OUT -lm && $2 OUT examples/tiny-clip $picture $words >OUT.txt && cmp OUT.txt $program.txt"
}

# gcc-multilib cannot be installed beside Debian's cross compilers, but gcc-12-multilib can.  Not every kernel runs 32-bit
# programs; qemu does.
m32="gcc-12 -m32 -static -idirafter /usr/include/$(gcc -dumpmachine 2>/dev/null) -std=c99 -O1"
gcc32=$(echo /usr/lib/gcc/*/12/32/libgcc.a)
run32=qemu-i386
printf 'int main(void) { return 0; }\n' >"$here/nothing.c"
if $m32 "$here/nothing.c" -o "$here/nothing" 2>/dev/null && "$here/nothing" 2>/dev/null; then run32=""; fi
intel32() {                          # intel32 NAME "what it is" FLAGS
  platform "$1" "$2" gcc-12 "$gcc32" /usr/lib32/libc.a ${run32:-sh} || return
  tests "$m32 ${run32:+$brief} $3" "$run32" $elsewhere
  classify "$m32 $3" "$run32"
}
intel32 m32-x87 "32-bit x86, x87 arithmetic"  "-mfpmath=387"
intel32 m32-sse "32-bit x86, SSE2 arithmetic" "-msse2 -mfpmath=sse"
if platform musl "x86-64 with musl, linked statically" musl-gcc; then
  tests "musl-gcc -std=c99 -O1 -static" "" $elsewhere tokenizer images
  classify "musl-gcc -std=c99 -O1 -static" ""
fi

emulated() {                         # emulated NAME "what it is" TARGET QEMU FLAGS TEST...
  platform "$1" "$2" "$3-gcc" "$4" || return
  tests "$3-gcc -std=c99 -O1 -static $brief $5" "$4" $elsewhere "${@:6}"
  classify "$3-gcc -std=c99 -O1 -static $5" "$4"
}
emulated aarch64 "64-bit Arm, NEON, under qemu-user"          aarch64-linux-gnu     qemu-aarch64 "" kernels operations quantised
emulated armv7   "32-bit Arm, scalar, under qemu-user"        arm-linux-gnueabihf   qemu-arm     "-mfpu=neon-vfpv4"
emulated riscv64 "RISC-V, under qemu-user"                    riscv64-linux-gnu     qemu-riscv64 ""
emulated ppc64le "POWER, under qemu-user"                     powerpc64le-linux-gnu qemu-ppc64le ""
emulated s390x   "IBM Z: big-endian, under qemu-user"         s390x-linux-gnu       qemu-s390x   "" kernels tokenizer images

# ---- WebAssembly ----
wasm() {
  local test
  for test in kernels operations transformer optimizers fvgpt heads tokenizer no_stdio quantised; do
    job "emcc -O1 $1 $brief -DFVGPT_STATIC -sSINGLE_FILE=1 -sNODERAWFS=1 -sALLOW_MEMORY_GROWTH=1 -sTOTAL_STACK=1048576 tests/test_$test.c -o OUT.js -lm && timeout 900 node OUT.js"
  done
}
if platform wasm "WebAssembly, scalar, under node" emcc node; then wasm ""; fi
if platform wasm-simd "WebAssembly, SIMD128, under node" emcc node; then wasm -msimd128; fi

# ---- microcontrollers: no operating system ----
# Without files and without a heap an object needs nothing of either.
bare() {                             # bare NAME "what it is" TARGET "FLAGS"
  platform "$1" "$2" "$3-gcc" "$3-nm" || return
  local never='^(_?(malloc|calloc|realloc|free|_?(malloc|calloc|realloc|free)_r)|.*(printf|scanf|puts?|gets?c?)|f?(open|close|read|write|seek|tell|flush)|f(open|close|read|write|seek|tell|flush)|strto[df]|time|clock|exit|abort)$'
  job "$3-gcc $4 -std=c99 -O1 $warnings -DFVGPT_NO_STDIO -DFVGPT_NO_MALLOC -c $(one fvgpt_clip.h) -o OUT && ! $3-nm -u OUT | awk '{print \$NF}' | grep -E '$never'"
}
bare cortex-m4 "Cortex-M4F: objects without a heap or files" arm-none-eabi "-mthumb -mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16"
bare cortex-m7 "Cortex-M7: objects without a heap or files"  arm-none-eabi "-mthumb -mcpu=cortex-m7 -mfloat-abi=hard -mfpu=fpv5-d16"
bare rv32      "RV32IMAFC: objects without a heap or files"  riscv64-unknown-elf "-march=rv32imafc -mabi=ilp32f --specs=picolibc.specs"
for core in m7 m4; do
  if platform board-$core "a whole board with a Cortex-$core, under qemu-system-arm" arm-none-eabi-gcc qemu-system-arm; then
    job "sh tests/board.sh $build $core"
  fi
done

# ---- Windows ----
bodies() {                           # what a test is built from: the headers' bodies are in itself, or in LIBRARY.o
  [ "$(basename "$1")" = test_no_training.c ] && { echo "-DFVGPT_STATIC $1 tests/tuned_files.c"; return; }
  case " $(make -s linked) " in
    *" $(basename "$1" .c) "*) echo "-include tests/linked.h $1 $2" ;;
    *) echo "-DFVGPT_STATIC $1" ;;
  esac
}
windows=0
if platform windows "64-bit Windows: MinGW, under wine; all tests and the program" x86_64-w64-mingw32-gcc wine; then
  windows=1
  export WINEDEBUG=-all WINEPREFIX="$PWD/$build/windows/wine"
  rm -rf "$build"/windows "$build"/test-*          # names that Windows takes for others must not lie there
  mkdir -p "$build/windows"
  cp -r /usr/include/stb "$build/windows/" 2>/dev/null
  wineboot -i </dev/null >/dev/null 2>&1
  wineserver -w
  wineserver -p </dev/null >/dev/null 2>&1         # stays, so that programs start in half a second; what wine starts
                                                   # beside a program stays too, and would keep a pipe open
  mingw="x86_64-w64-mingw32-gcc -std=c99 -O1 -include tests/windows.h -I$build/windows -DFVGPT_STB_IMAGE"
  $mingw -DFVGPT_PTHREADS -DFVGPT_DIRENT -c tools/fvgpt_library.c -o "$build/windows/library.o"
  job "$mingw -DFVGPT_PTHREADS -DFVGPT_DIRENT $(ls tools/fvgpt*.c | grep -v library | tr '\n' ' ') $build/windows/library.o -o $build/windows/fvgpt.exe -static -lm -lpthread && timeout 900 python3 tests/windows.py $build"
  for test in tests/test_*.c tests/fuzz_images.c tests/fuzz_data.c; do           # at -O0, which compiles in a third of the time
    job "$mingw -O0 $(bodies "$test" "$build/windows/library.o") -o OUT.exe -static -lm -lpthread && { timeout 400 wine OUT.exe </dev/null >OUT.log 2>&1; s=\$?; tail -n 9 OUT.log; [ \$s -eq 0 ]; }"
  done
fi

# ---- the table ----
run_jobs
if [ $windows = 1 ]; then
  wineserver -k
  rm -rf "$build"/test-*
fi
touch "$here/done"
awk -F '\t' '
  BEGIN { line = "\n%-10s %5s %7s %7s %6s  %s\n"; printf line, "platform", "jobs", "checks", "failed", "CPU s", "what" }
  FNR == NR { jobs[$1]++; cpu[$1] += $4; if ($2 == 0) { checks[$1] += $3; passed++ } else { bad[$1]++; failed++ } next }
  $3 != "" { printf "%-10s %5s %7s %7s %6s  %s; not here:%s\n", $1, "-", "-", "-", "-", $2, $3; next }
  { printf "%-10s %5d %7d %7d %6.0f  %s\n", $1, jobs[$1], checks[$1], bad[$1], cpu[$1], $2 }
  END { printf "\n%d passed, %d failed\n", passed, failed; exit failed > 0 }' "$here/done" "$here/platforms"
