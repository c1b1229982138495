#!/bin/sh
# list_resume.sh BUILD: a list of four trainers, two data sets and three seeds, killed (-9) ten times at random moments
# and given again each time, must leave the same tables, bit for bit, as one that was never stopped.
build=$1
work=$build/list-resume
export FVGPT_CACHE=none
rm -rf "$work"
mkdir -p "$work"
"$build/world" "$work/world" >/dev/null
tune() {
  exec "$build/fvgpt" tune --threads 1 --model examples/tiny-clip --data "$work/world/things" \
    --data "$work/world/textures" \
    --trainer DPC_CoOp,FVGPT_KgCoOp,PromptSRC,FVGPT_MMRL --shots 4 --epochs 3 --seeds 1,2,3 --augment none --out "$1"
}
begin=$(date +%s)
(tune "$work/whole" >"$work/whole.txt" 2>/dev/null) || { echo "the list fails"; exit 1; }
length=$(($(date +%s) - begin + 1))
kills=0
while [ $kills -lt 10 ]; do
  (tune "$work/cut" >/dev/null 2>&1) &
  id=$!
  sleep "$(awk -v seed=$kills -v most=$length 'BEGIN { srand(seed + 7); printf "%.2f", 0.1 + rand() * most / 5 }')"
  kill -9 $id 2>/dev/null && kills=$((kills + 1)) || break
  wait $id 2>/dev/null
done
(tune "$work/cut" >"$work/cut.txt" 2>/dev/null) || { echo "the list cannot go on"; exit 1; }
same=0
for file in results.json things/results.json textures/results.json; do
  cmp "$work/whole/$file" "$work/cut/$file" || exit 1
  same=$((same + 1))
done
left=$(find "$work/cut" -name '*.part' | wc -l)
[ "$left" = 0 ] || { echo "$left states of unfinished stages are left"; exit 1; }
rm -rf "$work"
echo "killed $kills times in a list of $length seconds: $same files the same"
