#!/bin/sh
# What somebody who is new to the program runs into: a command that is refused leaves what is there, few classes are told
# of, names stay as they were given, and messages say what to do.  $1: the folder with the programs.
build=$1
fvgpt=$build/fvgpt
model=examples/tiny-clip
work=$build/test-newcomers
export FVGPT_CACHE=none
. tests/check.sh
told() {                                                 # told "what" "text in a message" arguments of fvgpt..., which succeeds
  what=$1
  text=$2
  shift 2
  "$fvgpt" "$@" >"$work/stdout" 2>"$work/stderr"
  status=$?
  check "$what: exit $status, $(tail -n 1 "$work/stderr")" sh -c "[ $status -eq 0 ] && grep -q -F -e \"\$1\" '$work/stderr'" _ "$text"
}
rm -rf "$work"
mkdir -p "$work"
"$build/world" "$work/world" --set colours --train 4 --test 2 >/dev/null
colours=$work/world/colours/images
classes_to() {                                           # classes_to FOLDER N: the first N classes, 6 pictures each
  mkdir -p "$work/$1"
  for class in $(ls "$colours" | head -n "$2"); do cp -r "$colours/$class" "$work/$1/"; done
}
classes_to four 4
first=$(ls "$work/four" | head -n 1)
picture=$work/four/$first/000.ppm
tune="tune --model $model --shots 2 --augment none --masks none"

# a finished run stays whole when another command is refused there
done="$tune --data $work/four --trainer FVGPT_CoOp,LinearProbe --seeds 1"
check "a run" sh -c "'$fvgpt' $done --epochs 1 --out '$work/done' >/dev/null 2>&1"
cp -r "$work/done" "$work/kept"
stays() { diff -r "$work/done" "$work/kept" >/dev/null && "$fvgpt" table "$work/done" >/dev/null; }
refused "other epochs" "CoOp/seed1/checkpoint.safetensors was tuned with epochs 1, not 2" $done --epochs 2 --out "$work/done"
check "leave the run whole" stays
refused "another protocol" "was tuned on other classes" $done --epochs 1 --few-shot --out "$work/done"
check "leaves it whole" stays
refused "another stage" "FVGPT_CoOp/seed1/checkpoint.safetensors was tuned with lambda_base 10, not 2" $done --epochs 1 --lambda-base 2 --out "$work/done"
check "leaves the first one whole" stays
refused "a head on other pictures" "was tuned on other pictures" $tune --data "$work/four" --trainer LinearProbe --seeds 1 --shots 1 --out "$work/done"
check "leaves its run whole" stays
refused "--choose where nothing was chosen" "was tuned without --choose" $tune --data "$work/four" --trainer CoOp --seeds 1 --epochs 1 --choose lr=0.1,0.2 --out "$work/done"
check "leaves all of it" stays
rm -r "$work/done"

# few classes: accuracies that cannot be anything else are told of
classes_to one 1
classes_to two 2
classes_to three 3
few="$tune --trainer CoOp --seeds 1 --epochs 1"
told "two classes" "$work/two: either half has one class only, so its accuracy is 100 % whatever is tuned; use --few-shot or --all" $few --data "$work/two" --out "$work/two-out"
told "three classes" "$work/three: the new half has one class only, so its accuracy is 100 %" $few --data "$work/three" --out "$work/three-out"
for way in --few-shot "--all --folds 2"; do
  check "two classes with $way are as good as any" sh -c "'$fvgpt' $few --data '$work/two' $way --out '$work/two$way' >'$work/said' 2>&1 && ! grep -q 'one class' '$work/said'"
done
for way in "" --few-shot "--all --folds 2"; do
  refused "one class, $way" "$work/one: there is one class only, so nothing can be learned; it needs a folder" $few --data "$work/one" $way --out "$work/no"
  check "in one line" [ "$(grep -v 'fvgpt: note: ' "$work/stderr" | wc -l)" -eq 1 ]
done
told "eval on one class" "the test is of one class only, so accuracy is 100 %" eval --model "$model" --data "$work/three" --checkpoint "$work/three-out/CoOp/seed1" --split-half new
told "another set of one class" "$work/one: the test is of one class only" $few --data "$work/four" --transfer-to "$work/one" --out "$work/transfer"

