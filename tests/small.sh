#!/bin/sh
# How small a program can be: the code of both headers without training, and what is left of an example that classifies
# when the linker drops what it does not call. The bounds are a little above what was measured, so that neither a table
# that ties everything together nor a chapter that slips out of its guard comes back unseen.
#   sh tests/small.sh [BUILD]               ends with 'N passed, N failed'; x86-64 with gcc, -Os
. tests/check.sh
build=${1:-build}/small
cc=${CC:-gcc}
mkdir -p "$build"
printf '#define FVGPT_IMPLEMENTATION\n#include "fvgpt_clip.h"\n' >"$build/clip.c"
text() { size -A "$1" | awk '$1 ~ /^\.text/ {n += $2} END {print n}'; }
at_most() {                                              # at_most "what" BYTES FILE
  n=$(text "$3")
  echo "$1: .text $n, at most $2"
  [ -n "$n" ] && [ "$n" -le "$2" ]
}
has() { nm "$1" | grep -q " [tT] $2"; }                  # has FILE FUNCTION
lacks() { ! has "$@"; }

case $(uname -m) in
  x86_64 | amd64) ;;
  *) echo "skipped: the bounds are those of x86-64"; echo "0 passed, 0 failed"; exit 0 ;;
esac

$cc -std=c99 -Os -I. -DFVGPT_NO_TRAINING -c "$build/clip.c" -o "$build/no_training.o"
check "without training" at_most "without training" 133120 "$build/no_training.o"
check "it classifies" has "$build/no_training.o" fvg_classifier_new
for gone in fvg_backward fvg__linear_backward fvg_optimizer_step fvg_dataset_open fvg__kgcoop_loss fvg_image_save; do
  check "$gone is left out" lacks "$build/no_training.o" "$gone\$"
done

sections="-ffunction-sections -fdata-sections -Wl,--gc-sections"
$cc -std=c99 -Os $sections -I. examples/02_zero_shot.c -o "$build/zero_shot" -lm
check "the linker's rest of 02_zero_shot" at_most "02_zero_shot" 118000 "$build/zero_shot"

# A program that loads what was tuned and scores with it: the tables of methods and heads must not lead to training.
cat >"$build/tuned.c" <<'C'
#define FVGPT_IMPLEMENTATION
#include "fvgpt_clip.h"
int main(int n, char **argument) {
  fvg_clip *m = fvg_open(argument[1]);
  fvg_classifier_desc d = {FVG_BRANCH_BASE, NULL, NULL, NULL, NULL, 0, NULL, 0, NULL};
  fvg_head_checkpoint head;
  fvg_classifier *k = NULL;
  const char *const *name = (const char *const *)argument + 5;
  fvg_status s = fvg_head_checkpoint_load(m, &head, argument[2]);
  if (!s) s = fvg_checkpoint_load(m, &d.learner, &d.fvgpt, NULL, argument[3]);
  if (!s) s = fvg_classifier_new(m, &k, name, n - 5, &d);
  return s ? 1 : fvg_classifier_file(k, NULL, argument[4]);
}
C
$cc -std=c99 -Os $sections -I. "$build/tuned.c" -o "$build/tuned" -lm
check "the linker's rest of a program that loads checkpoints" at_most "with checkpoints" 137500 "$build/tuned"
for gone in fvg__linear_backward fvg__layer_norm_backward_avx2 fvg_optimizer_step fvg__kgcoop_loss fvg__fit_gda; do
  check "$gone is dropped" lacks "$build/tuned" "$gone\$"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
