# Plug-in liblora_onednn.so. ONEDNN=auto (default): built when oneDNN 2 is found; yes: an error when not; no: left out.
# ONEDNN_CFLAGS and ONEDNN_LIBS override the search.
ONEDNN ?= auto
onednn_so  := $(L)/lora/liblora_onednn.so
onednn_src := $(sort $(wildcard src/backend/onednn/*.c))
onednn_obj := $(onednn_src:src/%.c=$(B)/%.o)
ifneq ($(ONEDNN),no)
plugins: build/deps.onednn $(onednn_so)
endif

build/deps.onednn: src/backend/onednn/probe.sh
	@mkdir -p $(@D); CC="$(CC)" PKG_CONFIG="$(PKG_CONFIG)" ONEDNN="$(ONEDNN)" ONEDNN_CFLAGS="$(ONEDNN_CFLAGS)" ONEDNN_LIBS="$(ONEDNN_LIBS)" sh $< $@
$(onednn_so): $(onednn_src) src/backend/onednn/onednn.h include/lora/backend.h build/deps.onednn $(B)/flags
	@if grep -q '^off' build/deps.onednn; then cat build/deps.onednn; rm -f $@; else \
	  mkdir -p $(@D) $(B)/backend/onednn && $(if $(V),,echo "  LD	$@" &&) \
	  for c in $(onednn_src); do $(cc) -O3 `sed -n 's/^cflags //p' build/deps.onednn` -c $$c -o $(B)/backend/onednn/`basename $$c .c`.o || exit 1; done && \
	  $(ld) -shared -o $@ $(onednn_obj) -Wl,-Bsymbolic `sed -n 's/^libs //p' build/deps.onednn`; fi
