#!/bin/sh
# Shards of a run of tune: three at once, one of them killed (-9) and started again, must leave the same bytes in every
# file as the run alone; and what else --shard, claims and `fvgpt table` promise.  $1: the folder with the programs.
build=$1
fvgpt=$build/fvgpt
work=$build/test-shards
. tests/check.sh
refused() {                                              # refused "what" "text in the message" command...
  what=$1
  text=$2
  shift 2
  "$@" >"$work/stdout" 2>"$work/stderr"
  status=$?
  check "$what: exit $status, $(tail -n 1 "$work/stderr")" sh -c "[ $status -eq 1 ] && grep '^fvgpt: ' '$work/stderr' | tail -n 1 | grep -q -F -e \"\$1\"" _ "$text"
}
rm -rf "$work"
mkdir -p "$work"
for set in things textures; do "$build/world" "$work/world" --set $set --train 2 --test 1 >/dev/null; done
list="tune --threads 1 --model examples/tiny-clip --data $work/world/things --data $work/world/textures --trainer FVGPT_CoOp,KgCoOp --shots 2 --epochs 8 --seeds 1,2 --augment none"
tables() { grep -v -E '^(settings|masks) |  seed ' "$1"; }
whole=$work/whole
check "the run alone" sh -c "'$fvgpt' $list --out '$whole' >'$work/whole.txt' 2>/dev/null"
cp -r "$whole" "$work/repeated"
check "a finished run repeated says the same" sh -c "'$fvgpt' $list --out '$work/repeated' 2>'$work/stderr' | cmp - '$work/whole.txt'"
check "trains and tests nothing" sh -c "grep -q 'reusing .*KgCoOp/seed2/result.json' '$work/stderr' && ! grep -q -E '^(encode|CoOp) +[0-9]' '$work/stderr'"
check "and leaves every file" diff -r "$whole" "$work/repeated"

check "with another template it is tested again" sh -c "'$fvgpt' $list --trainer CoOp --template 'one {}.' --out '$work/repeated' 2>&1 | grep -q 'reusing .*things/CoOp/seed2/checkpoint'"
cp -r "$whole" "$work/stale"
cp "$work/repeated/run.json" "$work/stale/run.json"
refused "table takes no results of another run" "8 of 8 results are missing" "$fvgpt" table "$work/stale"

# three shards, one of them killed
cut=$work/cut
id=0
for k in 1 2 3; do
  "$fvgpt" $list --shard $k/3 --out "$cut" >"$work/shard$k" 2>"$work/errors$k" &
  [ $k = 2 ] && id=$!
done
i=0
claim="$cut/things/CoOp/seed2/claim.0"                   # the second share begins there, behind zero_shot
while [ ! -e "$claim" ] && [ $i -lt 300 ]; do sleep 0.01; i=$((i + 1)); done
kill -9 $id 2>/dev/null
wait $id 2>/dev/null
check "a shard was killed at work" [ -e "$claim" ]
check "shard 2 again" sh -c "'$fvgpt' $list --shard 2/3 --out '$cut' >'$work/again' 2>'$work/errors4'"
wait
check "every file has the bytes of the run alone" diff -r "$whole" "$cut"
check "one of the shards wrote the tables" sh -c "cat '$work'/shard[13] '$work/again' | grep -q '^FVGPT_CoOp .* [0-9]'"
check "table says the same" sh -c "'$fvgpt' table '$cut' >'$work/table.txt'"
tables "$work/whole.txt" >"$work/tables.txt"
check "but for the lines of seeds" cmp "$work/table.txt" "$work/tables.txt"
rm "$cut/results.json" "$cut/things/results.json" "$cut/results.csv" "$cut/textures/results.csv"
check "and writes results.json and results.csv" sh -c "'$fvgpt' table '$cut' >/dev/null && diff -r '$whole' '$cut'"

# one shard does everything when the others never come
check "one shard of a hundred" sh -c "'$fvgpt' $list --shard 77/100 --out '$work/one' >'$work/stdout' 2>/dev/null"
check "does the work of all" diff -r "$whole" "$work/one"
rm -r "$work/one/things/KgCoOp/seed2" "$work/one/textures/FVGPT_CoOp/seed1/result.json"
refused "table on an unfinished run" "2 of 16 results are missing" "$fvgpt" table "$work/one"
check "says which" sh -c "grep -q 'missing: KgCoOp, seed 2 of things (nobody' '$work/stderr' && grep -q 'missing: FVGPT_CoOp, seed 1 of textures' '$work/stderr'"

