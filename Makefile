# `make` prints this help. Only a C compiler and make are needed; stb_image (Debian: libstb-dev) adds PNG and JPEG.
CC     ?= cc
CFLAGS ?= -O2
WARN    = -std=c99 -Wall -Wextra -Wpedantic -Wshadow -Wconversion
STB    := $(shell for h in stb/stb_image.h stb_image.h; do echo "\#include <$$h>" | $(CC) -E - >/dev/null 2>&1 && echo -DFVGPT_STB_IMAGE && break; done)
BUILD   = build
HEADERS = fvgpt.h fvgpt_clip.h
TOOLS   = $(BUILD)/fvgpt $(BUILD)/replay $(BUILD)/tiny_world $(BUILD)/random_clip
EXAMPLES = $(patsubst examples/%.c,$(BUILD)/%,$(wildcard examples/*.c))
TESTS   = $(patsubst tests/%.c,$(BUILD)/%,$(wildcard tests/test_*.c tests/fuzz_*.c))

help:
	@echo "make run-example  draw a small world, tune CLIP prompts on it (CoOp, then FVG-PT), print the base-to-new table"
	@echo "make test         build and run all tests; ends with 'N passed, N failed'"
	@echo "make all          the programs in $(BUILD): fvgpt, replay, tiny_world, random_clip, the examples"
	@echo "make clean        remove $(BUILD)"

all: $(TOOLS) $(EXAMPLES)

run-example: $(BUILD)/fvgpt $(BUILD)/tiny_world
	$(BUILD)/tiny_world $(BUILD)/tiny
	$(BUILD)/fvgpt tune --model $(BUILD)/tiny/model --data $(BUILD)/tiny/data --trainer FVGPT_CoOp --augment crop:4 --out $(BUILD)/tiny/out

test:
	@$(MAKE) -j4 --no-print-directory all $(TESTS)
	@sh tests/run.sh $(BUILD)

$(BUILD)/fvgpt: tools/fvgpt.c tools/report.h tools/report_page.h $(HEADERS)
	@mkdir -p $(BUILD)
	$(CC) $(WARN) $(CFLAGS) $(STB) -DFVGPT_PTHREADS -DFVGPT_DIRENT $< -o $@ -lm -lpthread

$(BUILD)/%: tools/%.c $(HEADERS)
	@mkdir -p $(BUILD)
	$(CC) $(WARN) $(CFLAGS) $< -o $@ -lm

$(BUILD)/%: examples/%.c $(HEADERS)
	@mkdir -p $(BUILD)
	$(CC) $(CFLAGS) $(STB) -I. $< -o $@ -lm

$(BUILD)/%: tests/%.c $(HEADERS)
	@mkdir -p $(BUILD)
	$(CC) -std=c99 $(CFLAGS) -O1 $(STB) $< -o $@ -lm -lpthread

clean:
	rm -rf $(BUILD)

.PHONY: help all run-example test clean
