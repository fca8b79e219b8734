#!/bin/sh
# Install into a scratch root with DESTDIR, look at what came, build the examples from there through pkg-config, shared and static, run
# them, and uninstall: check_install.sh WORKDIR
work=$1 MAKE=${MAKE:-make} CC=${CC:-cc} CXX=${CXX:-c++} PKG_CONFIG=${PKG_CONFIG:-pkg-config}
here=$(pwd) root=$(pwd)/$1/root at=/usr/local
passed=0 failed=0 skipped=0
rm -rf "$work"; mkdir -p "$work"
ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "check-install: $*"; }
try() { # what command...
	what=$1; shift
	if "$@" >"$work/log" 2>&1; then ok; else bad "$what"; tail -15 "$work/log" | sed 's/^/    /'; return 1; fi
}
try "make install" "$MAKE" --no-print-directory install DESTDIR="$root" prefix=$at || { echo "$passed passed, $failed failed"; exit 1; }
for file in lib/liblora.a lib/liblora.so lib/liblora.so.0.1 lib/pkgconfig/lora.pc include/lora/lora.h bin/lora share/man/man1/lora.1; do
	if [ -e "$root$at/$file" ]; then ok; else bad "$at/$file was not installed"; fi
done
[ -d "$root$at/lib/lora" ] && ok || bad "$at/lib/lora was not made"
if command -v "$PKG_CONFIG" >/dev/null 2>&1; then
	pc() { PKG_CONFIG_PATH="$root$at/lib/pkgconfig" "$PKG_CONFIG" --define-variable=prefix="$root$at" "$@" lora; }
	shared="$(pc --cflags --libs)"
	# Only liblora itself is linked statically; -Bstatic for it alone, so that the system's libraries may stay shared.
	static="$(pc --cflags --static --libs | sed 's/-llora/-Wl,-Bstatic -llora -Wl,-Bdynamic/')"
	case $static in *-ljansson*) ok ;; *) bad "pkg-config --static does not name jansson: $static" ;; esac
	LD_LIBRARY_PATH=$root$at/lib; export LD_LIBRARY_PATH
	# A static program does not know where it was installed: it is told where the plug-ins are, so that both forms use the same backend.
	LORA_PLUGIN_DIR=$root$at/lib/lora; export LORA_PLUGIN_DIR
	for form in shared static; do
		eval "flags=\$$form"
		for name in quickstart merge_cycle host_engine; do
			# shellcheck disable=SC2086
			try "$name.c, $form" $CC -std=c11 -D_GNU_SOURCE -O1 examples/$name.c -o "$work/$name-$form" $flags -lm
		done
		if command -v "${CXX%% *}" >/dev/null 2>&1; then
			# shellcheck disable=SC2086
			try "embed.cpp, $form" $CXX -std=c++11 -O1 examples/embed.cpp -o "$work/embed-$form" $flags && try "embed, $form, runs" "$work/embed-$form"
		fi
		try "quickstart, $form, runs" "$work/quickstart-$form" 2 "$work/$form-adapter"
		try "merge_cycle, $form, runs" "$work/merge_cycle-$form" examples/demo/model 2
		try "host_engine, $form, runs" "$work/host_engine-$form" 20
	done
	if readelf -d "$work/quickstart-static" | grep -q liblora; then bad "the static program still needs liblora.so"; else ok; fi
	cmp -s "$work/shared-adapter/adapter_model.safetensors" "$work/static-adapter/adapter_model.safetensors" && ok || bad "shared and static wrote different adapters"
else
	skipped=$((skipped + 1)); echo "SKIP pkg-config: not here"
fi
[ -x "$root$at/bin/lora" ] && try "installed lora runs" env LD_LIBRARY_PATH="$root$at/lib" "$root$at/bin/lora" version
try "make uninstall" "$MAKE" --no-print-directory uninstall DESTDIR="$root" prefix=$at
left=$(cd "$root" && find . -type f -o -type l)
[ -z "$left" ] && ok || bad "uninstall left: $left"
cd "$here" || exit 1
if [ "$skipped" -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"; else echo "$passed passed, $failed failed"; fi
[ "$failed" -eq 0 ]
