#!/bin/sh
# The researcher's bench: settings chosen on val (tune --choose), and the paper's tables (paper), on a few classes of the
# small world.  $1: the folder with the programs.
build=$1
fvgpt=$build/fvgpt
model=examples/tiny-clip
work=$build/test-tables
data=$work/data
FVGPT_CACHE=none
export FVGPT_CACHE
. tests/check.sh
refused() {                                              # refused "what" "text in the message" arguments of fvgpt...
  what=$1
  text=$2
  shift 2
  "$fvgpt" "$@" >"$work/stdout" 2>"$work/stderr"
  status=$?
  if [ $status -eq 1 ] && tail -n 1 "$work/stderr" | grep -q -F -e "$text"; then passed=$((passed + 1)); else
    failed=$((failed + 1))
    echo "FAILED $what: exit $status, expected '$text' in: $(tail -n 1 "$work/stderr")"
  fi
}
sums() { (cd "$1" && find . -type f ! -name '.fvgpt.lock' | sort | xargs cksum); }

# eight classes of ten pictures with masks, cut 5 / 2 / 3
rm -rf "$work"
mkdir -p "$data/mask"
"$build/world" "$work/world" --set things --train 9 --test 1 >/dev/null
for class in $(ls "$work/world/things/images" | head -n 8); do
  mv "$work/world/things/images/$class" "$data/"
  mv "$work/world/things/mask/images/$class" "$data/mask/"
done
rm -r "$work/world"
quick="--augment none --shots 4 --seeds 1 --epochs 2"
tune() { "$fvgpt" tune --model "$model" --data "$data" $quick "$@"; }

# --choose: every combination, the best on val, the same again
choose="--trainer FVGPT_KgCoOp,DPC_KgCoOp --choose lr=0.002,0.05 --choose W=1,8 --choose lambda_base=0.1,10"
run() { tune $choose --calibration crossfit --out "$work/chosen" >"$work/$1.txt" 2>"$work/$1.err"; }
check "settings are chosen" run one
check "four candidates of KgCoOp" [ "$(ls -d "$work"/chosen/KgCoOp/seed1/lr=*,W=* | wc -l)" -eq 4 ]
check "four of FVG-PT, which has no W" [ "$(ls -d "$work"/chosen/FVGPT_KgCoOp+crossfit/seed1/lr=*,lambda_base=* | wc -l)" -eq 4 ]
check "two of DPC" [ "$(ls -d "$work"/chosen/DPC_KgCoOp/seed1/lr=* | wc -l)" -eq 2 ]
chosen=$(sed -n 's/^KgCoOp  *seed 1  *chose \([^: ]*\):.*/\1/p' "$work/one.txt" | head -n 1)
check "what was chosen is told" [ -n "$chosen" ]
check "and what is kept" grep -aq "\"variation\":\"$chosen\"" "$work/chosen/KgCoOp/seed1/checkpoint.safetensors"
check "and the halves are tuned so" [ -f "$work/chosen/KgCoOp.half1/seed1/$chosen/checkpoint.safetensors" ]
check "the table's file tells it too" grep -q '"val": [0-9.]*, "chosen": {"lr": [0-9.]*, "W": [18]}' "$work/chosen/results.json"
sums "$work/chosen" >"$work/one.sums"
rm -r "$work/chosen/FVGPT_KgCoOp+crossfit/seed1/lr=0.05,lambda_base=10" "$work/chosen/KgCoOp/seed1/checkpoint.safetensors"
check "what is missing is made again" run two
sums "$work/chosen" >"$work/two.sums"
check "and nothing else differs" cmp "$work/one.sums" "$work/two.sums"
# the candidate that was chosen has the best val accuracy of those that are trained alone
alone() { tune --trainer KgCoOp --lr "$1" --set "W=$2" --out "$work/alone-$1-$2" >"$work/stdout" 2>&1; }
best=$(echo "$chosen" | sed 's/lr=\(.*\),W=\(.*\)/\1 \2/')
check "the same settings by hand" alone $best
tensors() { LC_ALL=C tail -c 512 "$1/KgCoOp/seed1/checkpoint.safetensors" | cksum; }
check "make the same learner" [ "$(tensors "$work/chosen")" = "$(tensors "$work/alone-$(echo $best | tr ' ' '-')")" ]
refused "another list" "was tuned with --choose lr=0.002,0.05 W=1,8; choose another --out" tune --model "$model" --data "$data" $quick \
  --trainer KgCoOp --choose lr=0.002,0.01 --choose W=1,8 --out "$work/chosen"
