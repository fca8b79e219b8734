# Plug-in liblora_blis.so. BLIS=auto (default): built when BLIS is found; yes: an error when not; no: left out.
# Found through pkg-config, or by trying: Debian 12 has no blis.pc and keeps blis.h and libblis.a in folders of their own.
# The static library is preferred: then the plug-in can pass a context by itself (see blis_plugin.c), and nothing of BLIS is visible outside.
# BLIS_CFLAGS and BLIS_LIBS override the search.
BLIS    ?= auto
blis_so := $(L)/lora/liblora_blis.so
ifeq ($(BLIS),no)
plugins: ; @rm -f $(blis_so)
else
plugins: $(blis_so)
endif

ifneq ($(shell grep -s '^off' build/deps.blis),)# not found last time: look again, it may be installed by now
build/deps.blis: FORCE
endif
build/deps.blis: src/backend/blis/probe.sh
	@mkdir -p $(@D); CC="$(CC)" PKG_CONFIG="$(PKG_CONFIG)" BLIS="$(BLIS)" BLIS_CFLAGS="$(BLIS_CFLAGS)" BLIS_LIBS="$(BLIS_LIBS)" sh $< $@
$(blis_so): src/backend/blis/blis_plugin.c build/deps.blis $(B)/flags
	@if grep -q '^off' build/deps.blis; then sed 's/^off //' build/deps.blis; rm -f $@; else \
	  mkdir -p $(@D) $(B)/backend/blis && $(if $(V),,echo "  LD	$@" &&) \
	  $(cc) -O3 -MT $@ `sed -n 's/^cflags //p' build/deps.blis` -c $< -o $(B)/backend/blis/blis_plugin.o && \
	  $(ld) -shared -o $@ $(B)/backend/blis/blis_plugin.o -Wl,--exclude-libs,ALL -Wl,-Bsymbolic `sed -n 's/^libs //p' build/deps.blis`; fi
-include $(B)/backend/blis/blis_plugin.d
