#!/bin/sh
# The command line, on a small world and its CLIP and on everything that can go wrong: each failure must be one line that
# names the file and the thing, with exit code 1 and nothing left behind.  $1: the folder with the programs.
build=$1
fvgpt=$build/fvgpt
world=$build/world
model=examples/tiny-clip
work=$build/test-commands
export FVGPT_CACHE=none                                  # what is tested is computed; the tests of the cache name a folder
. tests/check.sh
quiet() { "$@" >"$work/stdout" 2>&1; }
refused() {                                              # refused "what" "text in the message" arguments of fvgpt...
  what=$1
  text=$2
  shift 2
  one_line "$what" "$text" "$fvgpt" "$@"
}
one_line() {                                             # one_line "what" "text in the message" command...
  what=$1
  text=$2
  shift 2
  "$@" >"$work/stdout" 2>"$work/stderr"
  status=$?
  grep -v -E '^(encode|classify|attend|[A-Za-z_]*CoOp|PromptSRC|report|working|fvgpt: note:) |half has one class only' "$work/stderr" >"$work/errors"
  lines=$(wc -l <"$work/errors")
  if [ $status -eq 1 ] && [ "$lines" -eq 1 ] && grep -q -F -e "$text" "$work/errors"; then passed=$((passed + 1)); else
    failed=$((failed + 1))
    echo "FAILED $what: exit $status, $lines lines, expected '$text' in: $(head -n 3 "$work/errors")"
  fi
}
rm -rf "$work"
mkdir -p "$work"

# the world: four sets of 32 classes
w=$work/world
mkdir "$w"
small="--set things --train 4 --test 1"                  # 160 pictures
count() { find "$1" -name "$2" 2>/dev/null | wc -l; }
classes_of() { grep -o '", [0-9]*, "' "$1" | sort -u | wc -l; }
between() { [ "$2" -ge "$1" ] && [ "$2" -le "$3" ]; }
differ() { ! cmp -s "$1" "$2"; }
sums() { (cd "$1" && find mask -name '*.pgm' | xargs cksum); }
wrong_masks() {                                          # how many masks of $1 are others than $2's
  sums "$2" >"$work/sums"
  sums "$1" | grep -c -v -x -F -f "$work/sums"
}
# How many backgrounds the captions of a class's pictures $2..$3 mention, least and most; then if all are many.
grounds() {
  awk -F '\t' -v from="$2" -v to="$3" '
    { split($1, part, "/"); class = part[2]; number = part[3] + 0 }
    number >= from && number <= to && match($2, / (on|in|among) [^.]*\.$/) {
      ground = substr($2, RSTART)
      all[ground]
      if (!((class, ground) in seen)) count[class]++
      seen[class, ground]
    }
    END {
      low = 99
      for (class in count) {
        if (count[class] < low) low = count[class]
        if (count[class] > high) high = count[class]
      }
      for (ground in all) total++
      print low, high, (total > 8 ? "of many" : "of few")
    }' "$1/captions.tsv"
}
moved() {                                                # is mask $2 mask $1 moved by half a picture?
  for f in "$1" "$2"; do tail -c 4096 "$f" | od -An -v -tu1 | tr -s ' ' '\n' | grep .; done | awk '
    { x[NR - 1] = $1 }
    END {
      for (i = 0; i < 4096; i++) wrong += x[4096 + i] != x[(int(i / 64) + 32) % 64 * 64 + (i % 64 + 32) % 64]
      exit wrong || NR != 8192
    }'
}
usage() {
  "$world" "$@" >"$work/stdout" 2>"$work/stderr"
  [ $? -eq 1 ] && head -n 1 "$work/stderr" | grep -q '^usage: world OUT'
}
colours=$w/all/colours
check "world" "$world" "$w/all" --set colours --train 24 --test 4
check "28 pictures of each class" [ "$(count "$colours/images" '*.ppm')" -eq 896 ]
check "a mask for each" [ "$(count "$colours/mask/images" '*.pgm')" -eq 896 ]
check "and a caption" [ "$(grep -c '^images/[a-z_]*/[0-9]*.ppm.[a-z ]*\.$' "$colours/captions.tsv")" -eq 896 ]
check "four sets" "$world" "$w/four" --train 1 --test 1
for set in things colours textures control; do
  check "32 classes of $set" [ "$(classes_of "$w/four/$set/split.json")" -eq 32 ]
done
# Colours or textures of base classes, or of new ones (the second half of the labels).
kinds_of() {
  awk -F '"' -v new="$2" '/images/ { split($3, part, ","); if ((part[2] > 15) == new) { sub(/_.*/, "", $4); print $4 } }' \
    "$1" | sort -u
}
for set in colours textures control; do
  kinds_of "$w/four/$set/split.json" 0 >"$work/kinds"
  kinds_of "$w/four/$set/split.json" 1 >"$work/new-kinds"
  check "kinds of $set" [ -s "$work/kinds" -a -s "$work/new-kinds" ]
  check "new classes of $set have nothing of theirs" sh -c "! grep -q -x -F -f '$work/kinds' '$work/new-kinds'"
done
check "split.json is read" sh -c "'$fvgpt' tune --model '$model' --data '$w/four/things' --trainer CoOp --seeds 1 \
  --epochs 1 --shots 1 --augment none --out '$w/out' 2>/dev/null | grep -q '^CoOp  *seed 1 '"
"$world" "$w/good" $small
"$world" "$w/same" $small
"$world" "$w/other" $small --seed 2
check "the same seed draws the same world" diff -r "$w/good" "$w/same"
check "another seed another one" differ "$w/good/things/captions.tsv" "$w/other/things/captions.tsv"
check "of the same classes" cmp "$w/good/things/split.json" "$w/other/things/split.json"
"$world" "$w/day" $small --clear
check "--clear: the same masks and captions" diff -r -x images "$w/good/things" "$w/day/things"
check "in another light" differ "$w/good/things/images/mug/000.ppm" "$w/day/things/images/mug/000.ppm"
"$world" "$w/png" $small --png
check "PNG" [ "$(count "$w/png" '*.png')" -eq 320 -a "$(grep -c '000.png' "$w/png/things/split.json")" -eq 32 ]
"$world" "$w/strict" --set colours --train 10 --test 10 --strength 1
"$world" "$w/strict" --set control --train 10 --test 1 --strength 1
check "strength 1: one background a class in training" [ "$(grounds "$w/strict/colours" 0 9)" = "1 1 of many" ]
check "but not in the test pictures" [ "$(grounds "$w/strict/colours" 10 19 | cut -d ' ' -f 2)" -gt 3 ]
check "nor in the control set" [ "$(grounds "$w/strict/control" 0 9 | cut -d ' ' -f 2)" -gt 3 ]

# masks that are bad or missing
"$world" "$w/bad" $small --bad-masks 1
"$world" "$w/some" $small --bad-masks 0.5
"$world" "$w/none" $small --missing-masks 1
"$world" "$w/half" $small --missing-masks 0.5
"$world" "$w/both" $small --missing-masks 0.25 --bad-masks 0.25
for x in bad some none half both; do
  check "$x: the pictures are the same" diff -r "$w/good/things/images" "$w/$x/things/images"
done
first=$(cd "$w/good/things" && find mask -name '*.pgm' | head -n 1)
bad=$(wrong_masks "$w/bad/things" "$w/good/things")
some=$(wrong_masks "$w/some/things" "$w/good/things")
half=$(count "$w/half/things/mask" '*.pgm')
both=$(count "$w/both/things/mask" '*.pgm')
wrong=$(wrong_masks "$w/both/things" "$w/good/things")
check "--bad-masks 1: all are wrong, not $bad" [ "$bad" -eq 160 ]
check "moved by half a picture" moved "$w/good/things/$first" "$w/bad/things/$first"
check "--bad-masks 0.5: half are wrong, not $some" between 60 "$some" 100
check "but none is missing" [ "$(count "$w/some/things/mask" '*.pgm')" -eq 160 ]
check "--missing-masks 1: none is there" [ "$(count "$w/none/things/mask" '*.pgm')" -eq 0 ]
check "--missing-masks 0.5: half are there, not $half" between 60 "$half" 100
check "and right" [ "$(wrong_masks "$w/half/things" "$w/good/things")" -eq 0 ]
check "a quarter missing, a quarter wrong, not $wrong of $both" between 100 "$both" 140
check "a quarter wrong, a quarter missing, not $wrong of $both" between 22 "$wrong" 58

# the world's arguments and outputs
check "usage without arguments" usage
check "usage: no such option" usage "$w/no" --frobnicate 1
check "usage: an option without its value" usage "$w/no" --train
check "usage: not a number" usage "$w/no" --train 4x
check "usage: not a whole number" usage "$w/no" --test 1.5
check "usage: out of bounds" usage "$w/no" --strength 1.1
check "usage: two folders" usage "$w/no" "$w/no2"
check "usage leaves no folder" [ ! -e "$w/no" ]
one_line "no such set" "--set frobnicate" "$world" "$w/nosuch" --set frobnicate
: >"$work/file"
one_line "a world that cannot be written" "$work/file/world" "$world" "$work/file/world"
mkdir "$w/taken"
: >"$w/taken/things"
one_line "a set that cannot be written" "$w/taken/things/images" "$world" "$w/taken" $small
rm -r "$w/good/things/captions.tsv"
mkdir "$w/good/things/captions.tsv"
one_line "captions that cannot be written" "things/captions.tsv" "$world" "$w/good" $small
check "a sheet of pictures" "$world" --sheet "$w/sheet.png"
check "is a PNG" sh -c "head -c 4 '$w/sheet.png' | grep -q PNG"
one_line "a sheet that cannot be written" "$work/file/sheet.png" "$world" --sheet "$work/file/sheet.png"

# a data set of eight class folders without split.json: four base classes and four new ones
data=$work/data
mkdir -p "$data/mask"
for class in $(ls "$colours/images" | head -n 8); do
  mv "$colours/images/$class" "$data/"
  mv "$colours/mask/images/$class" "$data/mask/"
