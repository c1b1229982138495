#!/bin/sh
# What the command line must not do in silence: take a checkpoint for another model's, write over what it reads, ignore an
# option, count a thing twice.  $1: the folder with the programs.
build=$1
fvgpt=$build/fvgpt
model=examples/tiny-clip
work=$build/test-pitfalls
export FVGPT_CACHE=none
. tests/check.sh
says() {                                                 # says "what" "text on either stream" arguments of fvgpt...
  what=$1
  text=$2
  shift 2
  "$fvgpt" "$@" >"$work/stdout" 2>"$work/stderr"
  status=$?
  check "$what: exit $status" sh -c "[ $status -eq 0 ] && cat '$work/stdout' '$work/stderr' | grep -q -F -e \"\$1\"" _ "$text"
}
silent() {                                               # silent "what" "text on neither stream" arguments of fvgpt...
  what=$1
  text=$2
  shift 2
  "$fvgpt" "$@" >"$work/stdout" 2>"$work/stderr"
  status=$?
  check "$what: exit $status" sh -c "[ $status -eq 0 ] && ! cat '$work/stdout' '$work/stderr' | grep -q -F -e \"\$1\"" _ "$text"
}
does() { what=$1; shift; check "$what" sh -c "\"\$@\" >'$work/stdout' 2>'$work/stderr'" _ "$fvgpt" "$@"; }
rm -rf "$work"
mkdir -p "$work"

# four classes, of which two are base
"$build/world" "$work/world" --set colours --train 4 --test 2 >/dev/null
data=$work/data
mkdir -p "$data/mask"
for class in $(ls "$work/world/colours/images" | head -n 4); do
  mv "$work/world/colours/images/$class" "$data/"
  mv "$work/world/colours/mask/images/$class" "$data/mask/"
done
set -- $(ls "$data" | grep -v mask)
class=$1
picture=$data/$1/000.ppm
other=$data/$2/001.ppm
tune="tune --model $model --data $data --shots 2 --epochs 1 --seeds 1 --augment none"
check "tune" sh -c "'$fvgpt' $tune --trainer FVGPT_CoOp,GDA --out '$work/run' >'$work/stdout' 2>'$work/stderr'"