# names are printed as they were given, and mean what they meant
classify="$fvgpt classify --model $model --quiet --top all"
printf ' red_disc\t\nBlue  disc\n' >"$work/names"
check "names of --classes" sh -c "$classify --classes 'red_disc, Blue  disc' --csv '$picture' | sed 1d | cut -d , -f 3 | sort | tr '\n' '|' | grep -q -x 'Blue  disc|red_disc|'"
check "names of a file" sh -c "$classify --classes-file '$work/names' --json '$picture' >'$work/json' && grep -q '\"name\": \"red_disc\"' '$work/json' && grep -q '\"name\": \"Blue  disc\"' '$work/json'"
values() { $classify --classes "$1" --csv "$picture" | cut -d , -f 4; }
check "underscores are still blanks" [ "$(values red_disc,blue_disc)" = "$(values 'red disc,blue disc')" ]
check "also for a checkpoint" sh -c "$classify --checkpoint '$work/kept/FVGPT_CoOp/seed1' --classes $first,blue_disc --csv '$picture' >'$work/csv' && grep -q ',$first,0' '$work/csv' && $classify --checkpoint '$work/kept/FVGPT_CoOp/seed1' --classes '$(echo "$first" | tr _ ' '),blue disc' --csv '$picture' | tr ' ' _ | cmp -s - '$work/csv'"

# the line of settings has the vectors that are trained, not those asked for
check "words decide on the vectors" sh -c "'$fvgpt' $few --data '$work/four' --n-ctx 5 --ctx-init 'a disc of' --class-token-position middle --out '$work/words' >'$work/said' 2>/dev/null && grep -q '^settings    CoOp: .*, n_ctx 3, ctx-init \"a disc of\", class-token-position middle\$' '$work/said' && grep -aq '\"n_ctx\":\"3\"' '$work/words/CoOp/seed1/checkpoint.safetensors'"
check "--n-ctx where they do not" sh -c "'$fvgpt' $few --data '$work/four' --n-ctx 5 --out '$work/vectors' >'$work/said' 2>/dev/null && grep -q '^settings    CoOp: .*, n_ctx 5\$' '$work/said'"

# pictures that are cut off
cp -r "$work/four" "$work/cut"
for class in $(ls "$work/cut"); do head -c 3000 "$work/four/$class/001.ppm" >"$work/cut/$class/001.ppm"; done
refused "masks of one" "bytes after the PNM header, not 2987; --skip-bad goes on without such pictures" masks --model "$model" --data "$work/cut" --out "$work/cut-masks"
told "or all others" "4 of 24 pictures are left out" masks --model "$model" --data "$work/cut" --skip-bad --out "$work/cut-masks"
refused "tune, which makes masks" "--skip-bad goes on without such pictures" tune --model "$model" --data "$work/cut" --trainer FVGPT_CoOp --seeds 1 --epochs 1 --masks own --augment none --out "$work/cut-out"

# --all leaves out a class folder with one picture, as its help says
cp -r "$work/four" "$work/lone"
rm "$work/lone/$first"/00[1-5].ppm
told "a class folder with one picture" "1 of 4 class folders are left out" $few --data "$work/lone" --all --folds 0 --out "$work/lone-out"
check "as help all says" sh -c "'$fvgpt' help all | grep -q 'a class folder with a single picture is left out'"

# pictures behind a text, which might be its second word
refused "a picture behind --text" "\"$picture\" belongs to no option (one value each; quote values with blanks; put pictures before --text or behind --)" encode --model "$model" --out "$work/x" --text hi "$picture"
check "pictures first, as in the synopsis" sh -c "'$fvgpt' help encode | head -n 1 | grep -q -x 'fvgpt encode .* PICTURE[.]* \[--text STR\][.]*' && '$fvgpt' encode --model '$model' --out '$work/both.safetensors' '$picture' --text hi"
check "or behind --" "$fvgpt" encode --model "$model" --out "$work/both.safetensors" --text hi -- "$picture"

# a page for what tunes no prompts, under each of its names; and MMRL++ as it is published
"$fvgpt" help baselines >"$work/page"
for name in LinearProbe LP++ CLIP-Adapter Tip-Adapter Tip-Adapter-F GDA zero_shot_ensemble; do
  check "help $name" sh -c "'$fvgpt' help '$name' | cmp -s - '$work/page' && grep -q -F '  $name ' '$work/page'"
done
check "help and help tune lead there" sh -c "'$fvgpt' help | grep -q baselines && '$fvgpt' help tune | grep -q baselines"
check "help MMRL++" sh -c "'$fvgpt' help MMRL++ | grep -q '^MMRLpp, a method of tune'"
check "--trainer FVGPT_MMRL++" sh -c "'$fvgpt' $few --data '$work/four' --trainer FVGPT_MMRL++ --out '$work/mmrl' >'$work/said' 2>/dev/null && grep -q '^FVGPT_MMRLpp  *seed 1' '$work/said' && [ -d '$work/mmrl/MMRLpp/seed1' ]"

