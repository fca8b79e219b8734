# liblora: build, test, install. `make help` lists the targets. Documentation: docs/building.md
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
mandir      ?= $(prefix)/share/man
PKG_CONFIG  ?= pkg-config
CFLAGS      ?= -O2 -g

flavor_asan  := -O1 -fsanitize=address -fno-omit-frame-pointer
flavor_ubsan := -O1 -fsanitize=undefined -fno-sanitize-recover=all
flavor_tsan  := -O1 -fsanitize=thread
flavor_cov   := -O0 --coverage

warn := -Wall -Wextra -Wshadow -Wvla -Wdate-time
cc = $(CC) -Iinclude -Isrc -MMD -MP -std=c11 -D_GNU_SOURCE $(warn) -fPIC -ffp-contract=off -fvisibility=hidden \
     -ffile-prefix-map=$(CURDIR)=. -DLORA_LIBDIR='"$(libdir)"' -DLORA_VERSION_TEXT='"$(VERSION)"' $(CPPFLAGS) $(CFLAGS) $(flavor_$(FLAVOR))
ld = $(CC) $(CFLAGS) $(LDFLAGS) $(flavor_$(FLAVOR))
libs := -ljansson -lpcre2-8 -lutf8proc -lz -lm -ldl -lpthread

SRC := $(sort $(filter-out src/cli/%,$(wildcard src/*/*.c)) $(wildcard src/backend/naive/*.c))
OBJ := $(SRC:src/%.c=$(B)/%.o)
CLI := $(patsubst src/%.c,$(B)/%.o,$(sort $(wildcard src/cli/*.c)))
TST := $(patsubst tests/%.c,$(B)/tests/%,$(sort $(wildcard tests/test_*.c)))

all: $(L)/liblora.a $(L)/liblora.so $(BIN)/lora plugins  ## libraries, plug-ins and the lora program
plugins:
check: all $(TST:=.run)                                  ## build and run every test

$(B)/%.o: src/%.c $(B)/flags
	@mkdir -p $(@D)
	$(cc) -c $< -o $@
$(B)/flags: FORCE
	@mkdir -p $(@D); echo '$(cc)' | cmp -s - $@ || echo '$(cc)' >$@
$(B)/backend/naive/%.o: CFLAGS += -O3 -fno-trapping-math -fno-math-errno # both leave every value as it is
$(L)/liblora.a: $(OBJ)
	@mkdir -p $(@D)
	rm -f $@ && $(AR) crsD $@ $^
$(L)/liblora.so.$(VERSION): $(OBJ) src/lora.map
	@mkdir -p $(@D)
	$(ld) -shared -Wl,-soname,$(SONAME) -Wl,--version-script=src/lora.map -Wl,--no-undefined-version \
	  $(if $(filter release,$(FLAVOR)),-Wl$(comma)-z$(comma)defs) -o $@ $(OBJ) $(libs)
$(L)/liblora.so: $(L)/liblora.so.$(VERSION)
	ln -sf $(<F) $(L)/$(SONAME) && ln -sf $(SONAME) $@
comma := ,
$(BIN)/lora: $(CLI) $(L)/liblora.so
	@mkdir -p $(@D)
	$(ld) -o $@ $(CLI) -L$(L) -llora -Wl,-rpath,'$$ORIGIN/../../lib:$$ORIGIN/../lib' -ljansson -lz -lm
$(B)/tests/%: tests/%.c $(L)/liblora.a
	@mkdir -p $(@D)
	$(cc) -Itests $< $(L)/liblora.a $(LDFLAGS) -lcheck -lsubunit -lrt $(libs) -o $@
%.run: % ; $<
-include $(OBJ:.o=.d) $(CLI:.o=.d) $(TST:=.d)
.PHONY: all plugins check FORCE
.DELETE_ON_ERROR:
