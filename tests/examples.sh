#!/bin/sh
# Runs the examples in the folder $1 on the tiny CLIP and compares what they print with tests/examples.txt: words and
# spaces exactly, a number with a decimal point within the example's tolerance, because its last digits depend on the
# SIMD level.  The tolerance stands behind the example's name there; above 1 it is a share of the number.  08_base_to_new
# is left out, because it takes minutes: it tunes every method there is.  Ends with "N passed, N failed".
#
#   sh tests/examples.sh BUILD [NAME...]      all examples of the table, or those named
#   sh tests/examples.sh --write BUILD        prints the table anew, from what they print now
write=no
if [ "$1" = --write ]; then write=yes; shift; fi
build=$(cd "$1" && pwd)
shift
. tests/check.sh
export FVGPT_CACHE=none
table=tests/examples.txt
out=$build/examples
mkdir -p "$out"
things=$out/world/things
small=$out/small
[ -d "$things" ] || "$build/world" "$out/world" --set things >/dev/null || exit 1

run() {                                                  # run NAME: as its own first lines say, in the folder above
  case $1 in
    01_*) "$build/$1" ;;
    02_*) "$build/$1" examples/tiny-clip "$things/images/mug/024.ppm" mug key house ;;
    09_*) (model=$PWD/examples/tiny-clip && cd "$things/images" && "$build/$1" "$model" mug mug key house bell) ;;
    10_*) "$build/$1" examples/tiny-clip "$things" "$out/looks.png" && wc -c <"$out/looks.png" | sed 's/.*/a picture/' ;;
    12_*) "$build/$1" examples/tiny-clip "$things/images/mug/024.ppm" ;;
    15_*)
      mkdir -p "$small" && cp examples/tiny-clip/config.json examples/tiny-clip/merges.txt "$small" &&
        "$build/$1" examples/tiny-clip "$things" "$small" ;;
    *) "$build/$1" examples/tiny-clip "$things" ;;
  esac
}

tolerance_of() { sed -n "s/^== $1 //p" "$table"; }
expected() { awk -v name="$1" '/^== / { on = $2 == name; next } on' "$table"; }

same() {                                                 # same NAME: what it printed is what the table says
  expected "$1" >"$out/$1.expected"
  awk -v tolerance="$(tolerance_of "$1")" -v expected="$out/$1.expected" '
    function number(x) { return x ~ /^-?[0-9]+\.[0-9]+$/ }
    {
      line = $0
      if ((getline wanted <expected) <= 0) { print "  one line too many: " line; bad = 1; exit }
      n = split(line, a, /[ ,]/)
      m = split(wanted, b, /[ ,]/)
      ok = n == m
      for (i = 1; ok && i <= n; i++) {
        gap = a[i] - b[i]
        size = b[i] < -1 ? -b[i] : b[i] > 1 ? b[i] : 1
        if (number(a[i]) && number(b[i])) ok = (gap < 0 ? -gap : gap) <= tolerance * size
        else ok = a[i] "" == b[i] ""
      }
      if (!ok) { print "  printed  " line; print "  expected " wanted; bad = 1; exit }
    }
    END {
      if (!bad && (getline wanted <expected) > 0) { print "  one line is missing: " wanted; bad = 1 }
      exit bad
    }' "$out/$1.txt"
}

example() { run "$1" >"$out/$1.txt" 2>"$out/$1.err" && [ ! -s "$out/$1.err" ] && [ -s "$out/$1.expected" ] && same "$1"; }

names=${*:-$(sed -n 's/^== \([^ ]*\).*/\1/p' "$table")}
for name in $names; do
  if [ $write = yes ]; then
    echo "== $name $(tolerance_of "$name")"
    run "$name"
  else
    expected "$name" >"$out/$name.expected"
    check "$name" example "$name"
  fi
done
[ $write = yes ] && exit
if [ $# -eq 0 ]; then                                    # no example may be forgotten
  for file in examples/*.c; do
    name=$(basename "$file" .c)
    [ "$name" = 08_base_to_new ] && continue
    check "$name is in $table" grep -q "^== $name " "$table"
  done
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
