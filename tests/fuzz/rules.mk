# Fuzzing. A target is tests/fuzz/fuzz_<name>.c, its corpus tests/fuzz/corpus/<name>/. Included by the Makefile.
#   make fuzz-regress                  every corpus through its target, with any compiler and flavour
#   make fuzz FUZZ=safetensors FUZZ_SECONDS=600   libFuzzer with the address and undefined-behaviour sanitizers (clang)
FUZZ_NAMES   := $(patsubst tests/fuzz/fuzz_%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
FUZZ         ?= $(FUZZ_NAMES)
FUZZ_SECONDS ?= 60
FUZZ_CC      ?= clang
FUZZ_FLAGS   ?= -max_len=4096 -rss_limit_mb=2048 -timeout=10
fuzz_regress := $(FUZZ_NAMES:%=$(B)/fuzz/%)

fuzz-regress: $(fuzz_regress:=.replay)                   ## corpora through the fuzz targets
$(fuzz_regress:=.replay): $(B)/fuzz/%.replay: $(B)/fuzz/%
	@$< tests/fuzz/corpus/$* 2>$@.err || { cat $@.err; exit 1; }
# What a target needs of the program: its data readers are not in the library.
fuzz_with_jsonl := $(patsubst %,src/cli/%.c,data datapack dataread store idtext options modelout paths report session stfile)
$(B)/fuzz/jsonl build/fuzz/fuzz_jsonl: $(fuzz_with_jsonl)
$(fuzz_regress): $(B)/fuzz/%: tests/fuzz/fuzz_%.c tests/fuzz/driver.c $(L)/liblora.a
	$(call step,LD)
	$(Q)$(cc) $(LDFLAGS) -MF $@.d $< $(fuzz_with_$*) tests/fuzz/driver.c $(L)/liblora.a $(libs) -o $@

# jsonl: the program's readers print a line for each input that is refused; the mask keeps these off the terminal, and libFuzzer's own lines on it.
# The whole library is built once more with coverage; a target then runs for FUZZ_SECONDS, and what it finds is left in build/fuzz/.
fuzz:                                                    ## libFuzzer over every target, FUZZ_SECONDS each
	+$(Q)$(MAKE) --no-print-directory FLAVOR=fuzz CC=$(FUZZ_CC) $(FUZZ:%=build/fuzz/fuzz_%)
	$(Q)for t in $(FUZZ); do mkdir -p build/fuzz/corpus/$$t; \
	  build/fuzz/fuzz_$$t -max_total_time=$(FUZZ_SECONDS) $(FUZZ_FLAGS) $$(ls tests/fuzz/$$t.dict 2>/dev/null | sed 's/^/-dict=/') $$([ $$t != jsonl ] || echo -close_fd_mask=2) \
	    -artifact_prefix=build/fuzz/$$t- build/fuzz/corpus/$$t tests/fuzz/corpus/$$t || exit 1; done
build/fuzz/fuzz_%: tests/fuzz/fuzz_%.c build/fuzz/lib/liblora.a
	@mkdir -p $(@D)
	$(Q)$(cc) -fsanitize=fuzzer $(LDFLAGS) -MF $@.d $< $(fuzz_with_$*) build/fuzz/lib/liblora.a $(libs) -o $@
.PHONY: $(fuzz_regress:=.replay)