# messages that name the thing
ln -s nowhere "$work/dangling"
refused "a folder that cannot be made" "$work/dangling: cannot make this folder: File exists" $few --data "$work/four" --out "$work/dangling/x"
probe="--checkpoint $work/kept/LinearProbe/seed1"
refused "a head on new classes" "leave --classes out (with eval: use --split-half base)" eval --model "$model" --data "$work/four" $probe --split-half new
latin=$(printf 'k\366ter')
cp -r "$work/four" "$work/latin"
mv "$work/latin/$first" "$work/latin/$latin"
printf 'dog\nk\366ter\n' >"$work/latin.txt"
if [ -d "$work/latin/$latin" ]; then
  refused "a class folder in Latin-1" "ter/00" $few --data "$work/latin" --out "$work/latin-out"
  check "is named, with what to do" grep -q "latin: the name of class .* is not UTF-8; rename its folder" "$work/stderr"
  refused "also by eval" "is not UTF-8; rename its folder" eval --model "$model" --data "$work/latin" --checkpoint "$work/kept/CoOp/seed1" --split-half all
  refused "and by masks" "is not UTF-8; rename its folder" masks --model "$model" --data "$work/latin" --out "$work/latin-masks"
else
  passed=$((passed + 4))                                 # a file system that has UTF-8 alone
fi
refused "names in Latin-1" "$work/latin.txt: name 2 " classify --model "$model" --classes-file "$work/latin.txt" "$picture"
printf 'PK\003\004' >"$work/model.pth.tar-50"
refused "a published file without --trainer" "model.pth.tar-50: a PyTorch file, and none of tune's; if it is a published trainer's, give --trainer NAME" eval --model "$model" --data "$work/four" --checkpoint "$work/model.pth.tar-50" --split-half all
refused "a folder of tune's with --trainer" "kept/CoOp/seed1: a folder, and with --trainer --checkpoint is a published trainer's file; leave --trainer out" eval --model "$model" --data "$work/four" --trainer CoOp --checkpoint "$work/kept/CoOp/seed1" --split-half all

# masks of some pictures, and of two kinds
refused "masks of any class and of a text" "--any-class and --text: " masks --model "$model" --data "$work/four" --any-class --text cat --out "$work/no-masks"
cp -r "$work/four" "$work/masked"
check "masks" sh -c "'$fvgpt' masks --model '$model' --data '$work/masked' --quick >/dev/null 2>&1"
rm "$work/masked/mask/$first"/*.p*
told "some are missing" "run fvgpt masks again, which makes those that are missing, or use --masks own" tune --model "$model" --data "$work/masked" --trainer FVGPT_CoOp --shots 16 --seeds 1 --epochs 1 --augment none --out "$work/masked-out"
check "a report of fewer pictures than shots" sh -c "'$fvgpt' report --model '$model' --data '$work/masked' --runs '$work/masked-out' --pictures 1 --out '$work/report' >/dev/null 2>&1 && grep -q 'up to 16 shots a class' '$work/report/index.html'"

# what is printed of one thing, of one seed, and for the shell
"$fvgpt" $few --data "$work/four" --out "$work/table" >"$work/said" 2>/dev/null
check "one epoch" grep -q '^settings    CoOp: .*, 1 epoch, batch' "$work/said"
check "one seed deviates from nothing" sh -c "grep -q -E '^four +base +new +H   mean of 1 seed, H of the means\$' '$work/said' && sed -n '/mean of/,\$p' '$work/said' | grep -q -E '^CoOp +[0-9.]+ +[0-9.]+ +[0-9.]+\$'"
check "two do from each other" sh -c "'$fvgpt' $tune --data '$work/four' --trainer CoOp --seeds 1,2 --epochs 1 --out '$work/table2' 2>/dev/null >'$work/said' && grep -q -E '^four +base +[+]- +new +[+]- +H   mean of 2 seeds' '$work/said'"
rm "$work/table/CoOp/seed1/result.json"
refused "one result" "1 of 2 results is missing" table "$work/table"
odd="$work/it's a run"
"$fvgpt" $few --data "$work/four" --all --folds 0 --out "$odd" >"$work/said" 2>/dev/null
eval "set -- $(sed -n 's/^next: //p' "$work/said")"        # fvgpt classify --model DIR --checkpoint PATH PICTURE...
check "the command that comes next is one for the shell" [ "$6" = "$odd/CoOp/seed1" -a -d "$6" ]

# eight bits into a folder that is not there yet
quantise="quantise --model $model --out $work/small/deep/model.safetensors"
told "quantise" "the configuration and the vocabulary of $model belong beside it" $quantise
cp "$model/config.json" "$model/merges.txt" "$work/small/deep/"
check "has no note when they are there" sh -c "'$fvgpt' $quantise 2>&1 | wc -c | grep -q -x ' *0'"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
