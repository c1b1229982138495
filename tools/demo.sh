#!/bin/sh
# make demo: draws four sets of the small world, tunes CoOp and FVG-PT on each for three seeds, writes the report.
# $1: the folder with the programs.  The same settings for every set, all of them the published defaults but the crops.
set -e
build=$1
sets="things colours textures control"
"$build/world" "$build/demo"
report=""
for set in $sets; do
  printf '\n== %s\n' "$set"
  "$build/fvgpt" tune --model examples/tiny-clip --data "$build/demo/$set" --trainer FVGPT_CoOp --augment none --out "$build/demo/$set-runs"
  report="$report --data $build/demo/$set --runs $build/demo/$set-runs"
done
echo
"$build/fvgpt" report --model examples/tiny-clip $report --out "$build/report"
