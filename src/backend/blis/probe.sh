#!/bin/sh
# Find BLIS. Writes "cflags ..." and "libs ..." lines to the file $1, or one line "off ...". Environment: CC PKG_CONFIG BLIS BLIS_CFLAGS BLIS_LIBS.
set -u
out=$1
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
cat >"$dir/t.c" <<'END'
#include <blis.h>
#ifdef LORA_BLIS_STATIC
cntx_t *bli_gks_lookup_nat_cntx(arch_t id);
void *t(void) { return bli_gks_lookup_nat_cntx(BLIS_ARCH_HASWELL); }
#else
void *t(void) { bli_init(); return 0; }
#endif
int main(void) { return !t(); }
END

# Does it compile and link with -z defs? $1 cflags, $2 libs
try() {
	$CC -std=c11 -fPIC $1 -shared -o "$dir/t.so" "$dir/t.c" -Wl,--exclude-libs,ALL -Wl,-z,defs $2 >"$dir/log" 2>&1 || return 1
	printf 'cflags %s\nlibs %s\n' "$1" "$2" >"$out"
	exit 0
}

[ -n "$BLIS_LIBS" ] && try "$BLIS_CFLAGS" "$BLIS_LIBS"
machine=$($CC -print-multiarch 2>/dev/null)
for folder in "/usr/lib/$machine/blis-pthread" "/usr/lib/$machine/blis-openmp" "/usr/lib/$machine/blis-serial" /usr/local/lib /usr/lib64 /usr/lib; do
	[ -f "$folder/libblis.a" ] || continue
	for include in "/usr/include/$machine/$(basename "$folder")" /usr/local/include/blis /usr/include/blis /usr/include; do
		[ -f "$include/blis.h" ] || continue
		try "-DLORA_BLIS_STATIC -isystem $include" "$folder/libblis.a -lm -lpthread"
		try "-DLORA_BLIS_STATIC -isystem $include" "$folder/libblis.a -lm -lpthread -fopenmp"
	done
done
flags=$($PKG_CONFIG --cflags blis 2>/dev/null) && libs=$($PKG_CONFIG --libs blis 2>/dev/null) && try "$flags" "$libs"
for include in "/usr/include/$machine/blis-pthread" "/usr/include/$machine/blis-openmp" "/usr/include/$machine/blis-serial" "/usr/include/$machine" /usr/include/blis; do
	[ -f "$include/blis.h" ] && try "-isystem $include" "-lblis -lm -lpthread"
done
if [ "$BLIS" = yes ]; then
	echo "BLIS=yes, but BLIS is not found. Install libblis-dev (Debian, Ubuntu) or blis-devel (Fedora), or set PKG_CONFIG_PATH to the folder of" >&2
	echo "blis.pc, or set BLIS_CFLAGS and BLIS_LIBS; BLIS=no builds without it." >&2
	exit 1
fi
echo "off BLIS: off (neither blis.pc nor blis.h with libblis found)" >"$out"