# a checkpoint of another model: the sign of the image projection's first numbers is turned
offset_of() {                                            # where a tensor's bytes begin in the file
  size=$(od -A n -t u8 -N 8 "$model/model.safetensors" | tr -d ' ')
  begin=$(tail -c +9 "$model/model.safetensors" | head -c "$size" | sed "s/.*\"$1\": *{\([^}]*\)}.*/\1/; s/.*\[\([0-9]*\), *[0-9]*\].*/\1/")
  echo $((8 + size + begin))
}
mkdir "$work/turned"
cp "$model"/* "$work/turned/"
at=$(offset_of visual_projection.weight)
od -A n -v -t u1 -j "$at" -N 4000 "$model/model.safetensors" | tr -s ' ' '\n' | grep . |
  awk '{ printf "\\%03o", ($1 + (NR % 4 ? 0 : 128)) % 256 }' >"$work/bytes"
printf "$(cat "$work/bytes")" | dd of="$work/turned/model.safetensors" bs=1 seek="$at" conv=notrunc 2>/dev/null
ck=$work/run/FVGPT_CoOp/seed1
test="--data $data --split-half base --checkpoint"
for file in "$ck" "$work/run/GDA/seed1"; do
  says "eval of another model's checkpoint" "$file was tuned on another model" eval --model "$work/turned" $test "$file"
  silent "and of its own" "was tuned" eval --model "$model" $test "$file"
done
says "classify" "was tuned on another model" classify --model "$work/turned" --checkpoint "$ck" "$picture"
says "attend" "was tuned on another model" attend --model "$work/turned" --checkpoint "$ck" --text "$class" --out "$work/maps" "$picture"
says "other weights of the same model" "$ck was tuned on this model with other --weights" eval --model "$model" --weights q8 $test "$ck"
says "or of two bytes" "$ck was tuned on this model with other --weights" eval --model "$model" --weights bf16 $test "$ck"
report="report --data $data --runs $work/run --pictures 1 --measured 1 --out $work/report"
refused "report of another model" "tuned on another model; name that one with --model" $report --model "$work/turned"
refused "report with other weights" "tuned with other --weights; give those of the run" $report --model "$model" --weights q8

# what is read is not written over
mkdir "$work/in"
cp "$picture" "$work/in/a.ppm"
for map in relevance attention; do "$fvgpt" preprocess --size 64 "$other" "$work/in/a_$map.png"; done
cp -R "$work/in" "$work/before"
here=$(pwd)
there=$(cd "$build" && pwd)
in_folder() { (cd "$work/in" && "$there/fvgpt" "$@" >../stdout 2>../stderr); [ $? -eq 1 ]; }
if "$fvgpt" preprocess --size 64 "$work/in/a_relevance.png" "$work/x.ppm" 2>"$work/stderr"; then
  for out in . ./ ../in; do
    check "attend --out $out" in_folder attend --model "$here/$model" --text red --out $out a.ppm a_relevance.png
    check "names both" grep -q 'a_relevance.png is a picture and would be the map of a.ppm; choose another --out' "$work/stderr"
  done
  refused "attend --out of another spelling" "would be the map of $work/in/a.ppm" attend --model "$model" --text red --map attention \
    --out "$work/../$(basename "$work")/in" "$work/in/a.ppm" "$work/in/a_attention.png"
fi
refused "preprocess onto itself" "a.ppm: IN and OUT are one file" preprocess --size 8 "$work/in/a.ppm" "$work/in/./a.ppm"
refused "encode onto a picture" "--out $work/in/a.ppm: is there and holds no features" encode --model "$model" --out "$work/in/a.ppm" "$other"
check "nothing was written over" diff -r "$work/before" "$work/in"
refused "encode onto a checkpoint" "holds no features" encode --model "$model" --out "$ck/checkpoint.safetensors" "$picture"
: >"$work/f.safetensors"
does "encode onto an empty file" encode --model "$model" --out "$work/f.safetensors" "$picture"
does "and onto features" encode --model "$model" --out "$work/f.safetensors" --text red
mkdir "$work/self"
cp "$model"/* "$work/self/"
refused "quantise onto the model" "--out $work/self/model.safetensors: is there and holds no weights of eight bits" quantise --model "$work/self" --out "$work/self/model.safetensors"
check "which stays" cmp "$model/model.safetensors" "$work/self/model.safetensors"
refused "quantise onto a picture" "holds no weights" quantise --model "$model" --out "$work/in/a.ppm"
for again in 1 2; do does "quantise beside the model, $again" quantise --model "$work/self" --out "$work/self/q8.safetensors"; done
does "or over a copy of it" quantise --model "$model" --out "$work/self/model.safetensors"

# maps are measured however the picture is spelled
maps="attend --model $model --text red --out $work/maps --data"
for spelling in "$picture" "./$picture" "$here/$picture" "$work/../$(basename "$work")/data/$class/../$class//000.ppm"; do
  case $picture in /*) spelling=$picture ;; esac
  says "$spelling" "  inside " $maps "$data" "$spelling"
done
check "from within" sh -c "cd '$data/$class' && '$there/fvgpt' attend --model '$here/$model' --text red --out ../../maps --data .. 000.ppm 2>/dev/null | grep -q '  inside '"
cp "$picture" "$other" "$work/in/"
says "one from elsewhere" "note: $work/in/001.ppm is not in $data, so its map is not measured" $maps "$data" "$work/in/001.ppm" "$picture" "$work/in/000.ppm"
check "is told of once" [ "$(grep -c 'is not measured' "$work/stderr")" -eq 1 ]
check "and the others are measured" [ "$(grep -c '  inside ' "$work/stdout")" -eq 1 ]

# options that would do nothing
for option in "--class-token-position end" "--n-ctx 4" "--set W=1" "--transfer-to x" "--ctx-init a" "--preset fork" --few-shot "--shots 1"; do
  refused "eval $option" "${option%% *} goes with --trainer" eval --model "$model" $test "$ck" $option
done
refused "classify --n-ctx" "--n-ctx goes with --trainer" classify --model "$model" --checkpoint "$ck" --n-ctx 4 "$picture"
refused "classify --trainer" "--trainer goes with --checkpoint" classify --model "$model" --classes a --trainer CoOp "$picture"
refused "eval --dataset" "--dataset goes with --dataset-root" eval --model "$model" $test "$ck" --dataset imagenet
for command in "eval --checkpoint $ck --split-half all" "tune --trainer CoOp --out $work/x" "masks --out $work/x" "report --runs $work/run --out $work/x" \
  "paper --table 3 --out $work/x" "attend --text a --out $work/x $picture"; do
  refused "$command: two kinds of data" "--data and --dataset-root: give one of them" $command --model "$model" --data "$data" --dataset-root "$work" --dataset dtd
done
refused "a root without a name" "--dataset-root goes with --dataset" tune --model "$model" --dataset-root "$work" --trainer CoOp --out "$work/x"
for option in "--split a" "--masks grey" "--val 0" --skip-bad; do
  refused "attend $option" "${option%% *} goes with --data or --dataset-root" attend --model "$model" --text a --out "$work/x" $option "$picture"
done
refused "attend --template" "--template goes with --checkpoint" attend --model "$model" --text a --out "$work/x" --template "{}." "$picture"
refused "masks of a text, or any" "--any-class and --text: give one of them" masks --model "$model" --data "$data" --text a --any-class --out "$work/x"
for option in --ablate --guard "--distill stable" "--lambda-base 3" "--lambda-new 3" "--calibration crossfit" "--entropy raw" "--dpc-weight .3" \
  "--dpc-weight-for-new 1" "--dpc-top-k 3" "--masks own" "--masks grey" "--background foo" "--background-template {}" --quick --fill-black; do
  refused "CoOp $option" "${option%% *}: none of the trainers takes it" $tune --trainer CoOp $option --out "$work/x"
done
refused "DPC on FVG-PT" "--dpc-weight: none of the trainers takes it" $tune --trainer FVGPT_CoOp --dpc-weight .3 --out "$work/x"
for option in "--set W=1" "--n-ctx 2" "--ctx-init a" "--class-token-position end" "--preset fork"; do
  refused "heads with $option" "${option%% *}: none of the trainers takes it" $tune --trainer baselines $option --out "$work/x"
done
check "none of these began" [ ! -e "$work/x" ]
does "what one trainer takes may be given" $tune --trainer CoOp,FVGPT_CoOp --masks given --guard --n-ctx 2 --out "$work/mixed"
does "masks that are not needed" $tune --trainer CoOp --masks none --out "$work/plain"
does "published files" eval --model "$model" $test "$work/run/CoOp/seed1/checkpoint.safetensors" --trainer CoOp --shots 2 --preset original

# names, seeds and what takes the place of what
refused "a misspelt trainer" "baselines is expected; did you mean CoOp?" $tune --trainer FVGPT_Coop --out "$work/x"
refused "a misspelt head" "did you mean GDA?" $tune --trainer GDB --out "$work/x"
refused "a misspelt backbone" "--backbone KgCop: no such method; did you mean KgCoOp?" paper --model "$model" --data "$data" --table 1 --backbone KgCop --out "$work/x"
refused "a seed twice" "--seeds 1,2,1: 1 is given twice" $tune --trainer CoOp --seeds 1,2,1 --out "$work/x"
for name in method seed fold H val chosen new_std; do
  refused "a set called $name" "--transfer-to: a set called $name has no place" $tune --trainer CoOp --transfer-to "/nowhere/$name" --out "$work/y"
done
refused "a set called average" "a set called average has no place" tune --model "$model" --data "$data" --data /nowhere/average --trainer CoOp --out "$work/x"
says "the table of other trainers goes" "note: $work/mixed: the tables of this run take the place of those that had FVGPT_CoOp" $tune --trainer CoOp --n-ctx 2 --out "$work/mixed"
silent "not that of the same" "take the place" $tune --trainer CoOp,GDA --n-ctx 2 --out "$work/mixed"
"$fvgpt" $tune --trainer CoOp --shard 1/2 --weights q8 --out "$work/run" >"$work/stdout" 2>"$work/stderr"
check "a shard with other weights" grep -q 'run.json: is of a run on another model, or with other --weights; ' "$work/stderr"
check "a shard of encode names no file that it has not" sh -c "'$fvgpt' encode --model '$model' --cache '$work/store0' --shard 1/2 '$picture' | grep -q 'without --shard\$'"

# masks: one for each picture
cp -R "$data" "$work/twins"
rm -r "$work/twins/mask"
cp "$picture" "$work/twins/$class/001.pnm"
twins="$class/001.pnm and $class/001.ppm would have the same mask"
refused "masks of two pictures of one name" "$work/twins: $twins, $work/masks/$class/001.p" masks --model "$model" --data "$work/twins" --out "$work/masks"
check "none is made" [ ! -e "$work/masks" ]
refused "or when tune makes them" "$twins" tune --model "$model" --data "$work/twins" --all --folds 0 --epochs 1 --augment none \
  --trainer FVGPT_CoOp --out "$work/twins-run"
does "but not when they are not needed" tune --model "$model" --data "$work/twins" --all --folds 0 --epochs 1 --augment none \
  --trainer CoOp --out "$work/twins-run"
rm -r "$work/twins/$class/"*.pnm
odd="a, \"b\"
c.ppm"
mkdir "$work/twins/one, two" && cp "$picture" "$work/twins/one, two/$odd" && cp "$picture" "$work/twins/one, two/d.ppm"
for k in 1 2; do does "masks of odd names, shard $k" masks --model "$model" --data "$work/twins" --quick --out "$work/odd" --shard $k/2; done
does "put together" masks --model "$model" --data "$work/twins" --quick --out "$work/odd"
does "as one run does" masks --model "$model" --data "$work/twins" --quick --out "$work/whole"
check "the table has them all" sh -c "sort '$work/odd/masks.csv' >'$work/odd.csv' && sort '$work/whole/masks.csv' | cmp - '$work/odd.csv'"
check "in quotes" sh -c "grep -q -F ',\"one, two/a, \"\"b\"\"' '$work/odd.csv' && grep -q -x 'c.ppm\"' '$work/odd.csv' && grep -q ',\"one, two/d.ppm\"\$' '$work/odd.csv'"

# DPC: new classes are scored by its learner for them
check "DPC" sh -c "'$fvgpt' $tune --trainer DPC_CoOp --dpc-weight-for-new 1 --lr 1 --out '$work/dpc' >'$work/stdout' 2>'$work/stderr'"
dpc=$work/dpc/DPC_CoOp/seed1
dpc_says() { "$fvgpt" "$@" 2>"$work/stderr" | sed 's/ *$//'; }
named=$(echo "$other" | sed 's|/[^/]*$||; s|.*/||')
new=$(ls "$data" | grep -v mask | tail -n 1)
# the new folder's learner under the other's name would be this
mkdir -p "$work/dpc-new"
cp "$dpc/new/checkpoint.safetensors" "$work/dpc-new/"
for path in "$dpc" "$dpc/" "$dpc/checkpoint.safetensors"; do
  dpc_says classify --model "$model" --top all --classes "$named,$new" --checkpoint "$work/dpc-new" "$picture" >"$work/expected"
  dpc_says classify --model "$model" --top all --classes "$named,$new" --checkpoint "$path" "$picture" >"$work/got"
  check "classify by $path" cmp "$work/expected" "$work/got"
  check "which is told" grep -q "note: $dpc/*new/checkpoint.safetensors is used, DPC's learner for new classes" "$work/stderr"
