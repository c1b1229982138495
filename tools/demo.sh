#!/bin/sh
# make demo: draws four sets of the small world, tunes CoOp and FVG-PT on each for three seeds, writes the report.
# $1: the folder with the programs.  The same settings for every set: the published ones, but no random crops (there are
# pictures enough) and a context that starts as words, not as noise, so that seeds differ less.
set -e
build=$1
sets="things colours textures control"
"$build/world" "$build/demo"
report=""
for set in $sets; do
  printf '\n== %s\n' "$set"
  rm -rf "$build/demo/$set-runs"
  "$build/fvgpt" tune --model examples/tiny-clip --data "$build/demo/$set" --trainer FVGPT_CoOp --ctx-init "a photo of a" --augment none --out "$build/demo/$set-runs"
  report="$report --data $build/demo/$set --runs $build/demo/$set-runs"
done
echo
"$build/fvgpt" report --model examples/tiny-clip $report --out "$build/report"
