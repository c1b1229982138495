#!/bin/sh
# make demo: draws four sets of the small world, tunes CoOp on each for three seeds, and FVG-PT on that CoOp with masks
# of several kinds; prints tables and writes the report.  $1: the folder with the programs.  The same settings for every
# set: the published ones, but no random crops (there are pictures enough) and a context that starts as words, not as
# noise, so that seeds differ less.  The model is small: two sets at a time with a thread each are faster than one with
# two, and give the same bits.
set -e
build=$1
export FVGPT_CACHE=none                                  # nothing of an earlier run counts
sets="things colours textures control"
masks="given own inverted"
run() { echo "$build/demo/$1-$2"; }                      # run SET MASKS: the folder of a run
tune() {                                                 # tune SET MASKS [option...]: a line for each seed and method
  set=$1
  kind=$2
  out=$(run "$set" "$kind")
  shift 2
  if "$build/fvgpt" tune --threads 1 --model examples/tiny-clip --data "$build/demo/$set" --trainer FVGPT_CoOp \
    --ctx-init "a photo of a" --augment none "$@" --out "$out" >"$out.txt" 2>"$out.log"; then
    sed -n "s/^[A-Za-z_]* *seed/$set, masks $kind: &/p" "$out.txt"
  else
    tail -n 1 "$out.log" >&2
    return 1
  fi
}
share_coop() {                                           # share_coop SET MASKS: it begins with the first run's
  mkdir "$(run "$1" "$2")" && cp -R "$(run "$1" given)/CoOp" "$(run "$1" "$2")"
}
# Words for what is not the thing, in the sentences that the model knows.
tune_on_own_masks() {                                    # tune_on_own_masks SET
  tune "$1" own --masks own --background-template "a photo {}." --background "on a plain background" \
    --background "on a fading background" --background "in front of stripes" --background "on a checked floor" \
    --background "on a dotted cloth" --background "in the snow" --background "on the sea" \
    --background "in front of a brick wall" --background "on the grass" --background "on the sand" \
    --background "in a starry night" --background "on a target" --background "on a zigzag carpet" \
    --background "among small things" --background "on wooden planks" --background "on a plaid blanket"
}
tune_all() {
  tune "$1" given &&
    share_coop "$1" own && tune_on_own_masks "$1" | grep FVGPT &&
    share_coop "$1" inverted && tune "$1" inverted --masks inverted | grep FVGPT
}
means() {                                                # means SET: its table, FVG-PT once for each kind of masks
  echo
  sed -n '/mean of/,/^CoOp/p' "$(run "$1" given).txt"
  for kind in $masks; do
    awk -v name="FVGPT_CoOp $kind" '
      /mean of/ { found = 1 }
      found && /^FVGPT_CoOp/ { print name substr($0, length(name) + 1) }' "$(run "$1" "$kind").txt"
  done
}
"$build/world" "$build/demo"
report=""
for set in $sets; do
  for kind in $masks; do rm -rf "$(run "$set" "$kind")"; done
  report="$report --data $build/demo/$set --runs $(run "$set" given)"
done
(tune_all things && tune_all textures) &
first=$!
tune_all colours && tune_all control || exit 1
wait $first
for set in $sets; do means "$set"; done
echo
"$build/fvgpt" report --model examples/tiny-clip $report --measured 60 --against classes --out "$build/report"