refused "no list" "choose another --out or remove it" tune --model "$model" --data "$data" $quick --trainer KgCoOp --out "$work/chosen"
refused "a list over a plain run" "was tuned without --choose" tune --model "$model" --data "$data" $quick --trainer KgCoOp \
  --choose lr=0.1,0.2 --out "$work/alone-$(echo $best | tr ' ' '-')"
refused "no val" "--choose needs val pictures" tune --model "$model" --data "$data" $quick --val 0 --trainer CoOp --choose lr=0.1,0.2 --out "$work/no-val"
refused "one value" "NAME=VALUE,VALUE,... with 2 to 12 numbers" tune --model "$model" --data "$data" --trainer CoOp --choose lr=0.1 --out "$work/x"
refused "no number" "NAME=VALUE,VALUE" tune --model "$model" --data "$data" --trainer CoOp --choose lr=0.1,fast --out "$work/x"
refused "not a number" "NAME=VALUE,VALUE" tune --model "$model" --data "$data" --trainer CoOp --choose lr=0.1,nan --out "$work/x"
refused "twice" "lr is given twice" tune --model "$model" --data "$data" --trainer CoOp --choose lr=0.1,0.2 --choose lr=0.3,0.4 --out "$work/x"
refused "half an epoch" "a whole number from 1" tune --model "$model" --data "$data" --trainer CoOp --choose epochs=1.5,2 --out "$work/x"
all=CoOp,KgCoOp,ProGrad,PromptSRC,MaPLe,DAPT,DAPT_G,MMRL,MMRLpp,DePT_CoOp,DePT_PromptSRC
refused "more rows than there is room for" "these are more than 96 rows; give some of them to another run with another --out" tune --model "$model" --data "$data" --ablate \
  --trainer "FVGPT_$(echo $all | sed 's/,/,FVGPT_/g')" --out "$work/x"
refused "a weight that KgCoOp cannot have" "--choose W: -5 is not possible; KgCoOp expects from 0" tune --model "$model" --data "$data" --trainer KgCoOp \
  --choose W=1,-5 --out "$work/x"
refused "a list that is too long" "in at most 199 bytes" tune --model "$model" --data "$data" --trainer CoOp \
  --choose "lr=0.1,0.$(printf '%0200d' 1)" --out "$work/x"
refused "a setting of nobody" "--choose W=1,2: none of the trainers has this setting" tune --model "$model" --data "$data" --trainer CoOp \
  --choose W=1,2 --out "$work/x"
check "a refused run leaves nothing" [ ! -e "$work/x" ]

# heads: rows that train no prompts
heads="--trainer baselines,CoOp --out $work/heads"
check "all baselines" sh -c "'$fvgpt' tune --model '$model' --data '$data' $quick $heads >'$work/heads.txt' 2>'$work/heads.err'"
row_of() { sed -n '/mean of/,$p' "$work/heads.txt" | grep -E "^$1 +[0-9]"; }
check "nine rows" [ "$(sed -n '/mean of/,/^CoOp/p' "$work/heads.txt" | wc -l)" -eq 10 ]
check "no rule for new classes is a dash" sh -c "sed -n '/mean of/,\$p' '$work/heads.txt' | grep -q -E '^LP\+\+ +[0-9.]+ +- +-\$'"
check "and null in the file" grep -q '"method": "Tip-Adapter-F", "base": [0-9.]*, "base_std": 0.0000, "new": null, "new_std": null, "H": null' "$work/heads/results.json"
check "GDA has one" sh -c "sed -n '/mean of/,\$p' '$work/heads.txt' | grep -q -E '^GDA( +[0-9.]+){3}\$'"
check "val chose for the probe" grep -q '^LinearProbe  *seed 1   chose c=[0-9.e+-]* on val' "$work/heads.txt"
sums "$work/heads" >"$work/heads.sums"
rm "$work/heads/GDA/seed1/result.json" "$work/heads/LP++/seed1/checkpoint.safetensors"
check "what is missing is made again" sh -c "'$fvgpt' tune --model '$model' --data '$data' $quick $heads >'$work/stdout' 2>'$work/heads.err'"
check "GDA's checkpoint is taken" grep -q 'GDA seed 1: reusing .*checkpoint' "$work/heads.err"
sums "$work/heads" >"$work/heads2.sums"
check "with the same bytes" cmp "$work/heads.sums" "$work/heads2.sums"
refused "a head of other views" "was tuned with augment none, not squash" tune --model "$model" --data "$data" $quick --trainer GDA --augment squash \
  --out "$work/heads"
