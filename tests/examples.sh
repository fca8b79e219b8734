#!/bin/sh
# Build and run every example: examples.sh LIBDIR WORKDIR
# Short runs; what each must show is checked: the merge cycle proves equal bytes, the host engine learns, C, Python and Rust write the
# same adapter, byte for byte.
lib=$1 work=$2
CC=${CC:-cc} CXX=${CXX:-c++} PYTHON=${PYTHON:-python3} RUSTC=${RUSTC:-rustc}
here=$(pwd)
mkdir -p "$work"
rm -rf "$work"/*-adapter
passed=0 failed=0 skipped=0
LD_LIBRARY_PATH=$here/$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
LORA_LIBRARY=$here/$lib/liblora.so LORA_PLUGIN_DIR=$here/$lib/lora
export LD_LIBRARY_PATH LORA_LIBRARY LORA_PLUGIN_DIR

try() { # name command...
	name=$1; shift
	if "$@" >"$work/$name.log" 2>&1; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1)); echo "example $name: failed:"; tail -15 "$work/$name.log" | sed 's/^/    /'
		return 1
	fi
}
skip() { skipped=$((skipped + 1)); echo "SKIP $1"; }
says() { # name text: the last run's log must have this text
	if grep -q -e "$2" "$work/$1.log"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "example $1: does not say '$2'"; fi
}

for name in quickstart merge_cycle host_engine; do
	try "build-$name" $CC -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Wshadow -Werror -Iinclude examples/$name.c -o "$work/$name" -L"$lib" -llora -lm
done
try quickstart "$work/quickstart" 4 "$work/c-adapter" && says quickstart "saved"
try merge_cycle "$work/merge_cycle" examples/demo/model 6 && says merge_cycle "every weight byte is as at the start"
try host_engine "$work/host_engine" 300 && says host_engine "byte for byte as before"

if command -v "${CXX%% *}" >/dev/null 2>&1; then
	try build-embed $CXX -std=c++11 -O2 -Wall -Wextra -Werror -Iinclude examples/embed.cpp -o "$work/embed" -L"$lib" -llora &&
		try embed "$work/embed" && says embed "an error looks like this: LORA_E_"
else
	skip "embed.cpp: no C++ compiler (package g++)"
fi

same() { # language
	for file in adapter_model.safetensors adapter_config.json; do
		if cmp -s "$work/c-adapter/$file" "$work/$1-adapter/$file"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "example quickstart.$1: $file differs from what C wrote"; fi
	done
}
if ! command -v "$PYTHON" >/dev/null 2>&1; then
	skip "quickstart.py: no $PYTHON (package python3)"
elif readelf -d "$LORA_LIBRARY" | grep -q 'NEEDED.*san'; then
	skip "quickstart.py: a sanitizer library cannot be loaded into Python"
else
	try quickstart.py "$PYTHON" examples/quickstart.py 4 "$work/py-adapter" && same py
fi
if command -v "$RUSTC" >/dev/null 2>&1; then
	try build-quickstart.rs "$RUSTC" -O -D warnings -L "$lib" examples/quickstart.rs -o "$work/quickstart-rs" &&
		try quickstart.rs "$work/quickstart-rs" 4 "$work/rs-adapter" && same rs
else
	skip "quickstart.rs: no rustc here (package rustc)"
fi
if [ "$skipped" -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"; else echo "$passed passed, $failed failed"; fi
[ "$failed" -eq 0 ]