# claims of others
claim="$work/one/things/KgCoOp/seed2/claim.0"
mkdir -p "${claim%/*}"
echo "shard 2/3 process 7 token 0123456789abcdef host elsewhere" >"$claim"
check "what somebody else is at work on is left to him" sh -c "'$fvgpt' $list --shard 1/3 --out '$work/one' >'$work/stdout' 2>/dev/null"
check "in a line" grep -q "^1 of 12 pieces .* KgCoOp seed 2 of things (shard 2/3, process 7 on elsewhere, .* fvgpt table $work/one\$" "$work/stdout"
check "the rest is done" [ -e "$work/one/textures/FVGPT_CoOp/seed1/result.json" ]
refused "table meanwhile" "1 of 16 results is missing" "$fvgpt" table "$work/one"
check "says who has it" grep -q "KgCoOp, seed 2 of things (shard 2/3, process 7 on elsewhere" "$work/stderr"
refused "a run alone meanwhile" "$work/one: at work here: shard 2/3, process 7 on elsewhere, last seen " "$fvgpt" $list --out "$work/one"
touch -d '2 minutes ago' "$claim" 2>/dev/null || touch -t 200001010000 "$claim"
check "not yet expired" sh -c "'$fvgpt' $list --shard 1/3 --out '$work/one' 2>/dev/null | grep -q '^1 of 12 pieces'"
check "an expired claim is taken over" sh -c "'$fvgpt' $list --shard 1/3 --claim-expires 60 --out '$work/one' >/dev/null 2>&1"
check "and the end is the same" diff -r "$whole" "$work/one"
rm -r "$work/one/textures/KgCoOp/seed1"
mkdir "$work/one/textures/KgCoOp/seed1"
echo "shard 2/3 process 7 token 0123456789abcdef host elsewhere" >"$work/one/textures/KgCoOp/seed1/claim.0"
check "a shard started again elsewhere takes its own claim at once" sh -c "'$fvgpt' $list --shard 2/3 --out '$work/one' >/dev/null 2>&1 && diff -r '$whole' '$work/one'"

# what shards must agree about
refused "another rate" "run.json: is of a run with --lr not given, and here it is 0.01" "$fvgpt" $list --lr 0.01 --shard 1/3 --out "$cut"
refused "other epochs" "with --epochs 8, and here it is 8 3;" "$fvgpt" $list --epochs 3 --shard 1/3 --out "$cut"
refused "other seeds" "with other --seeds" "$fvgpt" $list --seeds 1 --shard 1/3 --out "$cut"
refused "other trainers" "with other --trainer" "$fvgpt" $list --trainer CoOp --shard 1/3 --out "$cut"
cp -r "$whole" "$work/copy"
mkdir -p "$work/poor/textures"
cp -r "$work/world/things" "$work/poor/"
cp -r "$work/world/textures/images" "$work/world/textures/mask" "$work/poor/textures/"
cp -r "$work/world/textures" "$work/poor/colours"
sed 's/"dotted_drop"/"dotted_pear"/' "$work/world/textures/split.json" >"$work/poor/textures/split.json"
poor=$(echo "$list" | sed "s|$work/world|$work/poor|g")
refused "other data sets" "with other data sets, shots or pictures" "$fvgpt" $list --data "$work/poor/colours" --shard 1/3 --out "$work/copy"
refused "other class names" "with other data sets, shots or pictures" "$fvgpt" $poor --shard 1/3 --out "$cut"
check "nothing changed" diff -r "$whole" "$cut"
for wrong in 0/3 4/3 3 1/ x auto; do
  refused "--shard $wrong" "--shard $wrong: " env -u SLURM_PROCID -u OMPI_COMM_WORLD_RANK -u PMI_RANK -u SLURM_ARRAY_TASK_ID "$fvgpt" $list --shard $wrong --out "$cut"
done
check "auto names what it looks for" grep -q 'SLURM_ARRAY_TASK_ID.*SLURM_PROCID.*OMPI_COMM_WORLD_RANK.*PMI_RANK' "$work/stderr"
rm -r "$cut/things/CoOp/seed1"
knows() {                                                # knows "K/N" VARIABLE=VALUE...: the shard that auto takes
  number=$1
  shift
  mkdir -p "$cut/things/CoOp/seed1"
  echo "shard $number process 7 token 0123456789abcdef host elsewhere" >"$cut/things/CoOp/seed1/claim.0"
  env "$@" "$fvgpt" $list --shard auto --out "$cut" >"$work/stdout" 2>"$work/stderr"
  status=$?                                              # only that shard takes the claim
  [ $status -eq 0 ] && [ -e "$cut/things/CoOp/seed1/result.json" ] && rm -r "$cut/things/CoOp/seed1"
}
check "auto: Open MPI" knows 2/3 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=3
check "auto: PMI" knows 3/3 PMI_RANK=2 PMI_SIZE=3
check "auto: srun" knows 4/4 SLURM_PROCID=3 SLURM_NTASKS=4
check "auto: mpirun in a job of Slurm's" knows 3/4 SLURM_PROCID=0 SLURM_NTASKS=4 OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4
check "auto: a job array" knows 3/5 SLURM_ARRAY_TASK_ID=14 SLURM_ARRAY_TASK_MIN=10 SLURM_ARRAY_TASK_MAX=18 SLURM_ARRAY_TASK_STEP=2 SLURM_PROCID=0 SLURM_NTASKS=1
check "auto: srun in a job array" knows 6/8 SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=3 SLURM_PROCID=1 SLURM_NTASKS=2

