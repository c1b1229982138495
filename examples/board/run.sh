#!/bin/sh
# Builds the program of this folder for an emulated board and runs it there.  Run it at the top of the project:
#
#   sh examples/board/run.sh BUILD [m7|m4]       what it builds is in BUILD/board/CORE; BUILD/world must be there
build=$1
core=${2:-m7}
for tool in arm-none-eabi-gcc qemu-system-arm; do
  command -v $tool >/dev/null || {
    echo "skipped: the emulated board needs $tool (Debian: gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm)"
    exit 0
  }
done
case $core in
  m7) machine=mps2-an500 fpu=fpv5-d16 ;;
  m4) machine=mps2-an386 fpu=fpv4-sp-d16 ;;
  *) echo "usage: run.sh BUILD [m7|m4]" >&2; exit 2 ;;
esac

here=examples/board
out=$build/board/$core
mkdir -p "$out"
"$build/world" "$out/world" --set things --train 2 --test 1 >/dev/null || exit 1

set -- -mthumb -mcpu=cortex-$core -mfloat-abi=hard -mfpu=$fpu -I. -I"$out/world/things"
arm-none-eabi-gcc "$@" -std=c99 -Wall -Wextra -O2 -ffunction-sections -fdata-sections -Wl,--gc-sections -nostartfiles \
  -T $here/board.ld $here/main.c $here/start.c $here/files.S -o "$out/board.elf" -lm || exit 1
flash=$(arm-none-eabi-size -A "$out/board.elf" | awk '$1 == ".text" || $1 == ".ARM.exidx" || $1 == ".data" { n += $2 } END { print n }')
echo "flash: $flash bytes, of them $(cat examples/tiny-clip/model.safetensors | wc -c) of weights"
exec timeout 300 qemu-system-arm -M $machine -display none -monitor none -serial none -semihosting -kernel "$out/board.elf"
