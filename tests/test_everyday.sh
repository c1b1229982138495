#!/bin/sh
# What everyday use needs of the command line: help that fits a screen, output for programs, lists of files, hints,
# quiet, progress, and tables whose names differ.  $1: the folder with the programs.
build=$1
fvgpt=$build/fvgpt
model=examples/tiny-clip
work=$build/test-everyday
. tests/check.sh
refused() {                                              # refused "what" "text in the message" arguments of fvgpt...
  what=$1
  text=$2
  shift 2
  "$fvgpt" "$@" >"$work/stdout" 2>"$work/stderr"
  status=$?
  grep -v '^fvgpt: note: ' "$work/stderr" >"$work/errors"
  if [ $status -eq 1 ] && [ "$(wc -l <"$work/errors")" -eq 1 ] && grep -q -F -e "$text" "$work/errors"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED $what: exit $status, expected '$text' in: $(head -n 3 "$work/errors")"
  fi
}
has() { grep -q -e "$2" "$1"; }                          # has FILE PATTERN
says() { grep -q -F -x -e "$2" "$1"; }                   # says FILE LINE
lines() { [ "$(wc -l <"$1")" -eq "$2" ]; }
rm -rf "$work"
mkdir -p "$work"

# threads: an option, else the environment
FVGPT_THREADS=many refused "a number of threads that is none" "FVGPT_THREADS=many: a whole number from 1 to 256" info --model "$model"
check "the option goes first" sh -c "FVGPT_THREADS=0 '$fvgpt' info --threads 2 --model '$model' >'$work/info'"