# a run alone and shards keep each other out
"$fvgpt" $list --epochs 3000 --shard 1/2 --out "$work/long" >/dev/null 2>&1 &
id=$!
i=0
while [ ! -e "$work/long/things/CoOp/seed1/claim.0" ] && [ $i -lt 300 ]; do sleep 0.01; i=$((i + 1)); done
refused "a run alone beside a shard" "$work/long: shards of a run (process $id) are writing into this folder" "$fvgpt" $list --epochs 3000 --out "$work/long"
kill -INT $id
wait $id 2>/dev/null
check "a shard that is stopped gives its claim back" sh -c "[ ! -e '$work/long/things/CoOp/seed1/claim.0' ] && [ ! -e '$work/long/.fvgpt.lock' ]"
"$fvgpt" $list --epochs 3000 --out "$work/long" >/dev/null 2>&1 &
id=$!
i=0
while [ ! -e "$work/long/.fvgpt.lock" ] && [ $i -lt 300 ]; do sleep 0.01; i=$((i + 1)); done
refused "a shard beside a run alone" "$work/long: another fvgpt (process $id) is writing into this folder" "$fvgpt" $list --epochs 3000 --shard 1/2 --out "$work/long"
kill -9 $id
wait $id 2>/dev/null

# a claim that is lost while its owner works
"$fvgpt" $list --epochs 60000 --trainer CoOp --seeds 1 --shard 1/2 --claim-expires 2 --out "$work/lost" >"$work/lost.txt" 2>"$work/lost.err" &
id=$!
i=0
while [ ! -e "$work/lost/things/CoOp/seed1/checkpoint.safetensors.part" ] && [ $i -lt 300 ]; do sleep 0.01; i=$((i + 1)); done
echo "shard 2/2 process 7 token 0123456789abcdef host elsewhere" >"$work/lost/things/CoOp/seed1/claim.1"
i=0
while ! grep -q 'taken over' "$work/lost.err" && [ $i -lt 300 ]; do sleep 0.01; i=$((i + 1)); done
check "an owner stops when somebody takes over" grep -q 'things/CoOp/seed1: taken over by shard 2/2, process 7 on elsewhere' "$work/lost.err"
check "and goes on with what is left" kill -INT $id
wait $id 2>/dev/null
"$fvgpt" tune --threads 1 --model examples/tiny-clip --data "$work/world/things" --shots 2 --epochs 60000 --trainer CoOp --seeds 1 --augment none \
  --shard 1/2 --claim-expires 2 --out "$work/last" >"$work/last.txt" 2>"$work/last.err" &
id=$!
i=0
while [ ! -e "$work/last/CoOp/seed1/checkpoint.safetensors.part" ] && [ $i -lt 300 ]; do sleep 0.01; i=$((i + 1)); done
echo "shard 2/2 process 7 token 0123456789abcdef host elsewhere" >"$work/last/CoOp/seed1/claim.1"
check "an owner whose last unit is taken over ends well" wait $id
check "tells who has it" grep -q '^1 of 2 pieces of work are still with others: CoOp seed 1 of things (shard 2/2' "$work/last.txt"
check "and leaves the claim" [ -e "$work/last/CoOp/seed1/claim.1" ]
check "leaving the other's claim" [ -e "$work/lost/things/CoOp/seed1/claim.1" ]

"$fvgpt" tune --threads 1 --model examples/tiny-clip --data "$work/world/things" --shots 2 --epochs 60000 --trainer CoOp --seeds 1 --augment none \
  --shard 1/2 --claim-expires 2 --out "$work/twin" >"$work/twin.txt" 2>"$work/twin.err" &
id=$!
i=0
while [ ! -e "$work/twin/CoOp/seed1/checkpoint.safetensors.part" ] && [ $i -lt 300 ]; do sleep 0.01; i=$((i + 1)); done
echo "shard 1/2 process 7 token 0123456789abcdef host elsewhere" >"$work/twin/CoOp/seed1/claim.1"
wait $id
check "a second shard of one number ends the first" grep -q 'there is another shard 1/2, process 7 on elsewhere, last seen [0-9]* s ago; this one stops' "$work/twin.err"