done
silent "but not for base classes" "is used, DPC" classify --model "$model" --checkpoint "$dpc" "$picture"
dpc_says classify --model "$model" --checkpoint "$dpc" "$picture" >"$work/got"
dpc_says classify --model "$model" --checkpoint "$work/dpc-new" "$picture" >"$work/expected"
check "whose learner is another" sh -c "! cmp -s '$work/expected' '$work/got'"
says "eval" "is used, DPC's learner" eval --model "$model" --data "$data" --checkpoint "$dpc" --split-half new
says "attend" "is used, DPC's learner" attend --model "$model" --checkpoint "$dpc" --text "$new" --out "$work/maps" "$picture"

# a file of features whose process was held up for hours is merged into another's; the process begins a new one
find "$work/world/colours/images" -name '*.ppm' | sort >"$work/list"
pictures=$(wc -l <"$work/list")
encode="encode --threads 1 --model $model --files-from $work/list --out $work/f.safetensors"
"$fvgpt" $encode --cache "$work/store" 2>"$work/stderr" &
id=$!
i=0
while ! ls "$work"/store/*/*.features >/dev/null 2>&1 && [ $i -lt 500 ]; do sleep 0.01; i=$((i + 1)); done
kill -STOP $id
own=$(ls "$work"/store/*/*.features | head -n 1)
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17; do cp "$own" "$(dirname "$own")/copy$i.features"; done
touch -t 202001010000 "$work"/store/*/*.features
does "somebody else merges" encode --model "$model" "$picture" --out "$work/g.safetensors" --cache "$work/store"
check "the file of one that waits" [ ! -e "$own" ]
kill -CONT $id
wait $id
check "which ends well" [ $? -eq 0 ]
says "and nothing of it is lost" "$pictures of $pictures features reused" $encode --cache "$work/store"

# output that cannot be written ends the work; a file may have 4 KB here
for format in --csv --json "--top 4"; do
  (
    ulimit -f 8
    trap '' XFSZ
    "$fvgpt" classify --model "$model" --classes a,b,c,d,e --files-from "$work/list" $format >"$work/full" 2>"$work/stderr"
  )
  check "classify $format into a full file" [ $? -eq 1 ]
  check "is told in one line" [ "$(grep -c '^fvgpt: standard output: cannot write' "$work/stderr")" -eq 1 ]
  check "before all is done" sh -c "! grep -q 'classify *$pictures/$pictures' '$work/stderr'"
done

"$fvgpt" $encode --simd scalar --cache "$work/store2" 2>"$work/stderr" &
id=$!
i=0
while ! ls "$work"/store2/*/*.features >/dev/null 2>&1 && [ $i -lt 500 ]; do sleep 0.01; i=$((i + 1)); done
kill -INT $id
wait $id
check "one that is stopped" [ $? -eq 130 ]
check "keeps what it has" grep -q 'the same command given again begins anew, with the features that are in the cache$' "$work/stderr"

[ "$failed" -eq 0 ] && rm -rf "$work"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