"$build/world" "$work/named" --set textures --train 2 --test 1 >/dev/null
named="tune --model $model --data $work/named/textures --augment none --shots 2 --seeds 1 --trainer GDA --out $work/named/out"
check "a head of named classes" sh -c "'$fvgpt' $named >'$work/stdout' 2>'$work/stderr'"
sed 's/"dotted_drop"/"dotted_pear"/' "$work/named/textures/split.json" >"$work/named/split" && mv "$work/named/split" "$work/named/textures/split.json"
refused "a head of classes with other names" "was tuned on other classes" $named
first=$(ls "$data" | grep -v mask | head -n 1)
picture=$(ls "$data/$first"/* | head -n 1)
classify() { "$fvgpt" classify --model "$model" --checkpoint "$work/heads/$1/seed1" "$picture" >"$work/stdout" 2>"$work/stderr"; }
check "a head classifies" classify Tip-Adapter-F
check "by the names in its file" [ "$(grep -c ' %  ' "$work/stdout")" -eq 4 ]
tested() { "$fvgpt" eval --model "$model" --data "$data" --checkpoint "$work/heads/GDA/seed1" --split-half "$1" 2>/dev/null | sed 's/.*accuracy \([0-9.]*\) .*/\1/'; }
column() { row_of "$1" | awk -v k="$2" '{ print $k }'; }
check "eval agrees on base classes" [ "$(tested base)" = "$(column GDA 2)" ]
check "and on new ones" [ "$(tested new)" = "$(column GDA 4)" ]
refused "new names for a probe" "LinearProbe scores the 4 classes that it was fitted on" classify --model "$model" --checkpoint "$work/heads/LinearProbe/seed1" \
  --classes "a cup,a hat" "$picture"
check "ensembles are tested" [ -f "$work/heads/zero_shot_ensemble/seed1/result.json" ]
check "a report of them" sh -c "'$fvgpt' report --model '$model' --data '$data' --runs '$work/heads' --measured 2 --pictures 1 --out '$work/heads-report' >'$work/stdout' 2>'$work/stderr'"
check "has dashes" grep -q 'LP++</th><td>[^<]*</td><td>–</td><td>–</td>\|LP++</th>.*<td>–</td>' "$work/heads-report/index.html"
check "and null" grep -q '"method": "GDA"' "$work/heads-report/results.json"

# the paper's tables
paper() { "$fvgpt" paper --model "$model" --data "$data" $quick "$@" --out "$work/paper" >"$work/paper.txt" 2>"$work/paper.err"; }
rows() { sed -n "/^$1:/,/^Published/p" "$work/paper.txt" | sed '1,2d;$d'; }
check "a table and a figure" paper --table 3 --figure 4b
check "Table 3 has eight rows" [ "$(rows "Table 3" | wc -l)" -eq 8 ]
check "Figure 4b has five" [ "$(rows "Figure 4b" | wc -l)" -eq 5 ]
check "published numbers stand beside ours" sh -c "grep -q '^FRG + FDC + PC .* 82.40 .* 73.62 .* 77.76' '$work/paper.txt'"
base_of() { sed -n "s/.*,$1,data,base,\\([0-9.]*\\),.*/\\1/p" "$work/paper/paper.csv" | head -n 1; }
table_of() { sed -n "s/^$1  *\\([0-9.]*\\) .*/\\1/p" "$work/paper.txt" | tail -n 1; }
check "the CSV has the number of the table" [ "$(base_of "FRG + FDC + PC" | cut -c1-4)" = "$(table_of "FRG + FDC + PC" | cut -c1-4)" ]
check "JSON can be read" sh -c "! command -v python3 >/dev/null || python3 -m json.tool '$work/paper/paper.json' >/dev/null"
check "the page has a chart of two lines" [ "$(grep -c '<polyline' "$work/paper/paper.html")" -eq 2 ]
check "without distillation is another row" sh -c "[ -f '$work/paper/base-to-new/FVGPT_CoOp+no_distillation/seed1/checkpoint.safetensors' ]"
check "lambda 1 trained with 1" grep -aq '"lambda_base":"1"' "$work/paper/base-to-new/FVGPT_CoOp+lambda_base=1/seed1/checkpoint.safetensors"
check "the other tables" paper --table 4 --table 5 --table 6 --table 7 --table D_fg --backbone CoOp
check "use what is finished" grep -q 'FVGPT_CoOp seed 1: reusing' "$work/paper.err"
check "eight widths" [ "$(rows "Table 4" | wc -l)" -eq 8 ]
check "three depths" [ "$(rows "Table 5" | wc -l)" -eq 3 ]
check "seven sets of indicators" [ "$(rows "Table 6" | wc -l)" -eq 7 ]
check "16 wide is 16 wide" grep -aq '"fdc_hidden":"16"' "$work/paper/base-to-new/FVGPT_CoOp+fdc_hidden=16/seed1/checkpoint.safetensors"
check "three layers are three" grep -aq 'frg.fc3.weight' "$work/paper/base-to-new/FVGPT_CoOp+gate_layers=3/seed1/checkpoint.safetensors"
check "a gate without area" grep -aq '"frg_without":"4"' "$work/paper/base-to-new/FVGPT_CoOp+frg_without=4/seed1/checkpoint.safetensors"
check "costs are measured" sh -c "sed -n '/^Table 7/,/^Pictures/p' '$work/paper.txt' | grep -q '^CoOp  *384  *[1-9]'"
check "D_fg of three rows" [ "$(sed -n '/^D_fg/,/^Mean/p' "$work/paper.txt" | grep -c -E '^(CLIP|CoOp|FVG-PT on CoOp)  .* [0-9]+\.[0-9]{4}')" -eq 3 ]
cp "$work/paper/base-to-new/PC/seed1/result.json" "$work/result"
check "--quiet changes nothing" sh -c "'$fvgpt' paper --model '$model' --data '$data' $quick --quiet --table 3 --out '$work/paper' >'$work/stdout' 2>'$work/stderr' &&
  cmp '$work/paper/base-to-new/PC/seed1/result.json' '$work/result'"
# a shard of the tables leaves them to the last
claim="$work/sharded/base-to-new/CoOp/seed1/claim.0"
mkdir -p "${claim%/*}"
echo "shard 2/2 process 7 token 0123456789abcdef host elsewhere" >"$claim"
shard() { "$fvgpt" paper --model "$model" --data "$data" $quick --table 3 --shard 1/2 --out "$work/sharded" >"$work/paper.txt" 2>"$work/paper.err"; }
check "a shard of Table 3" shard
check "writes none while another is at work" sh -c "grep -q 'other shards are still at work' '$work/paper.txt' && ! ls '$work/sharded' | grep -q table3"
rm "$claim"
check "the last shard" shard
check "writes it" [ "$(rows "Table 3" | wc -l)" -eq 8 ]
check "with the numbers of the run alone" cmp "$work/sharded/table3.csv" "$work/paper/table3.csv"
mkdir "$work/other" && cp -R "$data"/* "$work/other/"
check "cross-data" paper --data "$work/other" --table 2 --backbone CoOp
check "has four rows and the other set" sh -c "[ \"\$(sed -n '/^Table 2/,/^Published/p' '$work/paper.txt' | grep -c -E '^(CLIP|CoOp|CoOp . FVG-PT|  gain) ')\" -eq 4 ] && grep -q 'other accuracy' '$work/paper.txt'"
# two shards at once, and alone
shard() { "$fvgpt" paper --model "$model" --data "$data" --data "$work/other" $quick --table 1 --table 3 --backbone CoOp --threads 1 "$@"; }
shard --shard 1/2 --out "$work/shards" >"$work/shard1.txt" 2>&1 &
one=$!
shard --shard 2/2 --out "$work/shards" >"$work/shard2.txt" 2>&1
two=$?
wait $one
check "two shards of paper" [ "$?$two" = 00 ]
shard --out "$work/single" >"$work/single.txt" 2>&1
sums "$work/single" >"$work/single.sums"
sums "$work/shards" >"$work/shards.sums"
check "end with the files of one run" cmp "$work/single.sums" "$work/shards.sums"
check "and tables are only printed when all is there" [ "$(cat "$work/shard1.txt" "$work/shard2.txt" | grep -c '^FRG + FDC + PC ')" -ge 1 ]
refused "Table 2 of one set" "--table 2 needs the data set to tune on and then others" paper --model "$model" --data "$data" $quick --table 2 --out "$work/p"
refused "no table" "paper needs --table N or --figure N" paper --model "$model" --data "$data" --out "$work/p"
refused "no such table" "--table 8: 1, 2, 3, 4, 5, 6, 7 or D_fg is expected" paper --model "$model" --data "$data" --table 8 --out "$work/p"
refused "a trainer" "--backbone names other methods" paper --model "$model" --data "$data" --table 3 --trainer CoOp --out "$work/p"

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