done
set -- $(ls "$data" | grep -v mask)
base=$1
new=$5
picture=$data/$new/000.ppm
words=$(echo "$new" | tr _ ' ')
image_tower=$(tr '\n' ' ' <"$model/config.json" | sed 's/.*"vision_config": {\([^}]*\)}.*/\1/
  s/.*"hidden_size": \([0-9]*\),.*"num_hidden_layers": \([0-9]*\), "num_attention_heads": \([0-9]*\),.*/width \1, \2 layers, \3 heads/')
quick="--trainer FVGPT_CoOp --seeds 1,2 --epochs 2 --shots 4 --augment none"

# the good path
# weights of eight bits: made when a model is loaded, or once, into a file
q8=$work/q8
mkdir "$q8"
cp "$model/config.json" "$model/merges.txt" "$q8/"
check "info of eight bits" sh -c "'$fvgpt' info --model '$model' --weights q8 | grep -q 'parameters, q8; '"
check "and of two bytes" sh -c "'$fvgpt' info --model '$model' --weights bf16 | grep -q 'parameters, bf16; '"
refused "other weights" "--weights q4: f32, bf16 or q8 is expected" info --model "$model" --weights q4
refused "nowhere to quantise to" "needs --model DIR and --out" quantise --model "$model"
refused "quantised as something else" "takes no --weights" quantise --model "$model" --weights q8 --out "$q8/x"
check "quantise" "$fvgpt" quantise --model "$model" --out "$q8/model.safetensors"
check "to a fraction of the size" [ $(wc -c <"$q8/model.safetensors") -lt $(($(wc -c <"$model/model.safetensors") * 6 / 10)) ]
check "which a note tells when it is opened" sh -c "'$fvgpt' info --model '$q8' 2>&1 | grep -q 'note: .*holds eight-bit weights'"
check "unless it was asked for" sh -c "! '$fvgpt' info --model '$q8' --weights q8 2>&1 | grep -q note:"
refused "and never taken for f32" "--weights f32: $q8 holds eight-bit weights" info --model "$q8" --weights f32
refused "quantised twice" "has eight bits already" quantise --model "$q8" --out "$q8/again"
for kind in f32 q8; do "$fvgpt" encode --model "$model" --weights $kind --text "a cat" --out "$work/$kind.st"; done
"$fvgpt" encode --model "$q8" --quiet --text "a cat" --out "$work/file.st"
check "the file and the loaded model compute the same" cmp -s "$work/q8.st" "$work/file.st"
check "and not what f32 computes" sh -c "! cmp -s '$work/q8.st' '$work/f32.st'"
some="--data $data --trainer CoOp --shots 2 --epochs 1 --seeds 1 --augment none"
check "tune on eight bits" sh -c "'$fvgpt' tune --model '$model' --weights q8 $some --out '$work/tuned' 2>/dev/null | grep -q '^CoOp  *seed 1'"
refused "whose text tower is in f32, and not in the file's eight bits" "was tuned on another model" tune --model "$q8" --weights q8 $some --out "$work/tuned"
rm -rf "$q8" "$work/tuned"

check "info" sh -c "'$fvgpt' info --model '$model' | grep -q '^image *$image_tower, quick_gelu'"
check "tokenize" sh -c "printf 'a photo of a red disc.\n\n' | '$fvgpt' tokenize --model '$model' | tr '\n' '|' | grep -q -E '^([0-9]+ )+[0-9]+\|\|$'"
check "preprocess" "$fvgpt" preprocess --size 32 "$picture" "$work/out.ppm"
check "preprocess writes 32 x 32" sh -c "head -c 11 '$work/out.ppm' | tr '\n' ' ' | grep -q 'P6 32 32'"
check "preprocess crop, flip, PNG" "$fvgpt" preprocess --size 16 --crop 4,8,40,32 --flip "$picture" "$work/out.png"
check "preprocess mask" "$fvgpt" preprocess --size 16 --crop 4,8,40,32 --nearest "$data/mask/$new/000.pgm" "$work/out.pgm"
# 2 x 2 pixels, 16 96 / 160 240, in a PNG that says the camera was turned to the right
turned=$work/turned.png
printf %b "$(printf %s '\211\120\116\107\015\012\032\012\000\000\000\015\111\110\104\122\000\000\000\002\000\000\000\002' \
  '\010\000\000\000\000\127\335\122\370\000\000\000\064\145\130\111\146\115\115\000\052\000\000\000' \
  '\012\077\077\000\003\001\017\000\002\000\000\000\004\143\141\155\000\001\021\000\003\000\000\000' \
  '\001\000\005\000\000\001\022\000\003\000\000\000\001\000\006\000\000\000\000\000\000\022\207\231' \
  '\247\000\000\000\010\111\104\101\124\170\001\001\006\000\371\377\000\132\247\117\076\000\000\000' \
  '\011\111\104\101\124\020\140\000\240\360\004\006\002\001\102\355\253\333\000\000\000\000\111\105' \
  '\116\104\256\102\140\202')" >"$turned"
noted() { what=$1; times=$2; shift 2; check "$what" sh -c "n=\$(\"\$@\" 2>&1 >'$work/stdout' | grep -c exif-rotate); [ \$n -eq $times ]" _ "$@"; }
grey_is() { [ "$(tail -c 4 "$1" | od -A n -t u1 | tr -s ' ' ' ')" = "$2" ]; }
upright="preprocess --size 2 --crop 0,0,2,2 --nearest"
if "$fvgpt" $upright "$turned" "$work/stored.pgm" 2>&1 | grep -q FVGPT_STB_IMAGE; then
  echo "skipped: turned pictures are PNG, which needs FVGPT_STB_IMAGE"
else
noted "a turned picture is noted" 1 "$fvgpt" $upright "$turned" "$work/stored.pgm"
check "and taken as stored" grey_is "$work/stored.pgm" " 16 96 160 240"
noted "or turned" 0 "$fvgpt" $upright --exif-rotate "$turned" "$work/upright.pgm"
check "as EXIF says" grey_is "$work/upright.pgm" " 160 16 240 96"
noted "classify: one note for three" 1 "$fvgpt" classify --model "$model" --classes red,blue "$turned" "$picture" "$turned"
noted "classify --exif-rotate" 0 "$fvgpt" classify --model "$model" --classes red,blue --exif-rotate "$turned"
noted "encode" 1 "$fvgpt" encode --model "$model" --image "$turned" --out "$work/stored.safetensors"
noted "encode --exif-rotate" 0 "$fvgpt" encode --model "$model" --image "$turned" --exif-rotate --out "$work/upright.safetensors"
check "gives other features" differ "$work/stored.safetensors" "$work/upright.safetensors"
noted "attend" 1 "$fvgpt" attend --model "$model" --text red --out "$work/turned" "$turned"
noted "attend --exif-rotate" 0 "$fvgpt" attend --model "$model" --text red --exif-rotate --out "$work/turned" "$turned"
for class in a b; do
  mkdir -p "$work/camera/$class"
  for number in 0 1 2 3 4 5; do cp "$turned" "$work/camera/$class/$number.png"; done
done
camera="tune --model $model --data $work/camera --trainer CoOp --seeds 1 --epochs 1 --shots 2 --augment none --threads 3"
noted "tune: one note, whatever the threads" 1 "$fvgpt" $camera --out "$work/camera1"
noted "tune --exif-rotate" 0 "$fvgpt" $camera --exif-rotate --out "$work/camera2"
noted "eval" 1 "$fvgpt" eval --model "$model" --data "$work/camera" --checkpoint "$work/camera1/CoOp/seed1" --split-half all
noted "eval --exif-rotate" 0 "$fvgpt" eval --model "$model" --data "$work/camera" --checkpoint "$work/camera2/CoOp/seed1" --split-half all --exif-rotate
refused "a stage tuned as stored" "exif_rotate unset" $camera --exif-rotate --out "$work/camera1"
check "a stage tuned upright" sh -c "! $fvgpt $camera --out '$work/camera2' 2>&1 | grep -q reusing && $fvgpt $camera --out '$work/camera2' 2>&1 | grep -q 'tuned with --exif-rotate'"
fi
check "encode" "$fvgpt" encode --model "$model" --image "$picture" --text "$words" --text "blue square" --out "$work/features.safetensors"
check "classify" sh -c "'$fvgpt' classify --model '$model' --classes '$words, blue square' '$picture' | grep -c % | grep -q 2"
check "tune" sh -c "'$fvgpt' tune --model '$model' --data '$data' $quick --threads 1 --out '$work/t1' >'$work/table1' 2>/dev/null"
check "results.json" sh -c "grep -c '\"method\"' '$work/t1/results.json' | grep -q 13"
check "a loss for each epoch" sh -c "grep -c -E '\"(CoOp|FVGPT_CoOp)\", \"seed\": [12], \"loss\": \[[0-9.e+-]+, [0-9.e+-]+\]' '$work/t1/results.json' | grep -q 4"
cp "$work/t1/results.json" "$work/first.json"
for threads in 2 5; do
  check "tune, $threads threads" sh -c "'$fvgpt' tune --model '$model' --data '$data' $quick --threads $threads --out '$work/t$threads' >'$work/table$threads' 2>/dev/null"
  check "same bytes with $threads threads" cmp "$work/t1/FVGPT_CoOp/seed2/checkpoint.safetensors" "$work/t$threads/FVGPT_CoOp/seed2/checkpoint.safetensors"
  check "same table with $threads threads" cmp "$work/table1" "$work/table$threads"
done
check "finished stages are reused" sh -c "'$fvgpt' tune --model '$model' --data '$data' $quick --out '$work/t1' 2>&1 >'$work/again' | grep -c reusing | grep -q 4"
check "and give the same table" cmp "$work/table1" "$work/again"
check "and the same results.json, curves and all" cmp "$work/first.json" "$work/t1/results.json"
check "crop" quiet "$fvgpt" tune --model "$model" --data "$data" --trainer FVGPT_CoOp --seeds 3 --epochs 2 --shots 2 --augment crop --out "$work/crop"
for half in base new all; do
  check "eval $half" sh -c "'$fvgpt' eval --model '$model' --data '$data' --checkpoint '$work/t1/FVGPT_CoOp/seed1' --split-half $half 2>/dev/null | grep -q '^$half classes'"
done
check "eval agrees with tune" sh -c "a=\$('$fvgpt' eval --model '$model' --data '$data' --checkpoint '$work/t1/FVGPT_CoOp/seed1' --split-half new 2>/dev/null | sed 's/.*accuracy \([0-9.]*\).*/\1/'); grep -q \"^FVGPT_CoOp  seed 1 .*new  *\$a \" '$work/table1'"
check "classify with a checkpoint" quiet "$fvgpt" classify --model "$model" --checkpoint "$work/t1/FVGPT_CoOp/seed1" --classes "$words,green star" "$picture"
# class names: spellings of one name are one class, and a note says which were tuned on
names_of() { "$fvgpt" classify --model "$model" --checkpoint "$work/t1/FVGPT_CoOp/seed1" "$@" "$picture" 2>"$work/names.err" | sed 's/ *$//' | tr 'A-Z_' 'a-z '; }
known=$(echo "$base" | tr _ ' ')
names_of --classes "$known,green star" >"$work/names1"
names_of --classes " $(echo "$base" | tr 'a-z' 'A-Z') ,green star$(printf '\r')" >"$work/names2"
check "spellings of a name give the same chances" cmp "$work/names1" "$work/names2"
check "and a note says which is which" grep -q "1 of 2 names taken for base (tuned on): .*; 1 for new: green star" "$work/names.err"
names_of --classes "$known" >"$work/names1"
check "tuned names alone are base" grep -q "1 of 1 names taken for base (tuned on): $known; 0 for new: none" "$work/names.err"
check "without --classes the tuned names" sh -c "'$fvgpt' classify --model '$model' --checkpoint '$work/t1/FVGPT_CoOp/seed1' '$picture' 2>&1 | grep -c % | grep -q 4"
check "a comma in a name" sh -c "'$fvgpt' classify --model '$model' --classes 'disc\\, red,green star' '$picture' | grep -q 'disc, red *$'"
for list in "a,,b" ",a" "a," "a, ,b" "a,_"; do
  refused "an empty name in '$list'" "is empty" classify --model "$model" --classes "$list" "$picture"
done
refused "a name twice" "means the same" classify --model "$model" --classes "red disc,blue,Red_Disc " "$picture"
refused "no names at all" "classify needs names: --classes" classify --model "$model" "$picture"
check "eval says the same" sh -c "'$fvgpt' eval --model '$model' --data '$data' --checkpoint '$work/t1/FVGPT_CoOp/seed1' --split-half all 2>&1 >/dev/null | grep -q '4 of 8 names taken for base (tuned on): .*; 4 for new: '"
check "attend says the same" sh -c "'$fvgpt' attend --model '$model' --checkpoint '$work/t1/FVGPT_CoOp/seed1' --text '$words' --out '$work/maps0' '$picture' 2>&1 >/dev/null | grep -q '0 of 1 names taken for base (tuned on): none; 1 for new: $words'"
# where it looks: a line a map, and no name twice
ck=$work/t1/FVGPT_CoOp/seed1
two="$data/$base/000.ppm $picture"
attend="$fvgpt attend --model $model --out $work/maps/deep --text"
check "attend" sh -c "$attend 'a photo of a $words.' $two >'$work/attend' && [ \$(grep -c -E '000[.]ppm  -?[0-9.]+  .*png$' '$work/attend') -eq 2 ]"
check "attend writes the relevance map of both" sh -c "[ \$(ls '$work/maps/deep' | tr '\n' '|') = '000_2_relevance.png|000_relevance.png|' ]"
check "attend: the caption's maps differ from another's" sh -c "cp '$work/maps/deep/000_relevance.png' '$work/red.png' && $attend 'blue square' $two >/dev/null && ! cmp -s '$work/maps/deep/000_relevance.png' '$work/red.png'"
check "attend --map all" sh -c "$attend red --map all $two | grep -c png | grep -q 6 && [ \$(ls '$work/maps/deep' | tr '\n' '|') = '000_2_attention.png|000_2_gradcam.png|000_2_relevance.png|000_attention.png|000_gradcam.png|000_relevance.png|' ]"
check "attend --map gradcam" sh -c "$attend red --map gradcam '$picture' | grep -q 'gradcam.png$'"
check "three maps that differ" sh -c "cd '$work/maps/deep' && ! cmp -s 000_gradcam.png 000_relevance.png && ! cmp -s 000_attention.png 000_relevance.png"
check "attend with masks" sh -c "$attend red --data '$data' $two | grep -c -E 'png  inside [0-9.]+  hottest (in|out)  IoU [0-9.]+$' | grep -q 2"
check "attend with masks elsewhere" sh -c "cp '$picture' '$work/elsewhere.ppm' && $attend red --data '$data' '$work/elsewhere.ppm' | grep -q 'png$'"
check "attend against the other classes" sh -c "$attend $base --checkpoint '$ck' '$picture' >/dev/null && cp '$work/maps/deep/000_relevance.png' '$work/red.png' && $attend $base --checkpoint '$ck' --against classes '$picture' >/dev/null && ! cmp -s '$work/maps/deep/000_relevance.png' '$work/red.png'"
check "attend against other words" sh -c "$attend $base --checkpoint '$ck' --background sky --background 'a blue sea' '$picture' >/dev/null && ! cmp -s '$work/maps/deep/000_relevance.png' '$work/red.png'"
check "attend with a tuned class" sh -c "$attend $base --checkpoint '$ck' $two | grep -c png | grep -q 2"
check "attend with a new class" sh -c "$attend '$words' --checkpoint '$ck' $two | grep -c png | grep -q 2"
check "attend with prompts alone" sh -c "$attend '$words' --checkpoint '$work/t1/CoOp/seed1' $two | grep -c png | grep -q 2"
cp -r "$data" "$work/two & <more>"
check "report" sh -c "'$fvgpt' report --model '$model' --data '$data' --runs '$work/t1' --data '$work/two & <more>' --runs '$work/t2' --pictures 2 --out '$work/report' >/dev/null 2>&1"
check "a page with 8 pictures, 20 drawings" sh -c "[ \$(grep -c 'class=\"card shot\"' '$work/report/index.html') -eq 8 ] && [ \$(grep -c '<svg' '$work/report/index.html') -eq 20 ] && tail -n 1 '$work/report/index.html' | grep -q '</html>'"
check "links that lead somewhere" sh -c "grep -o 'href=\"#[^\"]*' '$work/report/index.html' | sed 's/.*#//' | sort -u >'$work/links' && grep -o ' id=\"[^\"]*' '$work/report/index.html' | sed 's/.*\"//' | sort >'$work/places' && [ \$(wc -l <'$work/links') -eq 19 ] && [ -z \"\$(comm -23 '$work/links' '$work/places')\" ] && [ -z \"\$(uniq -d '$work/places')\" ]"
check "the checkpoints give what tune wrote" sh -c "[ \$(grep -c '\"difference_from_runs\": 0.00,' '$work/report/results.json') -eq 2 ]"
check "names are escaped" sh -c "grep -q 'two &amp; &lt;more&gt;' '$work/report/index.html' && ! grep -q '<more>' '$work/report/index.html' && grep -q '\"two & <more>\"' '$work/report/results.json'"
check "nothing from elsewhere, no program" sh -c "! grep -E -q '<script|https?://|url\(|@import|<link[^>]*href=\"[^d]' '$work/report/index.html'"
sed -e '/<style>/,/<\/style>/d' -e 's/<[^>]*>/ /g' -e 's/&#*[a-z0-9]*;/ /g' "$work/report/index.html" | grep -v 'Made by' | grep -o -E '[0-9]+([.][0-9]+)?' | sort -u >"$work/shown"
grep -o -E '[0-9]+([.][0-9]+)?' "$work/report/results.json" | sort -u >"$work/stored"
check "the page shows numbers" sh -c "[ \$(wc -l <'$work/shown') -gt 50 ]"
check "and all of them are in results.json" sh -c "[ -z \"\$(comm -23 '$work/shown' '$work/stored')\" ]"
check "of fewer pictures" sh -c "'$fvgpt' report --model '$model' --data '$data' --runs '$work/t1' --pictures 1 --measured 3 --out '$work/report3' >/dev/null 2>&1 && [ \$(grep -c '\"masked_pictures\": 3,' '$work/report3/results.json') -eq 2 ]"
check "report again, over its own" quiet "$fvgpt" report --model "$model" --data "$data" --runs "$work/t1" --pictures 1 --out "$work/report"
check "no partial files" sh -c "! find '$work' -name '*.part' | grep -q ."

# lists of trainers and data sets, few shots, other data sets' classes, published checkpoints
tiny="--shots 2 --epochs 2 --seeds 1,2 --augment none"
cp -r "$data" "$work/other"
list() { "$fvgpt" tune --model "$model" --data "$data" --data "$work/other" --trainer FVGPT_KgCoOp,PromptSRC,FVGPT_MMRL $tiny "$@"; }
made() { list --set W=4 --out "$work/list" >"$work/list.txt" 2>"$work/list.err"; }
check "a list" made
check "its table" sh -c "tail -n 6 '$work/list.txt' | grep -q '^FVGPT_KgCoOp .* [0-9.]*\$' && grep -q '\"method\": \"FVGPT_MMRL\", \"$(basename "$data")\": {\"base\"' '$work/list/results.json'"
check "equal data sets have equal results" cmp "$work/list/$(basename "$data")/results.json" "$work/list/other/results.json"
cp "$work/list.txt" "$work/list1.txt"
check "the list again" made
check "trains nothing" sh -c "[ \$(grep -c reusing '$work/list.err') -eq 20 ] && ! grep -q epoch '$work/list.err' && cmp '$work/list1.txt' '$work/list.txt'"
refused "other options" "other options of the method" tune --model "$model" --data "$data" --trainer KgCoOp $tiny --set W=5 --out "$work/list/$(basename "$data")"
refused "other epochs" "epochs 2, not 3" tune --model "$model" --data "$data" --trainer KgCoOp --shots 2 --epochs 3 --seeds 1 --augment none --set W=4 --out "$work/list/$(basename "$data")"
refused "two data sets of one name" "two data sets are called" tune --model "$model" --data "$data" --data "$data" --trainer CoOp --out "$work/x"
refused "an option of no trainer" "--set V=1" tune --model "$model" --data "$data" --trainer KgCoOp --set V=1 --out "$work/x"
refused "an option without a number" "--set W=much" tune --model "$model" --data "$data" --trainer KgCoOp --set W=much --out "$work/x"
refused "an option out of bounds" "W=-1: KgCoOp expects a number from 0 to" tune --model "$model" --data "$data" --trainer KgCoOp --set W=-1 --shots 2 --seeds 1 --out "$work/x"
refused "FVG-PT on CoCoOp" "FVGPT_CoCoOp" tune --model "$model" --data "$data" --trainer FVGPT_CoCoOp --out "$work/x"
cut_off() {                                              # a run of many epochs, killed as soon as it keeps a state
  "$fvgpt" tune --model "$model" --data "$data" --trainer KgCoOp --shots 2 --epochs 65536 --seeds 1 --augment none --out "$work/off" >"$work/stdout" 2>&1 &
  run=$!
  n=0
  while [ ! -f "$work/off/KgCoOp/seed1/checkpoint.safetensors.part" ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
  kill -9 $run
  wait $run 2>/dev/null
  [ $n -lt 100 ]
}
check "a run that was killed" cut_off
cp -r "$work/off" "$work/off-before"
for other in "--set W=3" "--class-token-position middle" "--n-ctx 3" "--template {}!"; do
  refused "goes on with $other" "other settings" tune --model "$model" --data "$data" --trainer KgCoOp --shots 2 --epochs 65536 --seeds 1 --augment none --out "$work/off" $other
done
check "and what was begun stays as it is" diff -r -x .fvgpt.lock "$work/off-before" "$work/off"
rm -r "$work/off" "$work/off-before"
check "ablation" sh -c "'$fvgpt' tune --model '$model' --data '$data' --trainer FVGPT_KgCoOp --ablate $tiny --out '$work/ablate' 2>/dev/null | grep -q '^KgCoOp_PC  *seed 2'"
check "with another entropy is another row" sh -c "'$fvgpt' tune --model '$model' --data '$data' --trainer FVGPT_KgCoOp --ablate $tiny --entropy normalised --out '$work/ablate' 2>/dev/null | grep -q '^KgCoOp_PC+normalised  *seed 2'"
check "wherever there is a gate" sh -c "cd '$work/ablate' && [ -d KgCoOp_FRG+FDC+normalised ] && [ ! -d KgCoOp_FDC+normalised ]"
refused "a calibration of no kind" "--calibration fitted" tune --calibration fitted
check "FVG-PT trained in other ways" sh -c "cd '$work/ablate' && [ -d FVGPT_KgCoOp+stable ] && [ -d FVGPT_KgCoOp+no_distillation ] && [ -d FVGPT_KgCoOp+inverted_masks ] && ! cmp -s FVGPT_KgCoOp/seed1/checkpoint.safetensors FVGPT_KgCoOp+inverted_masks/seed1/checkpoint.safetensors"
other="tune --model $model --data $data --trainer FVGPT_KgCoOp $tiny"
check "a stable row is that of the ablation" sh -c "'$fvgpt' $other --distill stable --out '$work/ablate' >'$work/stdout' 2>&1 && grep -q '^FVGPT_KgCoOp+stable *seed 2' '$work/stdout' && grep -q 'note: FVGPT_KgCoOp+stable seed 1: reusing' '$work/stdout'"
check "which says so" grep -q "^settings    FVGPT_KgCoOp+stable: .*, lambda-base 0.1$" "$work/stdout"
moved() {                                                # moved ROW OTHER_ROW: what is there of ROW lies in OTHER_ROW's folder
  rm -rf "$work/moved"
  mkdir "$work/moved"
  cp -r "$work/ablate/KgCoOp" "$work/moved/KgCoOp"
  cp -r "$work/ablate/$1" "$work/moved/$2"
}
moved FVGPT_KgCoOp+stable FVGPT_KgCoOp
refused "a stable stage is no published one" "tuned with --distill stable" $other --lambda-base 0.1 --out "$work/moved"
moved FVGPT_KgCoOp+inverted_masks FVGPT_KgCoOp
refused "nor one on inverted masks" "tuned with inverted masks" $other --out "$work/moved"
moved FVGPT_KgCoOp FVGPT_KgCoOp+stable
refused "nor a published one stable" "lambda_base 10, not 0.1" $other --distill stable --out "$work/moved"
refused "whatever its weight" "distillation unset, not stable" $other --distill stable --lambda-base 10 --out "$work/moved"
moved FVGPT_KgCoOp FVGPT_KgCoOp+guard
refused "nor guarded" "guard unset, not on" $other --guard --out "$work/moved"
refused "a distillation of no kind" "--distill soft" tune --distill soft
check "adapters that do harm" sh -c "'$fvgpt' $other --lr 0.3 --out '$work/harm' >'$work/stdout' 2>&1 && grep -q \"FVGPT_KgCoOp: the adapters' cross-entropy .* worse than the backbone's .* --distill stable .* --guard\" '$work/stdout'"
check "are left out by a guard" sh -c "'$fvgpt' $other --lr 0.3 --guard --out '$work/harm' >'$work/stdout' 2>&1 && grep -q \"FVGPT_KgCoOp: the adapters' cross-entropy .* keep the backbone's scores\" '$work/stdout'"
base_of() { sed -n "s/^$1  *seed 1 *base *\\([0-9.]*\\) .*/\\1/p" "$work/stdout"; }
check "base classes are scored by the backbone" sh -c "[ -n '$(base_of KgCoOp)' ] && [ '$(base_of KgCoOp)' = '$(base_of FVGPT_KgCoOp+guard)' ]"
check "also by eval" sh -c "'$fvgpt' eval --model '$model' --data '$data' --checkpoint '$work/harm/FVGPT_KgCoOp+guard/seed1' --split-half base 2>/dev/null | grep -q 'accuracy $(base_of KgCoOp) '"
check "a guard does nothing else" sh -c "'$fvgpt' $other --guard --set W=4 --out '$work/list/$(basename "$data")' >'$work/stdout' 2>&1 && ! grep -q cross-entropy '$work/stdout'"
refused "no such published set" "caltech101" tune --model "$model" --dataset-root "$work" --dataset mnist --trainer CoOp --out "$work/x"
check "few shots" sh -c "'$fvgpt' tune --model '$model' --data '$data' --trainer FVGPT_KgCoOp --few-shot --shots 1,2 --epochs 2 --seeds 1 --augment none --out '$work/few-shot' 2>/dev/null | grep -q '^FVGPT_KgCoOp  *[0-9.]*  *[0-9.]*  *[0-9.]*\$'"
check "transfer" sh -c "'$fvgpt' tune --model '$model' --data '$data' --trainer FVGPT_MMRL --transfer-to '$work/other' $tiny --out '$work/transfer' 2>/dev/null | grep -q 'FVGPT_MMRL *seed 2 *source *[0-9.]* *other *[0-9.]*'"
check "cross-fitted gates" sh -c "'$fvgpt' tune --model '$model' --data '$data' --trainer FVGPT_KgCoOp $tiny --set W=4 --calibration crossfit --entropy normalised --out '$work/list/$(basename "$data")' 2>/dev/null | grep -q '^FVGPT_KgCoOp+crossfit+normalised' && '$fvgpt' tune --model '$model' --data '$data' --trainer FVGPT_KgCoOp $tiny --set W=4 --calibration guarded --out '$work/list/$(basename "$data")' 2>/dev/null | grep -q '^FVGPT_KgCoOp+guarded'"
check "DPC" sh -c "'$fvgpt' tune --model '$model' --data '$data' --trainer DPC_KgCoOp $tiny --set W=4 --out '$work/list/$(basename "$data")' >'$work/dpc.txt' 2>/dev/null && grep -q '^DPC_KgCoOp' '$work/dpc.txt'"
check "DPC keeps new classes" sh -c "[ \"\$(sed -n 's/^KgCoOp .* new *\([0-9.]*\) .*/\1/p' '$work/dpc.txt')\" = \"\$(sed -n 's/^DPC_KgCoOp .* new *\([0-9.]*\) .*/\1/p' '$work/dpc.txt')\" ]"
dpc=$work/list/$(basename "$data")/DPC_KgCoOp/seed2
check "DPC's learner for base classes" sh -c "grep -q \"^DPC_KgCoOp *seed 2 .*base *\$('$fvgpt' eval --model '$model' --data '$data' --checkpoint '$dpc' --split-half base 2>/dev/null | sed 's/.* accuracy \([0-9.]*\) .*/\1/')\" '$work/dpc.txt'"
check "DPC's learner for new classes" sh -c "grep -q \"^DPC_KgCoOp *seed 2 .*new *\$('$fvgpt' eval --model '$model' --data '$data' --checkpoint '$dpc/new' --split-half new 2>/dev/null | sed 's/.* accuracy \([0-9.]*\) .*/\1/')\" '$work/dpc.txt'"
refused "another weight of DPC" "dpc_weight 0.5, not 0.2" tune --model "$model" --data "$data" --trainer DPC_KgCoOp $tiny --set W=4 --dpc-weight 0.2 --out "$work/list/$(basename "$data")"
check "another weight for new classes" sh -c "'$fvgpt' tune --model '$model' --data '$data' --trainer DPC_KgCoOp $tiny --set W=4 --dpc-weight-for-new 1 --out '$work/list/$(basename "$data")' >'$work/dpc.txt' 2>'$work/dpc.err' && ! grep -q epoch '$work/dpc.err'"
check "makes another learner for them" sh -c "grep -q \"^DPC_KgCoOp *seed 2 .*new *\$('$fvgpt' eval --model '$model' --data '$data' --checkpoint '$dpc/new' --split-half new 2>/dev/null | sed 's/.* accuracy \([0-9.]*\) .*/\1/')\" '$work/dpc.txt' && grep -aq '\"dpc_weight_for_new\":\"1\"' '$dpc/new/checkpoint.safetensors'"
refused "DPC on MMRL" "DPC_MMRL" tune --model "$model" --data "$data" --trainer DPC_MMRL --out "$work/x"
# reports of all these; what tune wrote is what the checkpoints give, whatever the branch
reports() {                                              # reports RUNS "METHOD..."
  "$fvgpt" report --model "$model" --data "$data" --runs "$1" --pictures 1 --out "$work/reports" >"$work/stdout" 2>&1 || return 1
  for method in $2; do grep -q "{\"method\": \"$method\", \"settings\"" "$work/reports/results.json" || return 1; done
  [ "$(grep -c '", "settings": "' "$work/reports/results.json")" -eq "$(echo $2 | wc -w)" ] && grep -q '"difference_from_runs": 0.00,' "$work/reports/results.json"
}
check "report of three trainers" reports "$work/list/other" "zero_shot KgCoOp FVGPT_KgCoOp PromptSRC MMRL FVGPT_MMRL"
check "MMRL++, and a head beside the prompts" quiet "$fvgpt" tune --model "$model" --data "$data" --trainer FVGPT_MMRLpp,FVGPT_DePT_CoOp,FVGPT_DePT_PromptSRC $tiny --out "$work/newer"
check "report of these" reports "$work/newer" "zero_shot MMRLpp FVGPT_MMRLpp DePT_CoOp FVGPT_DePT_CoOp DePT_PromptSRC FVGPT_DePT_PromptSRC"
check "an ablation of such a head" quiet "$fvgpt" tune --model "$model" --data "$data" --trainer FVGPT_DePT_CoOp --ablate $tiny --out "$work/newer"
check "and its report" reports "$work/newer" "zero_shot DePT_CoOp FVGPT_DePT_CoOp FVGPT_DePT_CoOp+stable"
check "whose rows are in the table" grep -q '"method": "DePT_CoOp_FRG+FDC", "base": ' "$work/reports/results.json"
head=$work/newer/DePT_CoOp/seed2
check "a head scores base classes" sh -c "'$fvgpt' eval --model '$model' --data '$data' --checkpoint '$head' --split-half base 2>/dev/null | grep -q accuracy"
check "maps of such a classifier" quiet "$fvgpt" attend --model "$model" --checkpoint "$head" --text "$base" --out "$work/head-maps" "$picture"
refused "DPC on a head" "DPC_DePT_CoOp" tune --model "$model" --data "$data" --trainer DPC_DePT_CoOp --out "$work/x"
check "report of DPC" reports "$work/list/$(basename "$data")" "zero_shot KgCoOp DPC_KgCoOp"
check "an ablation, to its end" quiet "$fvgpt" tune --model "$model" --data "$data" --trainer FVGPT_KgCoOp --ablate $tiny --entropy normalised --out "$work/ablate"
check "report of an ablation" reports "$work/ablate" "zero_shot KgCoOp FVGPT_KgCoOp+normalised FVGPT_KgCoOp+normalised+stable"
check "whose rows are in the table" grep -q '"method": "KgCoOp_FRG+FDC+normalised", "base": ' "$work/reports/results.json"
check "report of few shots" reports "$work/few-shot/$(basename "$data")-shots1" "zero_shot KgCoOp FVGPT_KgCoOp"
check "report of a transfer" reports "$work/transfer" "zero_shot MMRL FVGPT_MMRL"
check "with all its tests" grep -q '"method": "MMRL", "source": [0-9.]*, "source_std": [0-9.]*, "other": ' "$work/reports/results.json"

tuned=$work/list/$(basename "$data")/PromptSRC/seed1
check "a file under its published names" sh -c "a=\$('$fvgpt' eval --model '$model' --data '$data' --checkpoint '$tuned' --split-half base 2>/dev/null); b=\$('$fvgpt' eval --model '$model' --data '$data' --trainer PromptSRC --checkpoint '$tuned/checkpoint.safetensors' --split-half base 2>/dev/null); [ -n \"\$a\" ] && [ \"\$a\" = \"\$b\" ]"
refused "an option that the method has not" "--set W=2" eval --model "$model" --data "$data" --trainer PromptSRC --set W=2 --checkpoint "$tuned/checkpoint.safetensors" --split-half base
refused "a checkpoint of other depth" "has shape" eval --model "$model" --data "$data" --trainer PromptSRC --set n_ctx_vision=2 --checkpoint "$tuned/checkpoint.safetensors" --split-half base
refused "a checkpoint of another method" "representation_learner" eval --model "$model" --data "$data" --trainer MMRL --checkpoint "$tuned/checkpoint.safetensors" --split-half base

# settings: a line for each row, the preset's numbers under the command's own, and in the checkpoint
settings() {                                             # settings "text of a line" arguments of tune...
  text=$1
  shift
  "$fvgpt" tune --model "$model" --seeds 1 --augment none --out "$work/settings" "$@" >"$work/stdout" 2>&1
  grep -q -F -x -e "settings    $text" "$work/stdout"
}
holds() { grep -aq -F -e "$2" "$work/settings/$1/seed1/checkpoint.safetensors"; }
one="--data $data --shots 1"
check "the fork's settings" settings "CoOp: preset fork, base to new, SGD, lr 0.0035, 10 epochs, batch 4" $one --trainer CoOp
check "go into the checkpoint" holds CoOp '"epochs":"10"'
check "with the preset's name" holds CoOp '"preset":"fork"'
check "the same numbers are the same run" sh -c "'$fvgpt' tune --model '$model' --seeds 1 --augment none --out '$work/settings' $one --trainer CoOp --preset original --batch 4 --epochs 10 --lr 0.0035 2>&1 | grep -q reusing"
refused "other numbers are not" "epochs 10, not 50" tune --model "$model" --seeds 1 --augment none --out "$work/settings" $one --trainer CoOp --preset original
refused "no such preset" "--preset paper" tune --preset paper
check "the command goes before the preset" settings "KgCoOp: preset original, base to new, SGD, lr 0.002, 2 epochs, batch 3, W 4" $one --trainer KgCoOp --preset original --batch 3 --epochs 2 --set W=4
check "few shots" settings "MMRL: preset fork, few-shot, AdamW, lr 0.001, 1 epoch, batch 32, reg_weight 0.5" $one --trainer MMRL --few-shot --epochs 1
rm -rf "$work/settings/MMRL"
check "cross-data" settings "MMRL: preset fork, cross-data, AdamW, lr 0.001, 1 epoch, batch 32, no warm-up, reg_weight 0.2" $one --trainer MMRL --transfer-to "$work/other" --epochs 1
check "without warm-up" holds MMRL '"warmup":"0"'
check "its weight" holds MMRL '"reg_weight":"0.2"'
check "FVG-PT's batches on PromptSRC" settings "FVGPT_PromptSRC: preset FVG-PT's, base to new, SGD, lr 0.0025, 1 epoch, batch 32" $one --trainer FVGPT_PromptSRC --epochs 1
mkdir -p "$work/published/eurosat/2750"
set -- AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential River SeaLake
for class in $(ls "$w/four/things/images" | head -n 10); do
  mkdir -p "$work/published/eurosat/2750/$1" "$work/published/mask/eurosat/2750/$1"
  for n in 0 1 2 3 4; do
    cp "$w/four/things/images/$class/000.ppm" "$work/published/eurosat/2750/$1/$n.ppm"
    cp "$w/four/things/mask/images/$class/000.pgm" "$work/published/mask/eurosat/2750/$1/$n.pgm"
  done
  shift
done
published="--dataset-root $work/published --dataset eurosat --shots 1 --template {}."   # the tiny context is short
rm -rf "$work/settings"
check "a published set's exception" settings "CoOp: preset fork, base to new, SGD, lr 0.002, 20 epochs, batch 4, n_ctx 1" $published --trainer CoOp --n-ctx 1
check "reaches the training" holds CoOp '"epochs":"20"'
check "and FVG-PT's" sh -c "'$fvgpt' tune --model '$model' --seeds 1 --augment none --out '$work/settings' $published --trainer FVGPT_KgCoOp 2>/dev/null | grep -q -F 'FVGPT_KgCoOp: preset FVG-PT'\''s, base to new, SGD, lr 0.0035, 20 epochs, batch 4'"
rm -rf "$work/settings"

# words to start from
check "words of several tokens" settings "CoOp: preset fork, base to new, SGD, lr 0.0035, 1 epoch, batch 4, n_ctx 4, ctx-init \"a re-d disc of\"" $one --trainer CoOp --epochs 1 --ctx-init "a re-d disc of"
check "a vector for each" holds CoOp '"n_ctx":"4"'
check "ProGrad starts from the template's words" settings "ProGrad: preset fork, base to new, SGD, lr 0.002, 1 epoch, batch 32, n_ctx 5" $one --trainer ProGrad --epochs 1 --n-ctx 5 --template "a picture of {}, of course."
check "those before the name" holds ProGrad '"ctx_words":"a picture of"'
refused "more words than vectors" "4 words for 3 context vectors" tune --model "$model" --seeds 1 --augment none --out "$work/x" $one --trainer ProGrad --n-ctx 3 --ctx-init "a photo of a"
refused "words with a hole" "holds {}" tune --model "$model" --seeds 1 --augment none --out "$work/x" $one --trainer CoOp --ctx-init "a photo of a {}."

# arguments
refused "no such command" "unknown command frobnicate" frobnicate
refused "unknown option" "--frobnicate" info --frobnicate 1
refused "no model" "--model" info
refused "bad number" "--shots x" tune --shots x
refused "bad trainer" "--trainer TipAdapter" tune --model "$model" --data "$data" --trainer TipAdapter --out "$work/x"
refused "bad seeds" "--seeds 1,x" tune --model "$model" --data "$data" --trainer CoOp --seeds 1,x --out "$work/x"
refused "bad augment" "--augment crop:0" tune --model "$model" --data "$data" --trainer CoOp --augment crop:0 --out "$work/x"
refused "bad crop" "--crop 1,2,3" preprocess --size 8 --crop 1,2,3 "$picture" "$work/no.ppm"
refused "crop outside" "000.ppm" preprocess --size 8 --crop 60,0,10,10 "$picture" "$work/no.ppm"
refused "text too long" "tokens" encode --model "$model" --text "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen" --out "$work/no.safetensors"
refused "attend without a text" "--text" attend --model "$model" --out "$work/x" "$picture"
refused "attend without pictures" "pictures" attend --model "$model" --out "$work/x" --text red
refused "attend without a place" "--out" attend --model "$model" --text red "$picture"
refused "attend with two texts" "there are 2" attend --model "$model" --out "$work/x" --text red --text blue "$picture"
refused "attend without the picture" "nowhere.ppm" attend --model "$model" --out "$work/x" --text red "$work/nowhere.ppm"
refused "attend without the checkpoint" "$work/nowhere" attend --model "$model" --out "$work/x" --checkpoint "$work/nowhere" --text red "$picture"
refused "template without a hole" "{}" classify --model "$model" --template "a photo" --classes a,b "$picture"

# models
refused "no such folder" "$work/nowhere" info --model "$work/nowhere"
broken() {                                               # broken NAME: a copy of the model to spoil
  rm -rf "$work/$1"
  cp -r "$model" "$work/$1"
}
broken cut; head -c 5000 "$model/model.safetensors" >"$work/cut/model.safetensors"
refused "truncated weights" "cut/model.safetensors" info --model "$work/cut"
broken lying; printf '\377\377\377\377\377\377\377\177{}' >"$work/lying/model.safetensors"
refused "lying header length" "lying/model.safetensors" info --model "$work/lying"
broken empty; : >"$work/empty/model.safetensors"
refused "empty weights" "empty/model.safetensors" info --model "$work/empty"
broken json; printf '{"vision_config": {"hidden_size": 96,' >"$work/json/config.json"
refused "broken config" "config.json" info --model "$work/json"
broken size; sed 's/"num_hidden_layers": [0-9]*/"num_hidden_layers": 99/' "$model/config.json" >"$work/size/config.json"
refused "lying config" "num_hidden_layers" info --model "$work/size"
broken heads; sed 's/"num_attention_heads": [0-9]*/"num_attention_heads": 7/' "$model/config.json" >"$work/heads/config.json"
refused "heads that do not fit" "7 heads" info --model "$work/heads"
broken missing; sed 's/vision_model.post_layernorm.weight/vision_model.post_layernorm.weighs/' "$model/model.safetensors" >"$work/missing/model.safetensors"
refused "missing tensor" "no tensor vision_model.post_layernorm.weight" info --model "$work/missing"
broken merges; printf '#version\na b c\n' >"$work/merges/merges.txt"
refused "broken merges" "merges.txt" info --model "$work/merges"
broken few; head -n 5 "$model/merges.txt" >"$work/few/merges.txt"
refused "too few merges" "merges.txt" info --model "$work/few"
broken none; rm "$work/none/merges.txt"
refused "no merges" "vocabulary" encode --model "$work/none" --text hi --out "$work/no.safetensors"

# data
refused "no such data" "$work/nodata" tune --model "$model" --data "$work/nodata" $quick --out "$work/x"
cp -r "$data" "$work/bad"
for f in "$work/bad/$new"/*.ppm; do head -c 100 "$picture" >"$f"; done
refused "truncated pictures" "bad/$new" tune --model "$model" --data "$work/bad" $quick --out "$work/x"
cp -r "$data" "$work/badmask"
for f in "$work"/badmask/mask/*/*.pgm; do printf 'P5\n64 64\n255\n' >"$f"; done
check "truncated masks" sh -c "! '$fvgpt' tune --model '$model' --data '$work/badmask' $quick --out '$work/x' >'$work/stdout' 2>'$work/errors'"
check "all of them, before anything is encoded" sh -c "[ \$(grep -c 'badmask/mask/.*PNM' '$work/errors') -eq 20 ] && grep -q 'files cannot be used' '$work/errors' && ! grep -q '^encode' '$work/errors'"
cp -r "$data" "$work/split"
printf '{"train": [["%s/000.ppm", 0, "one"], ["nowhere.ppm", 2, "gap"]], "val": [], "test": []}' "$new" >"$work/split/split.json"
refused "split with a gap" "split.json" tune --model "$model" --data "$work/split" $quick --out "$work/x"
printf '{"train": [["%s/000.ppm", 0' "$new" >"$work/split/split.json"
refused "broken split" "split.json" tune --model "$model" --data "$work/split" $quick --out "$work/x"
mkdir -p "$work/single/a" "$work/single/b"
cp "$picture" "$work/single/a/"
cp "$picture" "$data/$new/001.ppm" "$data/$new/002.ppm" "$work/single/b/"
check "a class with one picture is left out" sh -c "! '$fvgpt' tune --model '$model' --data '$work/single' $quick --out '$work/x' 2>'$work/errors' && grep -q '1 of 2 class folders are left out.*: a\$' '$work/errors'"

# bad files among good ones: named together before the start, left out with --skip-bad, stepped over by encode and others
bad=$work/badfiles
cp -r "$data" "$bad"
printf '<html>' >"$bad/$base/000.ppm"
: >"$bad/$new/001.ppm"
head -c 100 "$picture" >"$bad/$new/002.ppm"
mkfifo "$bad/$new/pipe.ppm"
: >"$bad/$new/.DS_Store"
: >"$bad/$new/a.webp"
prompts="tune --model $model --data $bad --trainer CoOp --seeds 1 --epochs 1 --shots 4 --augment none"
says() { grep -q -e "$1" "$work/stderr"; }
stops() { "$fvgpt" "$@" >"$work/stdout" 2>"$work/stderr"; [ $? -eq 1 ]; }
check "bad files stop a run" stops $prompts --out "$work/badout"
check "the first is named" says "$base/000.ppm: "
check "the second too" says "$new/001.ppm: "
check "before anything is encoded" sh -c "! grep -q '^encode' '$work/stderr'"
check "with the way on" says '; --skip-bad'
check "what is no picture is counted" says '1 \.webp, 1 pipe or device'
check "--skip-bad" sh -c "'$fvgpt' $prompts --skip-bad --out '$work/badout' >'$work/skip1' 2>'$work/stderr'"
check "finds the broken one by decoding" says "$new/002.ppm: "
check "twice the same" sh -c "'$fvgpt' $prompts --skip-bad --out '$work/badout2' 2>/dev/null | cmp - '$work/skip1' && cmp '$work/badout/CoOp/seed1/checkpoint.safetensors' '$work/badout2/CoOp/seed1/checkpoint.safetensors'"
check "nothing to skip, nothing changes" sh -c "'$fvgpt' tune --model '$model' --data '$data' $quick --skip-bad --out '$work/skipnone' 2>/dev/null | cmp - '$work/table1'"
cp "$picture" "$bad/$new/001.ppm"
cp "$picture" "$bad/$base/000.ppm"
for f in "$bad/$base"/0*.ppm; do head -c 100 "$picture" >"$f"; done
check "a broken one behind a good head stops a run" stops $prompts --out "$work/badout3"
check "by name, with the way on" says "$base/0.*.ppm: .*; --skip-bad"
check "val and the cut" sh -c "'$fvgpt' tune --model '$model' --data '$data' --trainer CoOp --seeds 1 --epochs 1 --shots 1 --augment none --val 0 --out '$work/val0' >'$work/stdout' 2>'$work/stderr' && grep -q 'note: .* 0 for val' '$work/stderr'"
check "the same test pictures" sh -c "[ \"\$(grep '^zero_shot *seed' '$work/stdout')\" = \"\$(grep '^zero_shot *seed 1' '$work/table1')\" ]"
check "classify goes on" stops classify --model "$model" --classes red,blue --top 1 "$picture" "$work/nowhere.ppm" "$bad/$new/002.ppm" "$picture"
check "prints the good ones" [ "$(grep -c % "$work/stdout")" -eq 2 ]
check "names the bad ones and how many" sh -c "grep -q 'nowhere.ppm: cannot open' '$work/stderr' && grep -q '2 of 4 pictures' '$work/stderr'"
check "encode goes on" stops encode --model "$model" --image "$picture" "$work/nowhere.ppm" "$data/$base/000.ppm" --out "$work/good.safetensors"
check "and says whose rows they are" sh -c "head -c 400 '$work/good.safetensors' | grep -a -q 'image_files\":\"\[.*$new/000.ppm.*, .*$base/000.ppm.*\]\".*\[2,'"
check "encode without a good one" stops encode --model "$model" --image "$work/nowhere.ppm" "$bad/$new/002.ppm" --out "$work/none.safetensors"
check "writes nothing" [ ! -e "$work/none.safetensors" ]
check "attend goes on" stops attend --model "$model" --text red --out "$work/some" "$picture" "$work/nowhere.ppm"
mkdir "$work/over"
"$fvgpt" preprocess --size 32 "$picture" "$work/over/a.png" && cp "$work/over/a.png" "$work/over/a_relevance.png"
refused "a map over a picture" "would be the map of" attend --model "$model" --text red --out "$work/over" "$work/over"
check "leaves the picture" cmp "$work/over/a.png" "$work/over/a_relevance.png"
check "with the map of the good one" [ "$(ls "$work/some" | wc -l)" -eq 1 ]
check "a folder of pictures" sh -c "[ \$('$fvgpt' classify --model '$model' --classes red,blue --top 1 '$data/$base' | grep -c %) -eq $(ls "$data/$base" | wc -l) ]"
check "--top" sh -c "[ \$('$fvgpt' classify --model '$model' --classes a,b,c,d,e,f,g --top 6 '$picture' | grep -c %) -eq 6 ]"
refused "a pipe for a picture" "not a plain file" classify --model "$model" --classes red,blue "$bad/$new/pipe.ppm"
mkdir -p "$work/nofiles"
refused "a folder without pictures" "no pictures in this folder" classify --model "$model" --classes red,blue "$work/nofiles"

# masks in other encodings give the checkpoint of the plain ones
foreground="tune --model $model --trainer FVGPT_CoOp --seeds 1 --epochs 1 --shots 2 --augment none"
cp -r "$data" "$work/ten"                                # ten pictures of each class
rm "$work/ten"/*/0[12]?.ppm "$work/ten"/mask/*/0[12]?.pgm
recode() {                                               # recode NAME SCRIPT: the data set with masks of other values
  cp -r "$work/ten" "$work/$1"
  for f in "$work/$1"/mask/*/*.pgm; do LC_ALL=C tr '\000\377' "$2" <"$f" >"$work/mask.pgm"; mv "$work/mask.pgm" "$f"; done
  "$fvgpt" $foreground --data "$work/$1" $3 --out "$work/$1-out" >"$work/stdout" 2>"$work/stderr" &&
    cmp "$work/plainmasks-out/FVGPT_CoOp/seed1/checkpoint.safetensors" "$work/$1-out/FVGPT_CoOp/seed1/checkpoint.safetensors"
}
check "plain masks" recode plainmasks '\000\377'
check "say nothing" sh -c "! grep -q '/mask: ' '$work/stderr'"
check "masks of 0 and 1" recode ones '\000\001'
check "one note" [ "$(grep -c 'note: .*mask.*as labels' "$work/stderr")" -eq 1 ]
check "trimaps" recode trimaps '\002\001'
check "one note" [ "$(grep -c 'note: .*mask.*as trimap' "$work/stderr")" -eq 1 ]
check "inverted, told so" recode inverted '\377\000' "--masks inverted"
check "inverted labels, told so" recode inverted1 '\001\000' "--masks inverted"
check "a stage tuned with other masks" sh -c "! '$fvgpt' $foreground --data '$work/plainmasks' --masks inverted --out '$work/plainmasks-out' >'$work/stdout' 2>'$work/stderr' && tail -n 1 '$work/stderr' | grep -q 'was tuned with other masks'"
cp -r "$work/plainmasks" "$work/blackmasks"
for f in "$work/blackmasks"/mask/*/*.pgm; do LC_ALL=C tr '\377' '\000' <"$f" >"$work/mask.pgm"; mv "$work/mask.pgm" "$f"; done
check "black masks" quiet "$fvgpt" $foreground --data "$work/blackmasks" --out "$work/blackmasks-out"
check "warn before training" grep -q 'of 8 masks 8 hold no foreground' "$work/stdout"
cp -r "$data" "$work/nomask"
rm -r "$work/nomask/mask"
refused "no masks at all" "nomask/mask: no mask for any" tune --model "$model" --data "$work/nomask" $quick --masks given --out "$work/nomask-out"

# masks that CLIP makes
own=$work/own
cp -r "$work/nomask" "$own"
pictures=$(count "$own" '*.ppm')
check "masks" quiet "$fvgpt" masks --threads 1 --model "$model" --data "$own" --sheet 1000
check "says how many" grep -q "own/mask: $pictures masks made, 0 already there; mean confidence 0" "$work/stdout"
check "there is one for each picture" [ "$(find "$own/mask" -name '*.p[gn][mg]' | wc -l)" -eq "$pictures" ]
check "and a line of the table" [ "$(grep -c -E '^[01][.][0-9]+,[01][.][0-9]+,.*ppm$' "$own/mask/masks.csv")" -eq "$pictures" ]
check "the page shows them all" [ "$(grep -c '<figure>' "$own/mask/masks.html")" -eq "$pictures" ]
check "the most doubtful first" sh -c "grep -o '<b>[0-9.]*' '$own/mask/masks.html' | tr -d '<b>' | sort -c -n"
one=$(find "$own/mask" -name '*.p[gn][mg]' | sort | head -n 1)
mv "$one" "$work/one"
cp "$own/mask/masks.csv" "$work/masks.csv"
check "a mask that is missing is made again, with two threads" sh -c "'$fvgpt' masks --threads 2 --model '$model' --data '$own' --sheet 1000 2>/dev/null | grep -q '1 mask made, $((pictures - 1)) already there' && cmp '$one' '$work/one'"
cp "$own/mask/masks.html" "$work/masks.html"
rm "$one"
printf '0.5,0.2,cut o' >>"$own/mask/masks.csv"
touch "$one.tmp-0123abcd"
check "so it is after a run that was killed" quiet "$fvgpt" masks --model "$model" --data "$own" --sheet 1000
check "which leaves nothing" [ ! -e "$one.tmp-0123abcd" ]
check "and the page is the same" cmp "$work/masks.html" "$own/mask/masks.html"
check "and is one mask on the page" [ "$(grep -c '<figure>' "$own/mask/masks.html")" -eq "$pictures" ]
check "masks of a text, elsewhere" quiet "$fvgpt" masks --model "$model" --data "$own" --text "a red disc" --quick --sheet 0 --out "$work/elsewhere"
check "differ" differ "$one" "$work/elsewhere/${one#$own/mask/}"
check "and have no page" [ ! -e "$work/elsewhere/masks.html" ]
refused "masks without data" "masks needs" masks --model "$model"
refused "no word" "empty" masks --model "$model" --data "$own" --background "" --out "$work/x"
refused "a file where the folder should be" "elsewhere/masks.csv" masks --model "$model" --data "$own" --out "$work/elsewhere/masks.csv"
refused "a template without a place" "{}" masks --model "$model" --data "$own" --out "$work/x" --background-template sea
check "tune makes them where there are none" quiet "$fvgpt" $foreground --data "$work/nomask" --out "$work/own-out"
check "and says so" grep -q 'nomask: made by CLIP itself, 8 now, 0 already there' "$work/stdout"
check "they are there the next time" sh -c "'$fvgpt' $foreground --data '$work/nomask' --out '$work/own-out' 2>/dev/null | grep -q '0 now, 8 already there'"
check "the data set got none" [ ! -e "$work/nomask/mask" ]
check "masks written by hand and the same made by tune are the same run" sh -c "mkdir -p '$work/asgiven' && cp -r '$data'/. '$work/asgiven' && rm -r '$work/asgiven/mask' && cp -r '$work'/own-out/masks/nomask-* '$work/asgiven/mask' && '$fvgpt' $foreground --data '$work/asgiven' --out '$work/asgiven-out' >/dev/null 2>&1 && cmp '$work/own-out/FVGPT_CoOp/seed1/checkpoint.safetensors' '$work/asgiven-out/FVGPT_CoOp/seed1/checkpoint.safetensors'"
check "--masks own beside given ones" sh -c "'$fvgpt' $foreground --data '$work/asgiven' --masks own --background 'in the snow' --background-template 'a photo {}.' --out '$work/own2-out' 2>/dev/null | grep -q '8 now'"
check "other masks, another run" sh -c "! '$fvgpt' $foreground --data '$work/nomask' --masks own --background 'in the snow' --background-template 'a photo {}.' --out '$work/own-out' >/dev/null 2>'$work/stderr' && grep -q 'was tuned with other masks' '$work/stderr'"
check "--masks none" quiet "$fvgpt" $foreground --data "$data" --masks none --out "$work/without-out"
check "is another run" differ "$work/without-out/FVGPT_CoOp/seed1/checkpoint.safetensors" "$work/plainmasks-out/FVGPT_CoOp/seed1/checkpoint.safetensors"
dapt="tune --model $model --seeds 1 --epochs 2 --shots 2 --augment none --data $work/nomask --trainer"
check "DAPT_G needs no masks" quiet "$fvgpt" $dapt DAPT_G --out "$work/dapt-out"
check "and makes none in the data set" sh -c "[ ! -e '$work/nomask/mask' ] && [ ! -e '$work/dapt-out/masks' ] && grep -q '^DAPT_G  *seed 1' '$work/stdout'"
check "it is done" sh -c "'$fvgpt' $dapt DAPT_G --out '$work/dapt-out' 2>&1 >/dev/null | grep -q 'reusing'"
check "with other backgrounds it is another" sh -c "! '$fvgpt' $dapt DAPT_G --background sea --out '$work/dapt-out' >/dev/null 2>'$work/stderr' && grep -q 'with another --background' '$work/stderr'"
check "FVG-PT on it" quiet "$fvgpt" $dapt FVGPT_DAPT_G --out "$work/dapt-out"
check "reuses it" grep -q 'DAPT_G .*reusing' "$work/stdout"
mkdir -p "$work/nomask/mask/$base"
cp "$data/mask/$base/"*.pgm "$work/nomask/mask/$base/"
check "masks for one class only" quiet "$fvgpt" tune --model "$model" --data "$work/nomask" $quick --out "$work/nomask-out"
printf '{"train": [["%s/000.ppm", 1, "red"]], "test": [["%s/001.ppm", 0, "disc"], ["%s/002.ppm", 1, "red"]]}' "$new" "$new" "$new" >"$work/split/split.json"
refused "a class without training images" "class" tune --model "$model" --data "$work/split" $quick --out "$work/x"

# report
refused "report without runs" "--runs" report --model "$model" --data "$data" --out "$work/no-report"
refused "two data sets, one run" "2 data sets but 1 --runs" report --model "$model" --data "$data" --data "$data" --runs "$work/t1" --out "$work/no-report"
refused "no such runs" "nowhere/results.json: no such file" report --model "$model" --data "$data" --runs "$work/nowhere" --out "$work/no-report"
refused "report over the runs" "t1/results.json" report --model "$model" --data "$data" --runs "$work/t1" --out "$work/t1"
mkdir -p "$work/cutruns" "$work/noruns" "$work/norows"
head -c 100 "$work/t1/results.json" >"$work/cutruns/results.json"
refused "broken results" "cutruns/results.json" report --model "$model" --data "$data" --runs "$work/cutruns" --out "$work/no-report"
cp "$work/t1/results.json" "$work/noruns/results.json"
refused "results without checkpoints" "noruns/CoOp/seed1/checkpoint.safetensors" report --model "$model" --data "$data" --runs "$work/noruns" --out "$work/no-report"
sed 's/"base"/"bass"/' "$work/t1/results.json" >"$work/norows/results.json"
refused "results without numbers" "norows/results.json: no base" report --model "$model" --data "$data" --runs "$work/norows" --out "$work/no-report"
cp -r "$data" "$work/blind"
rm -r "$work/blind/mask"
check "report without masks" quiet "$fvgpt" report --model "$model" --data "$work/blind" --runs "$work/t1" --pictures 1 --out "$work/blind-report"
check "says so, and measures nothing" sh -c "grep -q 'No test picture has a mask in <code>$work/blind/mask' '$work/blind-report/index.html' && grep -q '\"auc\": null' '$work/blind-report/results.json' && ! grep -q 'IoU [0-9]' '$work/blind-report/index.html'"
refused "report on a list" "several runs in this folder" report --model "$model" --data "$data" --runs "$work/list" --out "$work/no-report"
refused "words and classes" "--against classes looks at no words" report --model "$model" --data "$data" --runs "$work/t1" --against classes --background sky --out "$work/no-report"
refused "other classes of a text alone" "needs --checkpoint" attend --model "$model" --text red --against classes --out "$work/x" "$picture"
refused "two sets of masks" "attend takes one --data, there are 2" attend --model "$model" --text red --data "$data" --data "$data" --out "$work/x" "$picture"
cp -r "$data" "$work/renamed"
mv "$work/renamed/$base" "$work/renamed/a_ruby"
mv "$work/renamed/mask/$base" "$work/renamed/mask/a_ruby"
refused "report on other classes" "other classes" report --model "$model" --data "$work/renamed" --runs "$work/t1" --out "$work/no-report"
check "no report was begun" [ ! -e "$work/no-report" ]

# what is printed: errors there are errors; nothing of a name reaches the terminal as a command to it
full() { "$fvgpt" "$@" >/dev/full 2>"$work/errors"; [ $? -eq 1 ] && [ "$(wc -l <"$work/errors")" -eq 1 ] && grep -q 'standard output' "$work/errors"; }
shut() { "$fvgpt" "$@" >&- 2>"$work/errors"; [ $? -eq 1 ] && [ "$(wc -l <"$work/errors")" -eq 1 ] && grep -q 'standard output' "$work/errors"; }
if [ -c /dev/full ]; then
  check "classify to a full disk" full classify --model "$model" --classes "$words,blue square" "$picture"
  check "info to a full disk" full info --model "$model"
  check "help to a full disk" full help
  check "help on a command to a full disk" full help tune
  check "tokenize to a full disk" sh -c "yes 'a red disc' | head -n 5000 | '$fvgpt' tokenize --model '$model' >/dev/full 2>'$work/errors'; [ \$? -eq 1 ] && grep -q 'standard output' '$work/errors'"
else
  echo "skipped: no /dev/full"
fi
check "classify with stdout closed" shut classify --model "$model" --classes "$words,blue square" "$picture"
check "encode with stdout closed writes its file" sh -c "'$fvgpt' encode --model '$model' --text red --out '$work/closed.safetensors' >&- 2>/dev/null; head -c 9 '$work/closed.safetensors' | tail -c 1 | grep -q '{'"
check "a reader that goes away" sh -c "[ \"\$(yes 'a red disc' | '$fvgpt' tokenize --model '$model' 2>'$work/errors' | head -n 1 | wc -l)\" -eq 1 ] && [ ! -s '$work/errors' ]"
check "an input that cannot be read" sh -c "'$fvgpt' tokenize --model '$model' <'$work' 2>'$work/errors'; [ \$? -eq 1 ] && grep -q 'standard input' '$work/errors'"

# ESC, C1's CSI, a right-to-left override, a byte that is no UTF-8, DEL, a line feed
bad=$(printf 'x\033[31my\302\233mz\342\200\256w\377v\177u\nt')
clean() { ! LC_ALL=C grep -q "$(printf '[\001-\010\013-\037\177\377]\\|\302[\200-\237]\\|\342\200[\250-\256]\\|\342\201[\246-\251]')" "$@"; }
cp "$picture" "$work/$bad.ppm"
check "classify a file of that name" sh -c "'$fvgpt' classify --model '$model' --classes '$words,blue square' \"\$1\" >'$work/out.txt' 2>&1 && grep -q 'x?\[31my??mz???w?v?u?t.ppm' '$work/out.txt'" _ "$work/$bad.ppm"
check "prints nothing of it raw" clean "$work/out.txt"
letters=$(printf 'x\033[31my\302\233mz\342\200\256w\177u')
check "and a class" sh -c "'$fvgpt' classify --model '$model' --classes \"red,\$1\" '$picture' >'$work/out.txt' 2>&1; grep -q 'x?\[31my' '$work/out.txt'" _ "$letters"
check "prints nothing of that raw" clean "$work/out.txt"
check "attend" sh -c "'$fvgpt' attend --model '$model' --text red --out '$work/badmaps' \"\$1\" >'$work/out.txt' 2>&1; grep -q 'x?\[31my' '$work/out.txt'" _ "$work/$bad.ppm"
check "prints nothing raw" clean "$work/out.txt"
for option in --seeds --set --augment --simd --trainer --shots "--$letters"; do
  check "$option with such a value" sh -c "! '$fvgpt' tune --trainer CoOp \"\$2\" \"\$1\" --model '$model' --data '$data' --out '$work/x' >'$work/out.txt' 2>&1 && grep -q 'x?\[31my' '$work/out.txt'" _ "$bad" "$option"
  check "$option prints nothing raw" clean "$work/out.txt"
done
mkdir -p "$work/sets"
cp -r "$data" "$work/sets/$bad"
cp -r "$data" "$work/sets/quote\"d"
check "a table of sets of such names" sh -c "'$fvgpt' tune --model '$model' --data '$work/sets/quote\"d' --data \"\$1\" --trainer CoOp --shots 1 --seeds 1 --epochs 1 --augment none --out '$work/sets-out' >'$work/out.txt' 2>&1" _ "$work/sets/$bad"
check "prints nothing raw of them" clean "$work/out.txt"
check "and writes JSON" clean "$work/sets-out/results.json"
check "with escapes" grep -q -F 'x\u001b[31my\u009bmz\u202ew\ufffdv\u007fu\u000at": {"base"' "$work/sets-out/results.json"
check "and quotes" grep -q -F '"quote\"d": {"base"' "$work/sets-out/results.json"

# the command line's small things
check "help on a command" sh -c "'$fvgpt' help eval | head -n 1 | grep -q '^fvgpt eval ' && ! '$fvgpt' help eval | grep -q '^fvgpt tune'"
check "-h" sh -c "[ \"\$('$fvgpt' tune -h)\" = \"\$('$fvgpt' help tune)\" ] && [ \"\$('$fvgpt' -h)\" = \"\$('$fvgpt' help)\" ]"
check "--version" sh -c "'$fvgpt' --version | grep -q -E '^fvgpt [0-9]+[.][0-9]+[.][0-9]+$' && '$fvgpt' help | grep -q '^  --version '"
refused "an option of another command" "info has no option --epochs" info --model "$model" --epochs 3
refused "help on nothing" "no such command" help frobnicate
refused "a misspelt command" "did you mean tune?" tnue
refused "a misspelt option" "did you mean --epochs?" tune --epoch 3
check "--name=value" sh -c "'$fvgpt' info --model='$model' | grep -q '^image'"
refused "--name=value, checked" "--lr x" tune --lr=x
refused "a file behind --" "--red.ppm" classify --model "$model" --classes red,blue -- --red.ppm

# stopping, and two runs into one folder
stopped() {                                              # stopped SIGNAL STATUS "text" FILE arguments...: once FILE is there
  signal=$1; expected=$2; text=$3; sign=$4
  shift 4
  rm -f "$work/stderr"
  "$fvgpt" "$@" >"$work/stdout" 2>"$work/stderr" &
  id=$!
  for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do [ -s "$sign" ] || sleep 0.1; done
  kill "-$signal" $id
  wait $id
  status=$?
  [ $status -eq "$expected" ] && [ "$(grep -v '^fvgpt: note: ' "$work/stderr" | grep -c '^fvgpt: ')" -eq 1 ] && grep -q "^fvgpt: stopped; .*$text" "$work/stderr"
}
long="--model $model --data $data --trainer CoOp --seeds 1 --epochs 2000 --shots 4 --augment none"
check "SIGINT" stopped INT 130 "goes on" "$work/long/CoOp/seed1/checkpoint.safetensors.part" tune $long --out "$work/long"
check "SIGTERM" stopped TERM 143 "goes on" "$work/stderr" tune $long --out "$work/long"
check "a stopped run keeps its state and no lock" sh -c "[ -e '$work/long/CoOp/seed1/checkpoint.safetensors.part' ] && [ ! -e '$work/long/.fvgpt.lock' ]"
"$fvgpt" tune $long --out "$work/long" >/dev/null 2>"$work/stderr1" &
id=$!
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do [ -e "$work/long/.fvgpt.lock" ] || sleep 0.1; done
refused "a second run" "$work/long: another fvgpt (process $id) is writing into this folder" tune $long --out "$work/long"
refused "a second run, of a list" "$work/long: another fvgpt (process $id)" tune $long --data "$work/other" --out "$work/long"
refused "a report there" "$work/long: another fvgpt (process $id)" report --model "$model" --data "$data" --runs "$work/t1" --out "$work/long"
kill -9 $id
wait $id 2>/dev/null
check "a killed run leaves its lock file" [ -e "$work/long/.fvgpt.lock" ]
check "which locks nobody out" stopped INT 130 "goes on" "$work/stderr" tune $long --out "$work/long"
mkdir -p "$work/linked" "$work/fifo"
ln -s "$work/target" "$work/linked/.fvgpt.lock"
refused "a lock that is a link" "linked/.fvgpt.lock" tune $long --out "$work/linked"
check "is not followed" [ ! -e "$work/target" ]
mkfifo "$work/fifo/.fvgpt.lock"
refused "a lock that is a pipe" "fifo/.fvgpt.lock" tune $long --out "$work/fifo"
refused "a folder that is a file" "$work/file" tune $long --out "$work/file"
rm -rf "$work/long"                                      # with its state

# features on disk: whatever the cache has, the same bytes come out
store=$work/cache
encoded() {                                              # encoded NAME [option...]: writes NAME.st, and what was said to stderr
  name=$1
  shift
  "$fvgpt" encode --model "$model" --out "$work/$name.st" "$@" "$data/$base" "$data/$new" >"$work/stdout" 2>"$work/stderr" &&
    { [ "$name" = plain ] || cmp "$work/plain.st" "$work/$name.st"; }
}
reused() { grep -q "note: $1 of $2 features reused from $3, " "$work/stderr" || { cat "$work/stderr"; false; }; }
few=$(($(count "$data/$base" '*.ppm') + $(count "$data/$new" '*.ppm')))
row_file() { ls "$store"/*/*.features | head -n 1; }
put_byte() { printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null; }
check "encode without a cache" encoded plain
check "which says nothing of one" sh -c "! grep -q reused '$work/stderr'"
check "with an empty cache" encoded first --cache "$store"
check "of which nothing is reused" reused 0 $few "$store"
check "again" encoded again --cache "$store"
check "all are reused" reused $few $few "$store"
check "the environment names the folder" env FVGPT_CACHE="$store" "$fvgpt" encode --model "$model" --out "$work/env.st" "$picture" 2>"$work/stderr"
check "which is the same" reused 1 1 "$store"
check "or the user's folder for caches" env FVGPT_CACHE= XDG_CACHE_HOME="$work/xdg" "$fvgpt" encode --model "$model" --out "$work/env.st" "$picture" 2>"$work/stderr"
check "has one of fvgpt" reused 0 1 "$work/xdg/fvgpt"
check "or the home folder" env FVGPT_CACHE= XDG_CACHE_HOME= HOME="$work/home" "$fvgpt" encode --model "$model" --out "$work/env.st" "$picture" 2>"$work/stderr"
check "has one" reused 0 1 "$work/home/.cache/fvgpt"
check "none wins" env FVGPT_CACHE="$store" "$fvgpt" encode --cache none --model "$model" --out "$work/env.st" "$picture" 2>"$work/stderr"
check "over it" sh -c "! grep -q reused '$work/stderr'"
check "other weights" sh -c "'$fvgpt' encode --weights q8 --cache '$store' --model '$model' --out '$work/env.st' '$picture' 2>&1 | grep -q '0 of 1 features reused'"
check "another SIMD level" sh -c "'$fvgpt' encode --simd scalar --cache '$store' --model '$model' --out '$work/env.st' '$picture' 2>&1 | grep -q '0 of 1 features reused'"

size=$(wc -c <"$(row_file)")
row=$(((size - 24) / few))
put_byte "$(row_file)" $((24 + 2 * row + 30)) '\377'
check "a damaged row" encoded damaged --cache "$store"
check "and what follows it are encoded again" reused 2 $few "$store"
check "which is told" grep -q "note: .*\.features: the last $((size - 24 - 2 * row)) bytes are no whole features" "$work/stderr"
check "once more" encoded healed --cache "$store"
check "all are there" reused $few $few "$store"
rm -rf "$store"
encoded short --cache "$store"
head -c $((size - 7)) "$(row_file)" >"$work/torn" && cp "$work/torn" "$(row_file)"
check "a row that is cut off" encoded torn --cache "$store"
check "is one" reused $((few - 1)) $few "$store"
echo "something else" >"$store/$(ls "$store")/strange.features"
check "a strange file" encoded strange --cache "$store"
check "is told and passed over" grep -q 'strange.features: not a file of features' "$work/stderr"
check "and the others are read" reused $few $few "$store"
rm -f "$store"/*/strange.features
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17; do cp "$(row_file)" "$(dirname "$(row_file)")/copy$i.features"; done
touch -t 202001010000 "$store"/*/*.features
check "many old files" encoded many --cache "$store"
check "which have all" reused $few $few "$store"
check "become one" [ "$(count "$store" '*.features')" -eq 1 ]
check "which has all" encoded merged --cache "$store"
check "of them" reused $few $few "$store"
check "a folder that cannot be made" encoded nowhere --cache "$work/stdout/cache"
check "is told in a line" sh -c "grep -v '^fvgpt: note' '$work/stderr' | grep -c 'features are not kept' | grep -q -x 1"

# killed, and two at a time
all_pictures() { "$fvgpt" encode --threads 1 --cache "$store" --model "$model" --out "$work/$1.st" "$w"/all/*/images/* >"$work/$1.out" 2>&1; }
rm -rf "$store"
"$fvgpt" encode --cache "$store" --model "$model" --out "$work/kill.st" "$w"/all/*/images/* >/dev/null 2>&1 &
run=$!
until [ -n "$(find "$store" -name '*.features' -size +8 2>/dev/null)" ] || ! kill -0 $run 2>/dev/null; do :; done
kill -9 $run 2>/dev/null
wait $run 2>/dev/null
check "encode after a kill" all_pictures killed
cp "$work/killed.out" "$work/stderr"
check "goes on" sh -c "n=\$(sed -n 's/.*note: \([0-9]*\) of .*/\1/p' '$work/stderr'); [ \$n -ge 5 ]"
rm -rf "$store"
all_pictures left &
run=$!
check "two at once" all_pictures right
wait $run
check "give the same bytes" cmp "$work/left.st" "$work/right.st"
check "as one after a kill" cmp "$work/left.st" "$work/killed.st"
all_pictures after
cp "$work/after.out" "$work/stderr"
check "all are there" grep -q -E 'note: ([0-9]+) of \1 features reused' "$work/stderr"

# tune and eval
"$fvgpt" tune --cache "$store" --model "$model" --data "$data" $quick --out "$work/cache1" >"$work/cached1" 2>"$work/stderr1"
"$fvgpt" tune --cache "$store" --model "$model" --data "$data" $quick --out "$work/cache2" >"$work/cached2" 2>"$work/stderr"
check "tune with a cache" cmp "$work/t1/FVGPT_CoOp/seed2/checkpoint.safetensors" "$work/cache1/FVGPT_CoOp/seed2/checkpoint.safetensors"
check "and a full one" cmp "$work/t1/FVGPT_CoOp/seed2/checkpoint.safetensors" "$work/cache2/FVGPT_CoOp/seed2/checkpoint.safetensors"
check "has the same table" cmp "$work/cached1" "$work/cached2"
check "encodes nothing" grep -q -E 'note: ([0-9]+) of \1 features reused' "$work/stderr"
for half in base new; do
  check "eval reuses tune's" sh -c "'$fvgpt' eval --cache '$store' --model '$model' --data '$data' --checkpoint '$work/t1/FVGPT_CoOp/seed1' --split-half $half 2>&1 >'$work/eval1' | grep -q -E 'note: ([0-9]+) of \1 features reused'"
  "$fvgpt" eval --model "$model" --data "$data" --checkpoint "$work/t1/FVGPT_CoOp/seed1" --split-half $half >"$work/eval2" 2>/dev/null
  check "with the same result" cmp "$work/eval1" "$work/eval2"
done
"$fvgpt" tune --model "$model" --data "$data" --trainer CoOp --few-shot --shots 1,2,3 --seeds 1 --epochs 1 --augment none --out "$work/shots" >/dev/null 2>"$work/stderr"
check "a list of shots encodes the test pictures once" sh -c "grep -o '^encode  *[0-9]*/[0-9]*' '$work/stderr' | awk '{ split(\$2, n, \"/\"); if (n[1] == n[2]) print n[2] }' | sort | uniq -c | awk '\$1 != 1 { bad = 1 } END { exit bad || NR != 4 }'"

# outputs and checkpoints
refused "output folder that cannot be" "$work/file" tune --model "$model" --data "$data" $quick --out "$work/file/out"
refused "maps' folder that cannot be" "$work/file" attend --model "$model" --out "$work/file/maps" --text red "$picture"
refused "output file that cannot be" "$work/nowhere/f.safetensors" encode --model "$model" --text red --out "$work/nowhere/f.safetensors"
refused "other settings on a finished stage" "--out" tune --model "$model" --data "$data" $quick --lr 0.001 --out "$work/t1"
refused "no checkpoint" "checkpoint.safetensors" eval --model "$model" --data "$data" --checkpoint "$work/nowhere" --split-half new
mkdir -p "$work/ck"
cp "$model/model.safetensors" "$work/ck/checkpoint.safetensors"
refused "not a checkpoint" "ck/checkpoint.safetensors" eval --model "$model" --data "$data" --checkpoint "$work/ck" --split-half new
head -c 1000 "$work/t1/CoOp/seed1/checkpoint.safetensors" >"$work/ck/checkpoint.safetensors"
refused "truncated checkpoint" "ck/checkpoint.safetensors" eval --model "$model" --data "$data" --checkpoint "$work/ck" --split-half new
check "nothing was left by failed runs" sh -c "[ ! -e '$work/no.safetensors' ] && [ ! -e '$work/no.ppm' ] && ! find '$work' -name '*.part' | grep -q . && ! find '$work/x' -type f 2>/dev/null | grep -q ."
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
