#!/bin/sh
# Real architectures: ViT-B/32, B/16 (HF names) and L/14 (OpenAI names) with random weights load, have the published number
# of parameters, and encode a picture, and a text where a vocabulary is to be had.  $1: the folder with the programs.
# Writes up to 0.9 GB there, one model at a time.
build=$1
shared=${FVGPT_SHARED:-../shared}
work=$build/real-sizes
passed=0
failed=0
mkdir -p "$work"
"$build/world" "$work/world" --set things --train 1 --test 1 || exit 1
for picture in "$work"/world/things/images/*/000.ppm; do break; done
vocabulary=$shared/model/bpe_simple_vocab_16e6.txt
[ -f "$vocabulary" ] || echo "skipped: texts, no $vocabulary"
for spec in "b32 hf 151277313" "b16 hf 149620737" "l14 openai 427616513"; do
  set -- $spec
  model=$work/$1.safetensors
  "$build/random_clip" "$1" "$2" "$model" || exit 1
  if "$build/fvgpt" info --model "$model" | grep -q " $3 parameters"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED $1: not $3 parameters"; fi
  if [ -f "$vocabulary" ]; then set -- "$1" --text "a photo of a cat." --merges "$vocabulary"; else set -- "$1"; fi
  name=$1
  shift
  if "$build/fvgpt" encode --model "$model" --image "$picture" "$@" --out "$work/$name.features"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED $name: encode"; fi
  rm -f "$model"
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
