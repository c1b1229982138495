#!/bin/sh
# The board of examples/board says of a picture what `fvgpt classify` says, to the printed digits; the loss of its steps
# falls; it has no heap; its RAM is under 8 MB.
#
#   sh tests/board.sh BUILD [m7|m4]
build=$1
core=${2:-m7}
. tests/check.sh
log=$build/board_$core.log
sh examples/board/run.sh "$build" "$core" >"$log" 2>&1
status=$?
cat "$log"
case $(cat "$log") in skipped:*) exit 0 ;; esac
check "it ends well" [ $status -eq 0 ]

"$build/fvgpt" classify --model examples/tiny-clip --classes key,boat,bell,car --top all --csv \
  "$build/board/$core/world/things/images/key/002.ppm" | awk -F , 'NR > 1 { printf "%7.3f %%  %s\n", 100 * $4, $3 }' |
  sort >"$log.native"
grep ' %  ' "$log" | sort >"$log.board"
check "four probabilities" [ "$(wc -l <"$log.board")" -eq 4 ]
check "the same as on this machine" cmp "$log.native" "$log.board"
check "the class" grep -q "^key/002.ppm is a key$" "$log"
check "twenty losses, each below the one before" awk '
  $1 == "step" { n++; if (n > 1 && $4 >= last) bad = 1; last = $4 } END { exit bad || n != 20 }' "$log"
check "RAM under 8 MB" awk '$1 == "RAM" { n++; sub(/.*: /, ""); if ($1 >= 8000000) bad = 1 } END { exit bad || n != 2 }' "$log"
check "no heap is linked" sh -c "! arm-none-eabi-nm '$build/board/$core/board.elf' | grep -q -E ' (_?malloc(_r)?|free|_sbrk|printf|vfprintf|fopen)\$'"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
