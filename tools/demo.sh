#!/bin/sh
# make demo: draws four sets of the small world, tunes CoOp and FVG-PT on each for three seeds, writes the report.
# $1: the folder with the programs.  The same settings for every set: the published ones, but no random crops (there are
# pictures enough) and a context that starts as words, not as noise, so that seeds differ less.  The model is small: two
# sets at a time with a thread each are faster than one with two, and give the same bits.
set -e
build=$1
sets="things colours textures control"
tune() {
  "$build/fvgpt" tune --threads 1 --model examples/tiny-clip --data "$build/demo/$1" --trainer FVGPT_CoOp \
    --ctx-init "a photo of a" --augment none --out "$build/demo/$1-runs" 2>"$build/demo/$1.log" |
    while IFS= read -r line; do printf '%-9s %s\n' "$1" "$line"; done
}
"$build/world" "$build/demo"
report=""
for set in $sets; do
  rm -rf "$build/demo/$set-runs"
  report="$report --data $build/demo/$set --runs $build/demo/$set-runs"
done
(tune things; tune textures) &
(tune colours; tune control)
wait
for set in $sets; do
  if [ ! -f "$build/demo/$set-runs/results.json" ]; then tail -n 3 "$build/demo/$set.log" >&2; exit 1; fi
done
"$build/fvgpt" report --model examples/tiny-clip $report --out "$build/report"
