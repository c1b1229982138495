/* What a program with a file system would open lies in flash.  run.sh puts the pictures into the include path. */
        .section .rodata

        .macro  file name, path
        .balign 8
        .global \name, \name\()_end
\name:  .incbin "\path"
\name\()_end:
        .byte   0
        .endm

        file    model, "examples/tiny-clip/model.safetensors"
        file    config, "examples/tiny-clip/config.json"
        file    merges, "examples/tiny-clip/merges.txt"

        .macro  pair class
        file    \class\()_0, "images/\class/000.ppm"
        file    \class\()_1, "images/\class/001.ppm"
        file    \class\()_0_mask, "mask/images/\class/000.pgm"
        file    \class\()_1_mask, "mask/images/\class/001.pgm"
        .endm

        pair    key
        pair    boat
        pair    bell
        pair    car
        file    key_test, "images/key/002.ppm"
