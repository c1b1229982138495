#!/bin/sh
# The first program of README.md, exactly as it stands there: it is at most 8 lines long, compiles without a warning with
# the command given below it, in C and in C++, and names a picture.  The program of section 8 of fvgpt_clip.h's manual: it
# has at most 30 lines and compiles as well.  $1: the folder to work in, build unless given.
# Compilers that are not installed are skipped.  The last line reads "N passed, N failed".
build=${1:-build}
work=$build/readme
here=$PWD
. tests/check.sh
compiles() { "$@" >"$work/messages" 2>&1 && [ ! -s "$work/messages" ]; }
answers() {                                              # answers CODE PATTERN PROGRAM: its exit code and what it prints
  answer=$(cd "$work" && "./$3" 2>&1)
  [ $? -eq "$1" ] && printf '%s\n' "$answer" | grep -q -E "$2"
}
rm -rf "$work"
mkdir -p "$work"
world=$build/world
[ -x "$world" ] || { world=$work/world && cc -O1 -DFVGPT_STATIC tools/world.c -o "$world" -lm || exit 1; }
"$world" "$work/world.out" --set things --train 1 --test 1 || exit 1
cp -r examples/tiny-clip "$work/clip-vit-base-patch16"

awk '/^## /{in_section = $0 == "## A program"} in_section && /^```/{if (in_code) exit; in_code = $0 == "```c"; next}
     in_code' README.md >"$work/program.c"
sed 's/"cat", "dog", "horse"/"mug", "key", "house"/' "$work/program.c" >"$work/things.c"
check "the program is there, and has at most 8 lines" [ "$(wc -l <"$work/program.c")" -ge 4 -a "$(wc -l <"$work/program.c")" -le 8 ]
# Without the first line, which only a stb_image.h on the include path allows.
awk '/^   8[.] PROTOCOL/ {in_section = 1} in_section && /^ *#define FVGPT_STB_IMAGE/ {in_code = 1; next}
     in_code {print substr($0, 14)} in_code && /^ *}$/ {exit}' fvgpt_clip.h >"$work/manual.c"
check "the manual's program is there, and has at most 30 lines" \
  [ "$(wc -l <"$work/manual.c")" -ge 20 -a "$(wc -l <"$work/manual.c")" -le 29 ]
check "README says how to compile it" grep -q -F '`cc -O2 program.c -o program -lm`' README.md

for compiler in "gcc -Wall -Wextra" "clang -Wall -Wextra" "tcc -Wall" "g++ -x c++ -std=c++11 -Wall -Wextra" \
  "x86_64-w64-mingw32-gcc -Wall -Wextra"; do
  name=${compiler%% *}
  if ! command -v "$name" >/dev/null; then echo "skipped $name: it is not installed"; continue; fi
  level=-O0                                              # the command of README once; it takes 15 s
  [ "$name" = gcc ] && level=-O2
  check "$name compiles it without a warning" compiles $compiler $level -I"$here" "$work/program.c" -o "$work/$name.exe" -lm
  check "$name compiles the manual's program without a warning" compiles $compiler -O0 -I"$here" "$work/manual.c" \
    -o "$work/manual.exe" -lm
  case $name in *mingw32*) continue ;; esac

  rm -f "$work/pet.ppm"
  check "$name: without its picture it says so, and fails" answers 1 '^pet\.ppm: ' "$name.exe"
  cp "$work/world.out/things/images/mug/001.ppm" "$work/pet.ppm"
  check "$name: it gives one of its names to a picture" answers 0 '^(cat|dog|horse)$' "$name.exe"
  check "$name compiles it with other names" compiles $compiler -O0 -I"$here" "$work/things.c" -o "$work/$name.exe" -lm
  check "$name: with other names it knows a mug" answers 0 '^mug$' "$name.exe"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
