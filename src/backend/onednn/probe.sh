#!/bin/sh
# Find oneDNN 2 on OpenMP. Writes "cflags ..." and "libs ..." lines to the file $1, or one line "off ...".
# Environment: CC PKG_CONFIG ONEDNN ONEDNN_CFLAGS ONEDNN_LIBS.
set -u
out=$1
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
cat >"$dir/t.c" <<'END'
#include <oneapi/dnnl/dnnl.h>
#if DNNL_VERSION_MAJOR != 2
#error "the plug-in is written for oneDNN 2"
#endif
#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
int omp_get_max_threads(void);
int t(void) { return omp_get_max_threads() + dnnl_version()->major; }
#elif DNNL_CPU_RUNTIME == DNNL_RUNTIME_SEQ
int t(void) { return dnnl_version()->major; }
#else
#error "neither OpenMP nor sequential"
#endif
END

# Does it compile and link with -z defs? $1 cflags, $2 libs
try() {
	$CC -std=c11 -fPIC $1 -shared -o "$dir/t.so" "$dir/t.c" -Wl,-z,defs $2 >"$dir/log" 2>&1 || return 1
	printf 'cflags %s\nlibs %s\n' "$1" "$2" >"$out"
	exit 0
}

[ -n "$ONEDNN_LIBS" ] && try "$ONEDNN_CFLAGS" "$ONEDNN_LIBS"
flags=$($PKG_CONFIG --cflags dnnl 2>/dev/null) && libs=$($PKG_CONFIG --libs dnnl 2>/dev/null) && try "$flags" "$libs -lgomp -lm -lpthread"
try "" "-ldnnl -lgomp -lm -lpthread"
try "-I/usr/local/include" "-L/usr/local/lib -ldnnl -lgomp -lm -lpthread"
try "" "-ldnnl -lm -lpthread"
if [ "$ONEDNN" = yes ]; then
	echo "ONEDNN=yes, but oneDNN 2 (OpenMP or sequential) is not found. Install libdnnl-dev (Debian, Ubuntu) or onednn-devel (Fedora), or set" >&2
	echo "ONEDNN_CFLAGS and ONEDNN_LIBS; ONEDNN=no builds without it." >&2
	exit 1
fi
echo "off oneDNN: off (neither dnnl.pc nor oneapi/dnnl/dnnl.h of version 2 with libdnnl found)" >"$out"
