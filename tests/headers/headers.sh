#!/bin/sh
# Each public header must compile alone, and twice in one file, as pedantic C99 and C++11, with every warning an error.
CC=${CC:-cc} CXX=${CXX:-c++}
work=build/headers
mkdir -p "$work"
passed=0 failed=0 skipped=0
try() { # what file command...
	what=$1; shift
	if "$@" >"$work/log" 2>&1; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "headers: $what"; sed 's/^/    /' "$work/log"; fi
}
command -v "${CXX%% *}" >/dev/null 2>&1 || { CXX=; echo "SKIP C++11: no C++ compiler (package g++)"; skipped=1; }
for header in include/lora/*.h; do
	name=${header#include/}
	printf '#include "%s"\n#include "%s"\nint lora_header_test(void);\nint lora_header_test(void) { return 0; }\n' "$name" "$name" >"$work/one.c"
	cp "$work/one.c" "$work/one.cpp"
	try "$name as C99" $CC -std=c99 -pedantic-errors -Wall -Wextra -Werror -Wstrict-prototypes -Iinclude -fsyntax-only "$work/one.c"
	[ -z "$CXX" ] || try "$name as C++11" $CXX -std=c++11 -pedantic-errors -Wall -Wextra -Werror -Iinclude -fsyntax-only "$work/one.cpp"
	if grep -n '#include' "$header" | grep -v -e '"lora/' -e '<stddef.h>' -e '<stdint.h>'; then
		failed=$((failed + 1)); echo "headers: $name includes something else than stddef.h, stdint.h and its siblings"
	else
		passed=$((passed + 1))
	fi
done
if [ "$skipped" -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"; else echo "$passed passed, $failed failed"; fi
[ "$failed" -eq 0 ]