# folds of tune --all
all="tune --threads 1 --model examples/tiny-clip --data $work/world/things --all --folds 3 --trainer FVGPT_CoOp --shots 2 --epochs 2 --augment none"
check "tune --all, alone" sh -c "'$fvgpt' $all --out '$work/all' >'$work/all.txt' 2>/dev/null"
for k in 1 2 3; do "$fvgpt" $all --shard $k/3 --out "$work/all3" >"$work/all$k.txt" 2>/dev/null & done
wait
check "tune --all, by shards" diff -r "$work/all" "$work/all3"
rm -r "$work/all3/CoOp/seed1/fold2of3" "$work/all3/results.csv"
refused "table without a fold" "1 of 12 results is missing" "$fvgpt" table "$work/all3"
check "names it" grep -q 'missing: CoOp, seed 1 fold 2 of things (nobody' "$work/stderr"
check "a shard makes it" sh -c "'$fvgpt' $all --shard 2/3 --out '$work/all3' >/dev/null 2>&1; diff -r '$work/all' '$work/all3'"
refused "other folds" "with --folds 3, and here it is 3 2;" "$fvgpt" $all --folds 2 --shard 1/3 --out "$work/all3"

# features for the cache
encode="encode --threads 1 --model examples/tiny-clip --text red --files-from $work/list"
find "$work/world/things/images" -name '*.ppm' | sort >"$work/list"
check "encode, alone" sh -c "'$fvgpt' $encode --cache none --out '$work/whole.features' 2>/dev/null"
pictures=$(wc -l <"$work/list")
for k in 1 2 3; do "$fvgpt" $encode --cache "$work/cache" --shard $k/3 --out "$work/features" >"$work/encode$k.txt" 2>/dev/null & done
wait
share() { sed -n "s/^shard $1\/3: \([0-9]*\) pictures are in the cache; next, .*without --shard, which writes .*features\$/\1/p" "$work/encode$1.txt"; }
check "shards of encode have a share each" [ $(($(share 1) + $(share 2) + $(share 3))) -eq "$pictures" ]
check "of every third picture" [ "$(share 3)" -eq $((pictures / 3)) ]
check "and write no file" [ ! -e "$work/features" ]
check "one without --shard" sh -c "'$fvgpt' $encode --cache '$work/cache' --out '$work/features' 2>'$work/stderr'"
check "encodes nothing any more" grep -q " $pictures of $pictures features reused" "$work/stderr"
check "and has the same bytes" cmp "$work/whole.features" "$work/features"
refused "a shard of encode without a cache" "--shard: features go into the cache, and there is none" "$fvgpt" $encode --cache none --shard 1/2
refused "or with one that cannot be made" "--shard: features go into the cache" "$fvgpt" $encode --cache "$work/features" --shard 1/2
refused "or without pictures" "--shard: shards of encode share pictures" "$fvgpt" encode --model examples/tiny-clip --text red --shard 1/2
refused "or with --pixels" "--shard: features of --pixels are not kept" "$fvgpt" $encode --pixels x --shard 1/2

# masks
mkdir "$work/bare"
for class in $(ls "$work/world/things/images" | head -n 8); do cp -r "$work/world/things/images/$class" "$work/bare/"; done
pictures=$(find "$work/bare" -name '*.ppm' | wc -l)
own="tune --threads 1 --model examples/tiny-clip --data $work/bare --trainer FVGPT_CoOp --shots 2 --epochs 1 --seeds 1,2 --augment none"
check "own masks, alone" sh -c "'$fvgpt' $own --out '$work/own' >/dev/null 2>&1"
for k in 1 2 3; do "$fvgpt" $own --shard $k/3 --out "$work/own3" >"$work/own$k.txt" 2>/dev/null & done
wait
check "own masks, by shards" diff -r "$work/own" "$work/own3"
check "were made once" [ "$(grep -c 'made by CLIP itself, [1-9][0-9]* now' "$work"/own[123].txt | grep -c ':1$')" -eq 1 ]
masks="masks --threads 1 --model examples/tiny-clip --data $work/bare --sheet 50"
check "masks, alone" sh -c "'$fvgpt' $masks --out '$work/masks' >/dev/null 2>&1"
for k in 1 2 3; do "$fvgpt" $masks --shard $k/3 --out "$work/masks3" >"$work/masks$k.txt" 2>/dev/null & done
wait
check "masks, by shards" sh -c "[ \$(find '$work/masks3' -name '*.p[gn][mg]' | wc -l) -eq $pictures ] && grep -q 'without --shard' '$work/masks2.txt' && [ -e '$work/masks3/masks.2-of-3.csv' ]"
check "table and page by a last run alone" sh -c "'$fvgpt' $masks --out '$work/masks3' 2>/dev/null | grep -q ' 0 masks made, $pictures already there'"
check "are those of one run" diff -r "$work/masks" "$work/masks3"

[ $failed -eq 0 ] && rm -rf "$work"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
