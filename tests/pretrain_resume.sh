#!/bin/sh
# Pre-training that is killed and started again must end with the bytes of a run that never stopped. $1: the programs.
build=$1
work=$build/pretrain-resume
rm -rf "$work"
mkdir -p "$work"
train() { "$build/pretrain" "$work/$1" --steps 150 --batch 16 --threads "$2" >/dev/null 2>"$work/$1.err"; }
train whole 1 || exit 1
train cut 2 &
while [ ! -f "$work/cut/checkpoint.safetensors" ]; do sleep 0.2; done
kill -9 $(ps -eo pid,args | awk -v out="$work/cut" '$2 ~ /pretrain$/ && $3 == out {print $1}')
wait
[ ! -f "$work/cut/config.json" ] || head -c 100 "$work/cut/model.safetensors" | grep -q F32 || { echo "not cut off in time"; exit 1; }
train cut 2 || exit 1
cmp "$work/whole/model.safetensors" "$work/cut/model.safetensors" || exit 1
echo "1 passed, 0 failed"