# help: every page fits a screen, and every option of the source is on one
"$fvgpt" help >"$work/help"
commands=$(sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p' "$work/help")
others=$(sed -n 's/^               \([A-Za-z].*\)/\1/p' "$work/help" | tr -d ',')
check "help lists commands" [ "$(echo $commands | wc -w)" -ge 10 ]
check "help lists topics and methods" [ "$(echo $others | wc -w)" -ge 16 ]
fits() { awk 'length($0) > 80 || /[ \t]$/ { exit 1 } END { exit NR < 1 || NR > 24 }' "$1"; }
check "help fits" fits "$work/help"
cat "$work/help" >"$work/pages"
for page in $commands $others help; do
  "$fvgpt" help "$page" >"$work/page" 2>"$work/stderr"
  check "help $page fits a screen" fits "$work/page"
  cat "$work/page" >>"$work/pages"
done
for page in $(sed -n 's/^  {"\([A-Za-z-]*\)", .*/\1/p' tools/fvgpt_manual.c); do
  check "help leads to $page" sh -c "echo ' ' $(echo $commands $others help) ' ' | grep -q -F ' $page '"
done
options=$(sed -n 's/.*add_[a-z]*(t, "\(--[a-z-]*\)".*/\1/p' tools/fvgpt_*.c | sort -u)
check "the source has options" [ "$(echo $options | wc -w)" -ge 60 ]
for option in $options; do
  check "$option is on a page" grep -q -E -e "(^|[^a-z-])$option([^a-z-]|\$)" "$work/pages"
done
for command in $commands; do
  check "$command -h" sh -c "[ \"\$('$fvgpt' $command -h)\" = \"\$('$fvgpt' help $command)\" ] && '$fvgpt' help $command | grep -q '^fvgpt $command '"
done
check "the last word counts" sh -c "[ \"\$('$fvgpt' help tune settings)\" = \"\$('$fvgpt' help settings)\" ]"
check "letter case does not" sh -c "[ \"\$('$fvgpt' help fvg-pt)\" = \"\$('$fvgpt' help FVG-PT)\" ]"
check "a trainer's page is the method's" sh -c "'$fvgpt' help FVGPT_promptsrc | grep -q '^PromptSRC, '"
check "a method's options, values and bounds" sh -c "'$fvgpt' help KgCoOp | grep -q '^    W  *2  *0  *1e+06$'"
check "and published settings" sh -c "'$fvgpt' help KgCoOp | grep -q '^  original, base to new SGD .* 100 .* W=8$'"
check "options of all methods" sh -c "'$fvgpt' help set | grep -q '^  KgCoOp  *W=2$'"

# hints
refused "a misspelt topic" "did you mean settings?" help setings
refused "a misspelt method" "did you mean PromptSRC?" help promtsrc
refused "a misspelt command" "did you mean classify? (\`fvgpt help\`" clasify
refused "an option of this command" "classify has no option --clases; did you mean --classes?" classify --clases a
refused "one dash" "-model: options begin with two dashes; did you mean --model?" classify -model x
refused "a value for a flag" "--quiet takes no value" info --quiet=1
refused "no value" "--model needs a value" info --model
set=$work/set
refused "no such --set" "did you mean W? (KgCoOp has W; CoOp has none)" tune --model "$model" --data "$set" --trainer KgCoOp,FVGPT_CoOp --set w=1 --out "$work/x"
refused "far from any" "--set frobnicate=1: no such option (PromptSRC has n_ctx_vision, depth_text," tune --model "$model" --data "$set" --trainer PromptSRC --set frobnicate=1 --out "$work/x"
refused "--set out of bounds, before anything is encoded" "--set W=-1: KgCoOp expects a number from 0 to 1e+06" tune --model "$model" --data "$set" --trainer KgCoOp --set W=-1 --out "$work/x"
refused "--set of a published trainer" "did you mean W? (KgCoOp has W)" classify --model "$model" --classes a --trainer KgCoOp --set V=1 --checkpoint x x.ppm
refused "no such published trainer" "did you mean KgCoOp?" classify --model "$model" --classes a --trainer kgcop --checkpoint x x.ppm
refused "one of some words" "--preset none: fork or original is expected" tune --preset none
refused "one of many words" "--map x: relevance, gradcam, attention or all is expected" attend --map x
refused "an option before the command" "--model: a command comes first" --model x info
refused "classify without pictures" "classify needs pictures" classify --model "$model" --classes a
refused "names of a published file" "does not tell its classes" classify --model "$model" --trainer CoOp --checkpoint x x.ppm
refused "two data sets for eval" "eval takes one --data, there are 2" eval --model "$model" --data a --data b --checkpoint x --split-half all
refused "--set without a number" "NAME=VALUE with a number" tune --set W

# pictures: two classes for base, two for new
"$build/world" "$work/world" --set colours --train 4 --test 2
mkdir -p "$set/mask"
for class in $(ls "$work/world/colours/images" | head -n 4); do
  mv "$work/world/colours/images/$class" "$set/"
  mv "$work/world/colours/mask/images/$class" "$set/mask/"
done
class_names() { ls "$set" | grep -v mask | tr '\n' ' '; }
set -- $(class_names)
one=$set/$1/000.ppm
two=$set/$2/001.ppm
folder=$set/$3
names=$(echo "$1,$2,$3,$4" | tr _ ' ')
classify="$fvgpt classify --model $model"
by="--classes red,green,blue"

# lists of files
mkfifo "$work/pipe"
sleep 100 >"$work/pipe" &
writer=$!
$classify --classes red,green - <"$work/pipe" 2>"$work/stderr" &
reader=$!
sleep 0.5
kill -INT $reader
wait $reader
check "Ctrl-C while a list is awaited" [ $? -eq 130 ]
kill $writer
printf '%s\n%s\n' "$one" "$two" >"$work/two"
printf '\357\273\277%s\r\n\r\n%s' "$one" "$two" >"$work/two.crlf"
printf '%s\0%s\0' "$one" "$two" >"$work/two.zero"
printf '%s\n%s\n' "$one" "$folder" >"$work/mixed"
$classify $by "$one" "$two" >"$work/expected" 2>/dev/null
check "two pictures" lines "$work/expected" 8
same_as_two() { "$@" 2>/dev/null | cmp -s - "$work/expected"; }
check "--files-from" same_as_two $classify $by --files-from "$work/two"
check "--files-from -" sh -c "$classify $by --files-from - <'$work/two' 2>/dev/null | cmp -s - '$work/expected'"
check "-" sh -c "$classify $by - <'$work/two' 2>/dev/null | cmp -s - '$work/expected'"
check "a file before the list" sh -c "echo '$two' | $classify $by '$one' - 2>/dev/null | cmp -s - '$work/expected'"
check "marks of other systems" same_as_two $classify $by --files-from "$work/two.crlf"
check "zero bytes" same_as_two $classify $by --files-from "$work/two.zero"
check "a name with a line end" sh -c "cp '$one' '$work/a
b.ppm' && printf '%s\0' '$work/a
b.ppm' | $classify $by - 2>/dev/null | grep -c % | grep -q 3"
check "folders in a list" sh -c "[ \$($classify $by --top 1 --files-from '$work/mixed' 2>/dev/null | grep -c %) -eq 7 ]"
check "encode a list" sh -c "'$fvgpt' encode --model '$model' --files-from '$work/two' --out '$work/f.safetensors' 2>/dev/null && head -c 2000 '$work/f.safetensors' | grep -q -a '\"shape\":\[2,'"
check "attend a list" sh -c "'$fvgpt' attend --model '$model' --text red --out '$work/maps' - <'$work/two' 2>/dev/null | grep -c png | grep -q 2"
: >"$work/empty"
refused "an empty list" "$work/empty: this list is empty" classify --model "$model" $by --files-from "$work/empty"
refused "no list" "$work/nowhere: cannot be read: " classify --model "$model" $by --files-from "$work/nowhere"
refused "a folder for a list" "$work: cannot be read: " classify --model "$model" $by --files-from "$work"
refused "an empty list on stdin" "standard input: this list is empty" classify --model "$model" $by - </dev/null
check "a bad picture in a list" sh -c "printf '%s\nnowhere.ppm\n' '$one' | $classify $by - >'$work/out' 2>'$work/stderr'; [ \$? -eq 1 ] && grep -c % '$work/out' | grep -q 3 && grep -q '^fvgpt: 1 of 2 pictures' '$work/stderr'"

# names
printf 'red, or so\r\n\ngreen\n' >"$work/names"
check "--classes-file" sh -c "$classify --classes-file '$work/names' '$one' 2>/dev/null | sed -n 's/.*%  //p' | sort | tr '\n' '|' | grep -q '^green|red, or so|'"
refused "two lists of names" "give one of them" classify --model "$model" $by --classes-file "$work/names" "$one"
refused "an empty list of names" "this list is empty" classify --model "$model" --classes-file "$work/empty" "$one"
printf 'red\ngreen\n Red \n' >"$work/twice"
refused "a name twice in a file" "$work/twice: name 3 \"Red\" means the same as name 1" classify --model "$model" --classes-file "$work/twice" "$one"
printf 'red\n \n' >"$work/blank"
refused "an empty name in a file" "$work/blank: name 2 of 2 is empty" classify --model "$model" --classes-file "$work/blank" "$one"
check "--top all" sh -c "[ \$($classify --classes a,b,c,d,e,f,g --top all '$one' | grep -c %) -eq 7 ]"
check "--top more than there are" sh -c "[ \$($classify --classes a,b,c --top 200000 '$one' | grep -c %) -eq 3 ]"
refused "--top none" "--top 0: a whole number from 1 on, or all" classify --top 0
refused "--top of something" "--top 3x: " classify --top 3x

# JSON and CSV
odd='she said "a, b"'
$classify --classes 'she said "a\, b",green' --json --top all "$one" nowhere.ppm "$two" >"$work/json" 2>"$work/stderr"
check "JSON: a bad picture is an error" [ $? -eq 1 ]
cp "$work/json" "$work/scores.json"
number='[0-9](\.[0-9]+)?(e-[0-9]+)?'
check "JSON: an entry for each" sh -c "grep -c '^[ ,]{\"file\": .*}\$' '$work/json' | grep -q 3 && [ \"\$(sed -n '1p;\$p' '$work/json' | tr '\n' ' ')\" = '[ ] ' ]"
check "JSON: classes" grep -q -E "^ \{\"file\": \"$one\", \"classes\": \[\{\"name\": \"[^{]*\", \"probability\": $number\}, \{\"name\": [^{]*\", \"probability\": $number\}\], \"b\": null\}\$" "$work/json"
check "JSON: a fault has its place" sh -c "sed -n 3p '$work/json' | grep -q -x -F ',{\"file\": \"nowhere.ppm\", \"error\": \"nowhere.ppm: cannot open: No such file or directory\"}'"
check "JSON: quotes" grep -q -F '"she said \"a, b\""' "$work/json"
check "JSON: digits enough" grep -q -E '[.]0*[1-9][0-9]{6,8}[e,}]' "$work/json"
$classify --classes 'she said "a\, b",green' --csv --top all "$one" nowhere.ppm "$two" >"$work/csv" 2>/dev/null
check "CSV" sh -c "says() { grep -q -x -E \"\$1\" '$work/csv'; }; says 'file,rank,class,probability,b,error' && says '$one,[12],\"she said \"\"a, b\"\"\",$number,,' && says '$one,[12],green,$number,,'"
check "CSV: a fault" says "$work/csv" 'nowhere.ppm,,,,,nowhere.ppm: cannot open: No such file or directory'
check "CSV: ranks" sh -c "[ \"\$(cut -d , -f 2 '$work/csv' | tr '\n' ' ')\" = 'rank 1 2  1 2 ' ]"
check "the same numbers in both" sh -c "grep -o -E 'probability\": $number' '$work/json' | sed 's/.* //' >'$work/numbers' && sed 's/\"she[^e]*e said[^,]*,[^,]*,/x,/' '$work/csv' | grep -E -o ',$number,,\$' | tr -d , | cmp -s - '$work/numbers'"
check "text has them too, rounded" sh -c "$classify --classes 'she said \"a\, b\",green' '$one' | grep -q -F '$odd'"
$classify $by --json nowhere.ppm >"$work/json1" 2>"$work/stderr"
check "JSON of a bad picture alone" sh -c "tr -d '\n' <'$work/json1' | grep -q '^\[ {\"file\": \"nowhere.ppm\", \"error\": \".*\"}\]\$' && [ \$(wc -l <'$work/stderr') -eq 1 ]"
refused "both" "only one of them" classify --model "$model" $by --json --csv "$one"
bad=$(printf 'x\033[31my\302\233m"z,\377')
cp "$one" "$work/$bad.ppm"
check "JSON: escapes" sh -c "$classify $by --json \"\$1\" | grep -q -F 'x\u001b[31my\u009bm\\\"z,\ufffd.ppm'" _ "$work/$bad.ppm"
check "CSV: bytes as they are" sh -c "$classify $by --csv \"\$1\" | grep -a -q -F \"\$2\"" _ "$work/$bad.ppm" "$(printf '[31my\302\233m""z,\377.ppm"')"

# a run, checkpoints and quiet
run="tune --model $model --data $set --seeds 1 --epochs 2 --shots 2 --augment none"
check "tune --quiet" sh -c "'$fvgpt' $run --trainer FVGPT_CoOp --distill stable --quiet --out '$work/run' >'$work/table' 2>'$work/stderr' && ! grep -v -q '^fvgpt: FVGPT' '$work/stderr' && grep -q '^FVGPT_CoOp+stable' '$work/table'"
check "is the same run" sh -c "'$fvgpt' $run --trainer FVGPT_CoOp --distill stable --out '$work/run' 2>'$work/stderr' | cmp -s - '$work/table' && grep -c '^fvgpt: note: .* seed 1: reusing' '$work/stderr' | grep -q 2"
ck=$work/run/CoOp/seed1
gated=$work/run/FVGPT_CoOp+stable/seed1
$classify --checkpoint "$ck" "$one" >"$work/by-folder" 2>/dev/null
check "a checkpoint's folder" lines "$work/by-folder" 3
check "and its file" sh -c "$classify --checkpoint '$ck/checkpoint.safetensors' '$one' 2>/dev/null | cmp -s - '$work/by-folder'"
check "--quiet has no notes" sh -c "$classify --quiet --checkpoint '$ck' '$one' 2>&1 | cmp -s - '$work/by-folder'"
check "but errors" sh -c "! $classify --quiet $by nowhere.ppm 2>'$work/stderr' && grep -q '^fvgpt: nowhere.ppm: ' '$work/stderr'"
check "b in JSON" sh -c "$classify --quiet --checkpoint '$gated' --classes 'red disc,blue disc' --json '$one' | grep -q -E '\"b\": 0[.][0-9]+\}'"
check "b in CSV" sh -c "$classify --quiet --checkpoint '$gated' --classes 'red disc,blue disc' --csv '$one' | grep -q -E '^$one,1,(red|blue) disc,$number,0[.][0-9]+,\$'"
refused "a folder above" "no checkpoint.safetensors in this folder; tune writes them as" classify --model "$model" --checkpoint "$work/run/CoOp" "$one"
refused "nothing there" "$work/none: neither a file nor a folder" classify --model "$model" --checkpoint "$work/none" "$one"
eval="eval --model $model --data $set --checkpoint $ck --split-half all"
"$fvgpt" $eval --json >"$work/json" 2>/dev/null
"$fvgpt" $eval --csv >"$work/csv" 2>/dev/null
field() { sed "s/.*\"$1\": \([0-9.]*\).*/\1/" "$work/json"; }
check "eval --json" grep -q -x -E '\{"half": "all", "classes": 4, "images": [0-9]+, "correct": [0-9]+, "accuracy": [0-9.]+, "error": [0-9.]+, "macro_f1": [0-9.]+\}' "$work/json"
check "its accuracy is exact" awk -v a="$(field accuracy)" -v n="$(field images)" -v k="$(field correct)" 'BEGIN { exit !(a == 100 * k / n) }'
check "eval --csv" says "$work/csv" "half,classes,images,correct,accuracy,error,macro_f1"
check "has the same numbers" says "$work/csv" "all,4,$(field images),$(field correct),$(field accuracy),$(field error),$(field macro_f1)"
refused "eval, both" "only one of them" $eval --json --csv

# results.csv
accuracy='[0-9]+(\.[0-9]+)?'
check "results.csv" sh -c "head -n 1 '$work/run/results.csv' | grep -q -x 'data,shots,method,seed,fold,test,accuracy' && [ \$(grep -c -E '^set,2,(zero_shot|CoOp|FVGPT_CoOp.stable),1,,(base|new),$accuracy\$' '$work/run/results.csv') -eq 6 ] && [ \$(wc -l <'$work/run/results.csv') -eq 7 ]"
check "has the numbers of results.json" sh -c "sed -n 's/.*\"seed\": 1, \"base\": \([0-9.]*\), \"new\": \([0-9.]*\),.*/\1 \2/p' '$work/run/results.json' | tr ' ' '\n' >'$work/json1'; sed 1d '$work/run/results.csv' | awk -F, '{ printf \"%.4f\n\", \$7 }' | cmp -s - '$work/json1'"
cp "$work/run/results.csv" "$work/csv1"
rm "$work/run/results.csv"
check "table writes it too" sh -c "'$fvgpt' table '$work/run' >/dev/null && cmp -s '$work/run/results.csv' '$work/csv1'"

# all pictures
all="tune --model $model --trainer FVGPT_CoOp,DPC_CoOp --epochs 1 --augment none --all --folds 3 --quiet"
check "tune --all" sh -c "'$fvgpt' $all --data '$set' --out '$work/all' >'$work/table' 2>/dev/null"
cp "$work/table" "$work/all.txt"
check "tells what is to be used" says "$work/table" "CoOp        seed 1          tuned on all 24 pictures: $work/all/CoOp/seed1"
check "with an estimate" grep -q '^set  *accuracy  *+-   mean of 3 folds$' "$work/table"
best=$(sed -n 's/^next: .*--checkpoint \([^ ]*\) PICTURE...$/\1/p' "$work/table")
check "and what comes next" sh -c "$classify --checkpoint '$best' '$one' 2>/dev/null | grep -c % | grep -q 4"
check "of the best method" sh -c "awk -F'\"' '/_std/ && !/zero_shot/ { split(\$7, a, /[ ,]/); if (a[2] >= most) { most = a[2]; name = \$4 } } END { print name }' '$work/all/results.json' | grep -q -x -F '$(basename "$(dirname "$best")")'"
check "each fold in the files" sh -c "[ \$(grep -c -E '^set,0,(zero_shot|(FVGPT_|DPC_)?CoOp),1,[123],accuracy,$accuracy\$' '$work/all/results.csv') -eq 12 ] && [ \$(grep -c '\"fold\": [123], \"accuracy\"' '$work/all/results.json') -eq 12 ]"
check "mean and deviation" sh -c "awk -F, '\$3 == \"CoOp\" { n++; s += \$7; q += \$7 * \$7 } END { printf \"  {\\\"method\\\": \\\"CoOp\\\", \\\"accuracy\\\": %.4f, \\\"accuracy_std\\\": %.4f},\n\", s / n, sqrt(q / n - s / n * s / n) }' '$work/all/results.csv' >'$work/mean' && grep -q -F -x -f '$work/mean' '$work/all/results.json'"
cp -r "$work/all" "$work/all2"
rm -r "$work/all2/CoOp/seed1/fold2of3" "$work/all2/FVGPT_CoOp/seed1/checkpoint.safetensors" "$work/all2/run.json"
check "it goes on" sh -c "'$fvgpt' $all --data '$set' --out '$work/all2' 2>/dev/null | sed 's|/all2/|/all/|' | cmp -s - '$work/all.txt' && diff -r '$work/all' '$work/all2'"
check "table knows folds" sh -c "rm '$work/all2'/results.*; '$fvgpt' table '$work/all2' | grep -q 'mean of 3 folds' && diff -r '$work/all' '$work/all2'"
same_folds() { for k in 1 2 3; do cmp -s "$work/all/CoOp/seed1/fold${k}of3/checkpoint.safetensors" "$work/other/CoOp/seed1/fold${k}of3/checkpoint.safetensors" && echo $k; done; }
cp -r "$set" "$work/copy"
for picture in 000 003 005; do                           # another picture of that name: what was tuned with it differs
  rm -rf "$work/other" "$work/copy/$2"
  cp -r "$set/$2" "$work/copy/$2"
  cp "$set/$1/$picture.ppm" "$work/copy/$2/$picture.ppm"
  "$fvgpt" $all --trainer CoOp --data "$work/copy" --out "$work/other" >/dev/null 2>&1
  check "one fold is tuned without $picture" [ "$(same_folds | wc -l)" -eq 1 ]
  check "the model with it" sh -c "! cmp -s '$work/all/CoOp/seed1/checkpoint.safetensors' '$work/other/CoOp/seed1/checkpoint.safetensors'"
done
check "--folds 0" sh -c "'$fvgpt' $all --folds 0 --trainer CoOp --data '$set' --out '$work/all0' >'$work/table' 2>/dev/null && ! grep -q -e zero_shot -e '+-' '$work/table' && cmp -s '$work/all/CoOp/seed1/checkpoint.safetensors' '$work/all0/CoOp/seed1/checkpoint.safetensors'"
check "--shots and --seeds" sh -c "'$fvgpt' $all --shots 3 --seeds 1,2 --trainer CoOp --data '$set' --out '$work/all3' >'$work/table' 2>/dev/null && grep -q 'CoOp  *seed 2  *tuned on all 12 pictures' '$work/table' && grep -q 'mean of 6 folds' '$work/table'"
rm "$work/copy/$3"/00[2-5].ppm
check "a small class" sh -c "'$fvgpt' $all --trainer CoOp --data '$work/copy' --out '$work/small' 2>&1 | grep -q 'has 2 pictures, which only 2 of the 3 folds test'"
"$build/world" "$work/world" --set things --train 1 --test 1 >/dev/null
check "classes whose two pictures lie in train and test" sh -c "'$fvgpt' $all --folds 2 --trainer CoOp --data '$work/world/things' --out '$work/things' 2>/dev/null | grep -q 'mean of 2 folds'"
check "eval on it warns" sh -c "'$fvgpt' eval --model '$model' --data '$set' --checkpoint '$work/all/CoOp/seed1' --split-half all 2>&1 >/dev/null | grep -q 'was tuned with --all; '"
refused "a report on it" "tune --all has no test pictures" report --model "$model" --data "$set" --runs "$work/all" --out "$work/x"
cat >"$work/world/things/split.json" <<END
{"train": [["images/star/000.ppm", 0, "star"], ["images/bell/000.ppm", 1, "bell"], ["images/house/000.ppm", 2, "house"]],
 "val": [["images/star/000.ppm", 0, "star"]], "test": [["images/house/001.ppm", 2, "house"]]}
END
check "a class of one picture" sh -c "'$fvgpt' $all --folds 2 --trainer CoOp --data '$work/world/things' --out '$work/one' >'$work/table' 2>&1 && grep -q '\"star\" has one picture; such' '$work/table' && grep -q 'CoOp  *seed 1  *tuned on all 4 pictures' '$work/table' && [ \$(grep -c -E 'fold [12]  *accuracy +(0|100)[.]00' '$work/table') -eq 4 ]"
refused "more folds than pictures" "--folds 3: 2 pictures are in classes of two or more" $all --trainer CoOp --data "$work/world/things" --out "$work/x"
refused "--folds alone" "--folds says how --all is tested" tune --model "$model" --data "$set" --trainer CoOp --folds 3 --out "$work/x"
refused "one fold" "--folds 1: " $all --folds 1 --data "$set" --out "$work/x"
refused "too many runs" "4 seeds with 20 folds each are more than 64 runs" $all --folds 20 --seeds 1,2,3,4 --data "$set" --out "$work/x"
for other in "few-shot" "transfer-to $set" "choose lr=0.1,0.2" "calibration crossfit" "val 20"; do
  refused "--all --$other" "--${other%% *}: " $all --$other --data "$set" --out "$work/x"
done
refused "the same folder without --all" "was tuned on other pictures" tune --model "$model" --data "$set" --trainer CoOp --epochs 1 --seeds 1 --augment none --few-shot --shots 3 --quiet --out "$work/all"

# tables: names of sets in full
for name in oxford_flowers oxford_pets_of_every_kind_and_age; do cp -r "$set" "$work/$name"; done
tables="tune --model $model --trainer CoOp --seeds 1 --epochs 1 --shots 1 --augment none --quiet"
"$fvgpt" $tables --few-shot --data "$work/oxford_flowers" --data "$work/oxford_pets_of_every_kind_and_age" --out "$work/few" >"$work/table"
check "both names stand in the table" grep -q '^  *oxford_flowers oxford_pets_of_every_kind_and_age average$' "$work/table"
same_columns() { tail -n 3 "$1" | awk '{ $0 = substr($0, 1, index($0, $NF) + length($NF) - 1) } NR == 1 { for (i = 1; i <= NF; i++) at[i] = index($0, $i) } NR > 1 { for (i = 2; i <= NF; i++) if (substr($0, at[i - 1] - 1, 1) != " " || substr($0, at[i - 1], 7) !~ /[0-9]/) exit 1 }'; }
check "the numbers below them" same_columns "$work/table"
check "results.csv of a list has the lines of all" sh -c "(cat '$work/few/oxford_flowers/results.csv'; tail -n 1 '$work/few/oxford_pets_of_every_kind_and_age/results.csv') | sed '2,3!d' >'$work/two.csv'; grep -F -x -f '$work/two.csv' '$work/few/results.csv' | cmp -s - '$work/two.csv' && [ \$(wc -l <'$work/few/results.csv') -eq 5 ]"
"$fvgpt" $tables --data "$set" --transfer-to "$work/oxford_flowers,$work/oxford_pets_of_every_kind_and_age" --out "$work/transfer" >"$work/table"
check "and in that of other sets" grep -q '^set  *source oxford_flowers oxford_pets_of_every_kind_and_age  ' "$work/table"
check "whose rows are as long" awk '/^set / { n = index($0, "   mean of") - 1 } n && /^(zero_shot|CoOp) / { if (length($0) != n) exit 1; rows++ } END { exit rows != 2 }' "$work/table"
refused "two sets of one name" "two data sets would be called set in the table" tune --model "$model" --data "$work/oxford_flowers" --trainer CoOp --transfer-to "$set,$work/x/../set" --out "$work/x"

# progress
check "progress tells each piece of work once where nobody watches" sh -c "yes '$one' | head -n 400 | $classify $by --top 1 - 2>'$work/stderr' >/dev/null; grep -q '^classify   400/400' '$work/stderr' && [ \$(wc -l <'$work/stderr') -le 11 ] && ! grep -q '$(printf '\r')' '$work/stderr'"
check "and none of one picture" sh -c "$classify $by '$one' 2>&1 >/dev/null | wc -l | grep -q -x ' *0'"
if python3 -c 'import pty, json' 2>/dev/null; then
  check "JSON is JSON" python3 -c 'import json, sys; x = json.load(open(sys.argv[1])); assert [len(x), abs(sum(c["probability"] for c in x[0]["classes"]) - 1) < 1e-6, "error" in x[1]] == [3, True, True]' "$work/scores.json"
  check "on a terminal" python3 tests/progress.py "$build" tiny
else
  echo "skipped: no python3 with pty"
fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
