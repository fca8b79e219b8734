# liblora: build, test, install. `make help` lists the targets; docs/building.md explains them.
VERSION := 0.1.0
SOMAJOR := 0.1
SONAME  := liblora.so.$(SOMAJOR)
FLAVOR  ?= release
B       := build/$(FLAVOR)
L       := $(if $(filter release,$(FLAVOR)),lib,$(B)/lib)
BIN     := $(if $(filter release,$(FLAVOR)),build/bin,$(B)/bin)

prefix      ?= /usr/local
exec_prefix ?= $(prefix)
bindir      ?= $(exec_prefix)/bin
libdir      ?= $(exec_prefix)/lib
includedir  ?= $(prefix)/include
datadir     ?= $(prefix)/share
mandir      ?= $(datadir)/man
PKG_CONFIG  ?= pkg-config
PYTHON      ?= python3
INSTALL     ?= install
CFLAGS      ?= -O2 -g

flavor_asan  := -O1 -fsanitize=address -fno-omit-frame-pointer
flavor_ubsan := -O1 -fsanitize=undefined -fno-sanitize-recover=all
flavor_tsan  := -O1 -fsanitize=thread
flavor_san   := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
flavor_m32   := -m32 -msse2 -mfpmath=sse -O1 -D_FILE_OFFSET_BITS=64 -Wno-psabi
flavor_cov   := -O0 --coverage
flavor_fuzz  := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined

# Project flags first, the user's after them, so that a packager can override without dropping ours.
Q    := $(if $(V),,@)
warn := -Wall -Wextra -Wshadow -Wvla -Wdate-time
cc = $(CC) -Iinclude -Isrc -MMD -MP -std=c11 -D_GNU_SOURCE $(warn) -fPIC -ffp-contract=off -fvisibility=hidden \
     -ffile-prefix-map=$(CURDIR)=. -DLORA_VERSION_TEXT='"$(VERSION)"' $(CPPFLAGS) $(CFLAGS) $(flavor_$(FLAVOR))
ld = $(CC) $(CFLAGS) $(LDFLAGS) $(flavor_$(FLAVOR))
libs       := -ljansson -lpcre2-8 -lutf8proc -lz -lm -ldl -lpthread
check_libs  = $(or $(shell $(PKG_CONFIG) --libs check 2>/dev/null),-lcheck -lsubunit -lrt)
comma      := ,
# Sub-makes use all cores when the user gave no -j.
sub         = $(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))
step        = @mkdir -p $(@D)$(if $(V),,; echo "  $(1)	$@")

