# `make` prints this help. Only a C compiler and make are needed; stb_image (Debian: libstb-dev) adds PNG, JPEG, BMP and GIF.
CC     ?= cc
CFLAGS ?= -O2
WARN    = -std=c99 -Wall -Wextra -Wpedantic -Wshadow -Wconversion
STB    := $(shell for h in stb/stb_image.h stb_image.h; do printf '\043include <%s>\n' "$$h" | $(CC) -E - >/dev/null 2>&1 && echo -DFVGPT_STB_IMAGE && break; done)
BUILD   = build
HEADERS = fvgpt.h fvgpt_clip.h
FVGPT_OBJECTS = $(patsubst tools/%.c,$(BUILD)/tools/%.o,$(wildcard tools/fvgpt*.c))
TOOLS   = $(BUILD)/fvgpt $(BUILD)/world $(BUILD)/pretrain $(BUILD)/replay $(BUILD)/random_clip $(BUILD)/bench
EXAMPLES = $(patsubst examples/%.c,$(BUILD)/%,$(wildcard examples/*.c))
LINKED  = $(patsubst %,$(BUILD)/%,test_clip test_fvgpt test_heads_clip test_memory test_optimizers test_pytorch test_stopping \
  test_tiny_clip test_world fuzz_configs fuzz_data fuzz_heads fuzz_json fuzz_merges fuzz_safetensors fuzz_states fuzz_text)
TESTS   = $(patsubst tests/%.c,$(BUILD)/%,$(wildcard tests/test_*.c tests/fuzz_*.c))

help:
	@echo "make demo      tune CLIP prompts on a small world of pictures (CoOp, then FVG-PT), print the base-to-new table"
	@echo "make web       the same in a browser: $(BUILD)/web/index.html, one file, which also opens from disk; needs emcc"
	@echo "make test      build and run all tests; ends with 'N passed, N failed'"
	@echo "make all       the programs in $(BUILD): fvgpt, world, pretrain, replay, random_clip, bench, the examples"
	@echo "make board     run the tiny CLIP on an emulated microcontroller (gcc-arm-none-eabi, qemu-system-arm)"
	@echo "make fuzz      fuzz every parser with clang's sanitizers, SECONDS=60 each"
	@echo "make pretrain  train the CLIP of examples/tiny-clip again, from random weights; 20 minutes"
	@echo "make clean     remove $(BUILD)"

all: $(TOOLS) $(EXAMPLES)

demo:
	@$(MAKE) -j2 --no-print-directory $(BUILD)/fvgpt $(BUILD)/world
	@sh tools/demo.sh $(BUILD)

pretrain: $(BUILD)/pretrain
	$(BUILD)/pretrain $(BUILD)/tiny-clip
	@echo "to use it: cp $(BUILD)/tiny-clip/config.json $(BUILD)/tiny-clip/model.safetensors $(BUILD)/tiny-clip/merges.txt examples/tiny-clip/"

# The library for the browser, with SIMD and without, and the page that holds both.
web: $(BUILD)/web/index.html
.PHONY: web

$(BUILD)/web/index.html: $(BUILD)/web/simd.js $(BUILD)/web/scalar.js $(wildcard tools/web/*) $(wildcard examples/tiny-clip/*)
	python3 tools/web/join.py $(BUILD)/web

$(BUILD)/web/%.js: tools/web/web.c tools/web/build.sh tools/world.h tools/world_sets.h $(HEADERS)
	@mkdir -p $(BUILD)/web
	sh tools/web/build.sh $(BUILD)/web $*

test:
	@$(MAKE) -j4 --no-print-directory $(BUILD)/fvgpt $(BUILD)/world $(TESTS)
	@sh tests/run.sh $(BUILD)

board: $(BUILD)/world
	@sh examples/board/run.sh $(BUILD)

SECONDS = 60
fuzz:
	@sh tests/fuzz.sh $(BUILD) $(SECONDS)

# The program is tools/fvgpt.c and tools/fvgpt_*.c; only fvgpt_library.c holds the bodies of the headers.
$(BUILD)/fvgpt: $(FVGPT_OBJECTS)
	$(CC) $(CFLAGS) $^ -o $@ -lm -lpthread

$(BUILD)/tools/%.o: tools/%.c $(HEADERS) $(wildcard tools/fvgpt*.h)
	@mkdir -p $(BUILD)/tools
	$(CC) $(WARN) $(CFLAGS) $(STB) -DFVGPT_PTHREADS -DFVGPT_DIRENT -c $< -o $@

$(BUILD)/test_formats $(BUILD)/fuzz_images $(BUILD)/test_data: tests/make_pictures.h
$(patsubst tests/%.c,$(BUILD)/%,$(wildcard tests/fuzz_*.c)): $(wildcard tests/fuzz*.h)
$(BUILD)/test_clip $(BUILD)/test_heads_clip $(BUILD)/test_models $(BUILD)/test_no_stdio $(BUILD)/test_quantised: tests/random_model.h

$(BUILD)/fuzz_stores: tools/fvgpt_cache.c tools/fvgpt_system.c $(wildcard tools/fvgpt*.h)
$(BUILD)/test_claims: tools/fvgpt_claim.c tools/fvgpt_system.c $(wildcard tools/fvgpt*.h)

$(BUILD)/world $(BUILD)/pretrain $(BUILD)/test_world $(BUILD)/test_tiny_clip: tools/world.h
$(BUILD)/world: tools/world_sets.h

# Compiling the headers' bodies takes longer than all else; programs that call public functions alone take them from the
# library, which fvgpt needs anyway.  A program of yours needs one line: cc -O2 examples/02_zero_shot.c -I. -lm
LIBRARY = $(BUILD)/tools/fvgpt_library.o
$(BUILD)/%: tools/%.c tests/linked.h $(LIBRARY)
	$(CC) $(WARN) $(CFLAGS) -include tests/linked.h $< $(LIBRARY) -o $@ -lm -lpthread

$(BUILD)/%: examples/%.c tests/linked.h $(LIBRARY)
	$(CC) $(CFLAGS) $(STB) -include tests/linked.h -I. $< $(LIBRARY) -o $@ -lm -lpthread

# These look inside the library, or choose what it has.
$(BUILD)/pretrain: tools/pretrain.c $(HEADERS)
	@mkdir -p $(BUILD)
	$(CC) $(WARN) $(CFLAGS) -DFVGPT_STATIC -DFVGPT_PTHREADS $< -o $@ -lm -lpthread

$(BUILD)/14_no_heap: examples/14_no_heap.c $(HEADERS)
	@mkdir -p $(BUILD)
	$(CC) $(CFLAGS) -DFVGPT_STATIC -I. $< -o $@ -lm

$(BUILD)/%: tests/%.c $(HEADERS)
	@mkdir -p $(BUILD)
	$(CC) -std=c99 $(CFLAGS) $(LEVEL) $(STB) $< -o $@ -lm -lpthread

# Of the bodies that a test has itself, for it calls private ones, only what is called is compiled.
LEVEL = -O1 -DFVGPT_STATIC
$(BUILD)/test_attention $(BUILD)/test_kernels: LEVEL = -O2 -DFVGPT_STATIC

# These multiply little, and need the kernels of one level only.
SCALAR = test_data test_files test_formats test_images test_tokenizer fuzz_images
$(patsubst %,$(BUILD)/%,$(SCALAR)): LEVEL = -O1 -DFVGPT_STATIC -DFVGPT_NO_SIMD

# A program of two halves: one is without training, the other has the whole library.
$(BUILD)/test_no_training: tests/test_no_training.c tests/tuned_files.c tests/tuned_files.h tests/linked.h $(BUILD)/tools/fvgpt_library.o
	@mkdir -p $(BUILD)
	$(CC) -std=c99 $(CFLAGS) -O1 $(STB) -include tests/linked.h -c tests/tuned_files.c -o $(BUILD)/tuned_files.o
	$(CC) -std=c99 $(CFLAGS) $(LEVEL) tests/test_no_training.c $(BUILD)/tuned_files.o $(BUILD)/tools/fvgpt_library.o -o $@ -lm -lpthread

$(LINKED): $(BUILD)/%: tests/%.c tests/linked.h $(LIBRARY)
	$(CC) -std=c99 $(CFLAGS) -O1 $(STB) -include tests/linked.h $< $(LIBRARY) -o $@ -lm -lpthread

clean:
	rm -rf $(BUILD)

# For scripts that build the tests otherwise.
linked:
	@echo $(notdir $(LINKED))
stb:
	@echo $(STB)

.PHONY: help all demo web board pretrain test fuzz clean linked stb
