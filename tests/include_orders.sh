#!/bin/sh
# Compiles every order in which a program may include the headers, in one file and over two, with the compilers that
# are here: declarations first and bodies later, both headers, one of them twice, public or private functions, C and C++.
#   sh tests/include_orders.sh [BUILD]      ends with 'N passed, N failed'
build=${1:-build}/include_orders
rm -rf "$build"
mkdir -p "$build"
passed=0
failed=0
try() {                                                  # $1: what it is; the rest: a command that must work
  what=$1
  shift
  if log=$("$@" 2>&1); then passed=$((passed + 1)); else
    failed=$((failed + 1))
    printf 'FAILED %s: %s\n%s\n' "$what" "$*" "$(printf '%s' "$log" | head -n 5)"
  fi
}
file() { name=$build/$1; shift; printf '%s\n' "$@" 'int main(void) { return fvg_status_name(FVG_OK) == 0; }' >"$name"; }
body='#define FVGPT_IMPLEMENTATION'
core='#include "fvgpt.h"'
clip='#include "fvgpt_clip.h"'
file a.c "$body" "$clip"
file b.c "$clip" "$body" "$clip"
file c.c "$core" "$body" "$clip"
file d.c "$core" "$clip" "$body" "$clip"
file e.c "$body" "$core" "$clip"
file f.c "$core" "$body" "$core"
file g.c "$core" "$body" "$core" "$clip"
file h.c "$body" "$clip" "$clip" "$core"
file i.c '#define FVGPT_STATIC' "$body" "$clip"
file j.c '#include <math.h>' '#include <stdio.h>' '#include <stdlib.h>' "$clip" "$body" "$core" "$clip"
linker=tcc                                               # in no time
command -v tcc >/dev/null || linker=${CC:-cc}
for f in a b c d e f g h i j; do
  try "order $f" ${CC:-cc} -std=c99 -Wall -Wextra -Werror -fsyntax-only -I. "$build/$f.c"
  try "order $f" $linker -std=c99 -I. "$build/$f.c" -o "$build/$f" -lm
  command -v g++ >/dev/null && try "order $f" g++ -x c++ -std=c++11 -Wall -Wextra -Werror -fsyntax-only -I. "$build/$f.c"
done
for h in stb/stb_image.h stb_image.h; do                 # stb_image included by the program itself, before and after
  echo "#include <$h>" | ${CC:-cc} -E - >/dev/null 2>&1 || continue
  stb="#include <$h>"
  file k.c '#define FVGPT_STB_IMAGE_LINKED' '#define FVGPT_STB_IMAGE' "$stb" "$body" "$clip" \
    '#define STB_IMAGE_IMPLEMENTATION' "$stb"
  file l.c '#define STB_IMAGE_IMPLEMENTATION' "$stb" '#define FVGPT_STB_IMAGE' "$body" "$clip"
  try "stb_image before, its bodies behind" ${CC:-cc} -std=c99 -I. "$build/k.c" -o "$build/k" -lm
  try "stb_image before, with its bodies" ${CC:-cc} -std=c99 -I. "$build/l.c" -o "$build/l" -lm
  break
done
printf '%s\n' "$clip" 'int two(void);' 'int two(void) { return fvg_status_name(FVG_OK) != 0; }' >"$build/two.c"
try "bodies in one file, calls in another" ${CC:-cc} -std=c99 -I. "$build/b.c" "$build/two.c" -o "$build/two" -lm
rm -rf "$build"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