SRC := $(sort $(filter-out src/cli/%,$(wildcard src/*/*.c)) $(wildcard src/backend/naive/*.c))
OBJ := $(SRC:src/%.c=$(B)/%.o)
CLI := $(patsubst src/%.c,$(B)/%.o,$(sort $(wildcard src/cli/*.c)))
TST := $(patsubst tests/%.c,$(B)/tests/%,$(sort $(wildcard tests/test_*.c)))
# tests/test_x.c is linked with every tests/x/*.c, when there are any.
parts = $(patsubst tests/%.c,$(B)/tests/%.o,$(sort $(wildcard tests/$(1)/*.c)))
TSTOBJ := $(TST:=.o) $(foreach t,$(TST),$(call parts,$(patsubst test_%,%,$(notdir $(t)))))
BENCH  := $(patsubst tests/%.c,$(B)/tests/%,$(sort $(wildcard tests/bench/bench_*.c)))

all: $(L)/liblora.a $(L)/liblora.so $(if $(CLI),$(BIN)/lora) plugins  ## libraries, plug-ins and the lora program
plugins:

# ---- the library -------------------------------------------------------------------------------------------------
$(OBJ) $(CLI) $(TSTOBJ): | build/deps.core
build/deps.core: tests/deps.sh
	@mkdir -p $(@D); CC="$(CC)" sh tests/deps.sh probe core && touch $@
$(B)/%.o: src/%.c $(B)/flags
	$(call step,CC)
	$(Q)$(cc) -c $< -o $@
flags := $(cc)
$(B)/flags: FORCE                                        # touched only when the flags change; := above, or a target's own flags would get in
	@mkdir -p $(@D); echo '$(flags)' | cmp -s - $@ || echo '$(flags)' >$@
$(B)/objects: FORCE                                      # ... when a source comes or goes
	@mkdir -p $(@D); echo '$(OBJ) $(CLI)' | cmp -s - $@ || echo '$(OBJ) $(CLI)' >$@
$(B)/libdir: FORCE                                       # ... when the plug-in directory changes
	@mkdir -p $(@D); echo '$(libdir)' | cmp -s - $@ || echo '$(libdir)' >$@
uses_libdir := $(patsubst src/%.c,$(B)/%.o,$(shell grep -ls LORA_LIBDIR $(SRC) /dev/null))
$(uses_libdir): $(B)/libdir
$(uses_libdir): override CPPFLAGS += -DLORA_LIBDIR='"$(libdir)"'
# Vectorised, but without the copies that -O3 makes of every loop (they doubled the library); the two -fno change no value.
$(B)/backend/naive/%.o: CFLAGS += -O2 -ftree-vectorize $(if $(findstring clang,$(CC)),,-fvect-cost-model=dynamic) -fno-trapping-math -fno-math-errno
$(B)/combine/eigen.o: CFLAGS += -fno-math-errno # a square root is one instruction
# Row by row over widths that are whole vectors: a second, narrower vector loop for what is left over is room for nothing (13 kB).
rowwise := $(addprefix $(B)/backend/naive/naive_,$(addsuffix .o,elementwise gated layernorm loss norm random rotary update))
$(rowwise): Makefile
$(rowwise): CFLAGS += $(if $(findstring clang,$(CC)),,--param vect-epilogues-nomask=0)
# What runs once per call, not once per element, is made small: the library is to stay under 1 MB.
ifeq ($(FLAVOR),release)
$(OBJ): CFLAGS += -fno-asynchronous-unwind-tables -ffunction-sections -fdata-sections # 90 kB; debuggers read .debug_frame, and nothing is thrown through C callbacks
cold := $(addsuffix /%,adapter api graph merge model ops optim posterior search site train) format/% base/% backend/plugin backend/naive/naive backend/naive/naive_route combine/combin% combine/e% combine/lowrank combine/lowrank_dense combine/shapley quant/quant_grid quant/quant_k_encode \
  $(addprefix tokenizer/,chat% norm_% dec_% tok_added sentencepiece tok_build tok_class tok_json tok_post tok_source tok_vocab)
$(cold:%=$(B)/%.o): CFLAGS += -Os
$(B)/adapter/halves.o: CFLAGS += -O2 -ftree-vectorize # over every parameter, before the first token
# Relative relocations take 80 kB, or 2 where the C library reads the packed form (glibc 2.36): asked of this system by running a program.
relr := $(shell mkdir -p build; test -f build/relr || { printf 'int main(void) { return 0; }' | $(CC) -x c - -pie -fPIE -o build/relr.out -Wl,-z,pack-relative-relocs 2>/dev/null \
  && build/relr.out && echo -Wl,-z,pack-relative-relocs; } >build/relr 2>/dev/null; cat build/relr; rm -f build/relr.out)
endif
$(L)/liblora.a: $(OBJ) $(B)/objects
	$(call step,AR)
	$(Q)rm -f $@ && $(AR) crsD $@ $(OBJ)
$(L)/liblora.so.$(VERSION): $(OBJ) $(B)/objects src/lora.map
	$(call step,LD)
	$(Q)$(ld) -shared $(relr) -Wl,--gc-sections -Wl,-z,noseparate-code -Wl,-soname,$(SONAME) -Wl,--version-script=src/lora.map -Wl,--no-undefined-version \
	  $(if $(filter release,$(FLAVOR)),-Wl$(comma)-z$(comma)defs) -o $@ $(OBJ) $(libs)
$(L)/liblora.so: $(L)/liblora.so.$(VERSION)
	$(Q)ln -sf $(<F) $(L)/$(SONAME) && ln -sf $(SONAME) $@
$(BIN)/lora: $(CLI) $(B)/objects $(L)/liblora.so
	$(call step,LD)
	$(Q)$(ld) -o $@ $(CLI) -L$(L) -llora -Wl,-rpath,'$$ORIGIN/../../lib:$$ORIGIN/../lib' -ljansson -lsqlite3 -lz -lm

# ---- install -----------------------------------------------------------------------------------------------------
D := $(DESTDIR)
install: all                                             ## into $(prefix), honours DESTDIR, libdir, ...
	$(INSTALL) -d $(D)$(bindir) $(D)$(libdir)/lora $(D)$(libdir)/pkgconfig $(D)$(includedir)/lora $(D)$(mandir)/man1 \
	  $(D)$(datadir)/bash-completion/completions $(D)$(datadir)/zsh/site-functions
	$(INSTALL) -m 644 include/lora/*.h $(D)$(includedir)/lora
	$(INSTALL) -m 644 $(L)/liblora.a $(D)$(libdir)
	$(INSTALL) -m 755 $(L)/liblora.so.$(VERSION) $(D)$(libdir)
	ln -sf liblora.so.$(VERSION) $(D)$(libdir)/$(SONAME) && ln -sf $(SONAME) $(D)$(libdir)/liblora.so
	for p in $(wildcard $(L)/lora/*.so); do $(INSTALL) -m 755 $$p $(D)$(libdir)/lora || exit 1; done
	sed -e 's|@prefix@|$(prefix)|' -e 's|@exec_prefix@|$(exec_prefix:$(prefix)%=$${prefix}%)|' -e 's|@libdir@|$(libdir:$(prefix)%=$${prefix}%)|' \
	  -e 's|@includedir@|$(includedir:$(prefix)%=$${prefix}%)|' -e 's|@VERSION@|$(VERSION)|' pkgconfig/lora.pc.in >$(D)$(libdir)/pkgconfig/lora.pc
	$(if $(CLI),$(ld) -o $(D)$(bindir)/lora $(CLI) -L$(L) -llora $(if $(filter /usr/lib%,$(libdir)),,-Wl$(comma)-rpath$(comma)$(libdir)) -ljansson -lsqlite3 -lz -lm)
	for f in $(wildcard docs/man/*.1); do $(INSTALL) -m 644 $$f $(D)$(mandir)/man1 || exit 1; done
	$(if $(wildcard src/cli/completions/lora.bash),$(INSTALL) -m 644 src/cli/completions/lora.bash $(D)$(datadir)/bash-completion/completions/lora)
	$(if $(wildcard src/cli/completions/_lora),$(INSTALL) -m 644 src/cli/completions/_lora $(D)$(datadir)/zsh/site-functions/_lora)
uninstall:                                               ## take the installed files away again
	rm -rf $(D)$(includedir)/lora $(D)$(libdir)/lora
	rm -f $(D)$(libdir)/liblora.a $(D)$(libdir)/liblora.so $(D)$(libdir)/$(SONAME) $(D)$(libdir)/liblora.so.$(VERSION) \
	  $(D)$(libdir)/pkgconfig/lora.pc $(D)$(bindir)/lora $(D)$(mandir)/man1/lora.1 \
	  $(D)$(datadir)/bash-completion/completions/lora $(D)$(datadir)/zsh/site-functions/_lora
clean:                                                   ## remove what was built
	rm -rf build $(filter-out lib/README.md,$(wildcard lib/*))
distclean: clean                                         ## remove also what the tests and Python left behind
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
help:                                                    ## this list
	@echo "Targets:"; awk -F':.*##' '/^[a-z][a-z -]*:.*##/ { printf "  %-22s %s\n", $$1, $$2 }' Makefile $(wildcard tests/*/rules.mk src/*/*/rules.mk examples/*/rules.mk)
	@echo "Variables: CC CFLAGS CPPFLAGS LDFLAGS prefix libdir DESTDIR FLAVOR=release|asan|ubsan|san|tsan|cov V=1"

# ---- tests -------------------------------------------------------------------------------------------------------
$(B)/tests/%.o: tests/%.c $(B)/flags
	$(call step,CC)
	$(Q)$(cc) -Itests -c $< -o $@
.SECONDEXPANSION:
$(B)/tests/test_faults: $(B)/tests/torture/world.o
$(B)/tests/test_hub: $(B)/tests/cli/run.o
$(B)/tests/test_cli: $(B)/cli/fourbit.o
$(TST): $(B)/tests/test_%: $(B)/tests/test_%.o $$(call parts,$$*) $(L)/liblora.a
	$(call step,LD)
	$(Q)$(ld) -o $@ $(filter %.o,$^) $(L)/liblora.a $(check_libs) $(libs)
$(BENCH): %: %.o $(L)/liblora.a
	$(call step,LD)
	$(Q)$(ld) -o $@ $(filter %.o,$^) $(L)/liblora.a $(libs)
programs: $(TST)
run = CK_VERBOSITY=$(or $(CK_VERBOSITY),normal) CK_TIMEOUT_MULTIPLIER=$(if $(filter release,$(FLAVOR)),5,40) sh tests/run.sh -j $(or $(JOBS),$(shell nproc)) -o $(B)/results
gate = "$(1)=$(MAKE) --no-print-directory $(1)"
fuzzed := $(if $(wildcard tests/fuzz/rules.mk),fuzz-regress)

check:                                                   ## install what the tests need, build and run every test
	@CC="$(CC)" sh tests/deps.sh install core check
	@$(sub) all programs
	+@$(run) $(TST) $(foreach g,$(fuzzed) headers lint abi docs-check size examples check-install,$(call gate,$(g)))
check-quick: all programs                                ## the part that takes less than a minute
	+@LORA_QUICK=1 $(run) $(TST) $(foreach g,headers lint,$(call gate,$(g)))
check-programs: all programs             # the C tests alone, as the sanitizer flavours run them
	+@$(run) $(TST) $(foreach g,$(fuzzed),$(call gate,$(g)))
asan: ; @ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 $(sub) FLAVOR=asan check-programs  ## the C tests with AddressSanitizer
ubsan: ; @UBSAN_OPTIONS=print_stacktrace=1 $(sub) FLAVOR=ubsan check-programs  ## ... with UndefinedBehaviorSanitizer
san: ; @LORA_QUICK=1 ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 $(sub) FLAVOR=san check-programs  ## ... with both in one build, the quick set
tsan: ; @CK_FORK=no TSAN_OPTIONS=halt_on_error=1 $(sub) FLAVOR=tsan check-programs  ## ... with ThreadSanitizer
readers := $(addprefix test_,file gguf gguf_model peft quant safetensors safetensors_write tokenizer)
check32:                                                 ## the readers' tests built for 32 bits, where compiler and libraries can (CPPFLAGS=-I LDFLAGS=-L: where)
	@mkdir -p build; if printf '#include <check.h>\n#include <jansson.h>\nint main(void) { return 0; }\n' | $(CC) $(flavor_m32) $(CPPFLAGS) -x c - $(LDFLAGS) -o build/m32.out $(check_libs) $(libs) \
	  2>/dev/null; then $(sub) FLAVOR=m32 check-readers; else echo "SKIP check32: $(CC) -m32 does not link here (gcc-multilib, and the libraries for i386)"; fi; rm -f build/m32.out
check-readers: $(readers:%=$(B)/tests/%)
	+@$(run) $^
valgrind: programs                                       ## ... under valgrind, the quick set
	@sh tests/deps.sh tool valgrind
	+@LORA_QUICK=1 CK_FORK=no CK_DEFAULT_TIMEOUT=0 RUN_UNDER="valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite" $(run) $(TST)
coverage:                                                ## lines and branches covered, by folder
	@$(sub) FLAVOR=cov check-programs || true
	@$(PYTHON) tests/lint/coverage.py build/cov
torture: programs                                        ## every allocation of every public call fails once
	@LORA_TORTURE=all CK_DEFAULT_TIMEOUT=0 $(B)/tests/test_torture && LORA_TORTURE=all CK_DEFAULT_TIMEOUT=0 $(B)/tests/test_faults
headers:                                                 ## every public header alone, as C99 and C++11
	@CC="$(CC)" CXX="$(CXX)" sh tests/headers/headers.sh
lint:                                                    ## layers, docstrings, banned functions, lengths, names
	@$(PYTHON) tests/lint/lint.py
format:                                                  ## clang-format over all C sources, in place
	@sh tests/deps.sh tool clang-format
	clang-format -i $(SRC) $(wildcard src/cli/*.c src/*/*.h src/*/*/*.h tests/*.c tests/*.h tests/*/*.c examples/*.c include/lora/*.h)
abi: all                                                 ## exported names, constants, offsets, old headers (UPDATE=1 to record)
	@CC="$(CC)" $(PYTHON) tests/abi/abi.py $(L) $(B)/abi $(if $(UPDATE),--update)
size: all                                                ## size of the stripped library, and what it pulls in
	@sh tests/size.sh $(L)/liblora.so.$(VERSION) $(B)
check-install: all                                       ## install into a scratch root and build the examples from there
	@CC="$(CC)" CXX="$(CXX)" MAKE="$(MAKE)" sh tests/check_install.sh $(B)/install
examples: all                                            ## build and run every example
	@CC="$(CC)" CXX="$(CXX)" PYTHON="$(PYTHON)" sh tests/examples.sh $(L) $(B)/examples
demo:                                                    ## install what is missing, build, train, merge, unmerge, draw
	@CC="$(CC)" sh tests/deps.sh install core
	@$(sub) all
	@CC="$(CC)" sh examples/demo/demo.sh $(L) $(BIN) build/demo
docs:                                                    ## the reference, extracted from the headers, to build/docs
	@mkdir -p build/docs; $(PYTHON) docs/reference.py >build/docs/reference.md && echo build/docs/reference.md
docs-check: docs
	@$(PYTHON) tests/lint/docs.py
bench: all $(BENCH)                                      ## timings as CSV and table (BENCH_ARGS="--shapes 135m --dtypes bf16"); docs/building.md
	@LORA_COMMIT=$$(git describe --always --dirty 2>/dev/null) LORA_PLUGIN_DIR=$(L)/lora $(B)/tests/bench/bench_suite --dir build/bench $(BENCH_ARGS)
BENCH_SHAPE ?= 15m
BENCH_DTYPE ?= f32
# Without a PYTHON of the user's, a virtual environment of its own, made once.
peer_python = $(if $(filter file default,$(origin PYTHON)),build/peers/bin/python,$(PYTHON))
build/peers/bin/python:
	$(PYTHON) -m venv build/peers.new && build/peers.new/bin/pip install -q torch --index-url https://download.pytorch.org/whl/cpu || build/peers.new/bin/pip install -q torch
	build/peers.new/bin/pip install -q transformers peft && rm -rf build/peers.new/bin/pip* && mv build/peers.new build/peers
bench-peft: all $(B)/tests/bench/bench_train $(filter build/%,$(peer_python))  ## in turns with PEFT (PYTHON=, BENCH_SHAPE, BENCH_DTYPE, BENCH_ARGS="5 --cases train,padded")
	@LORA_PLUGIN_DIR=$(L)/lora $(peer_python) tests/bench/peft.py $(B)/tests/bench/bench_train $(BENCH_SHAPE) $(BENCH_DTYPE) --lora $(BIN)/lora $(BENCH_ARGS)
dist:                                                    ## source tarball of HEAD
	@mkdir -p build; git archive --format=tar --prefix=liblora-$(VERSION)/ HEAD | gzip -n >build/liblora-$(VERSION).tar.gz; echo build/liblora-$(VERSION).tar.gz
repro:                                                   ## build twice in two folders and compare, byte for byte
	@CC="$(CC)" MAKE="$(MAKE)" sh tests/repro.sh

-include $(wildcard tests/*/rules.mk src/backend/*/rules.mk examples/*/rules.mk)
-include $(OBJ:.o=.d) $(CLI:.o=.d) $(TSTOBJ:.o=.d) $(BENCH:=.d)
.PHONY: all plugins install uninstall clean distclean help programs check check-quick check-programs check32 check-readers check-install asan ubsan san tsan \
        valgrind coverage fuzz fuzz-regress torture headers lint format abi size examples demo docs docs-check bench bench-peft dist repro FORCE
.SECONDARY:
.DELETE_ON_ERROR:
