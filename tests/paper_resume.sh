#!/bin/sh
# paper_resume.sh BUILD: Table 3 of the paper on two sets of class folders, killed (-9) ten times at random moments and
# given again each time, must leave the same bytes in every file as one that was never stopped.
build=$1
work=$build/paper-resume
export FVGPT_CACHE=none
rm -rf "$work"
mkdir -p "$work"
for set in things textures; do
  "$build/world" "$work/world" --set $set --train 9 --test 1 >/dev/null
  mkdir -p "$work/$set/mask"
  for class in $(ls "$work/world/$set/images" | head -n 8); do
    mv "$work/world/$set/images/$class" "$work/$set/"
    mv "$work/world/$set/mask/images/$class" "$work/$set/mask/"
  done
done
paper() {
  exec "$build/fvgpt" paper --threads 1 --model examples/tiny-clip --data "$work/things" --data "$work/textures" --table 3 --shots 4 --epochs 40 \
    --seeds 1,2 --augment none --out "$1"
}
begin=$(date +%s)
(paper "$work/whole" >"$work/whole.txt" 2>/dev/null) || { echo "the table fails"; exit 1; }
length=$(($(date +%s) - begin + 1))
kills=0
while [ $kills -lt 10 ]; do
  (paper "$work/cut" >/dev/null 2>&1) &
  id=$!
  sleep "$(awk -v seed=$kills -v most=$length 'BEGIN { srand(seed + 5); printf "%.2f", 0.1 + rand() * most / 5 }')"
  kill -9 $id 2>/dev/null && kills=$((kills + 1)) || break
  wait $id 2>/dev/null
done
(paper "$work/cut" >"$work/cut.txt" 2>/dev/null) || { echo "the table cannot go on"; exit 1; }
for file in table3.csv table3.json table3.html; do
  [ -s "$work/whole/$file" ] || { echo "there is no $file"; exit 1; }
done
diff -r "$work/whole" "$work/cut" || exit 1
left=$(find "$work/cut" -name '*.part' | wc -l)
[ "$left" = 0 ] || { echo "$left states of unfinished stages are left"; exit 1; }
files=$(find "$work/cut" -type f | wc -l)
rm -rf "$work"
echo "killed $kills times in a table of $length seconds: $files files the same"
