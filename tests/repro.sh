#!/bin/sh
# Build HEAD twice, in two folders with names of different length, and compare what comes out byte by byte.
MAKE=${MAKE:-make}
rm -rf build/repro
for folder in build/repro/a build/repro/a-second-folder; do
	mkdir -p "$folder"
	git archive HEAD | tar -x -C "$folder" || exit 1
	"$MAKE" --no-print-directory -C "$folder" -j"$(nproc)" all >"$folder.log" 2>&1 || { tail "$folder.log"; exit 1; }
done
rc=0
for file in lib/liblora.a lib/liblora.so.* lib/lora/*.so build/bin/lora; do
	for one in build/repro/a/$file; do
		[ -f "$one" ] && [ ! -L "$one" ] || continue
		two=build/repro/a-second-folder/${one#build/repro/a/}
		if cmp -s "$one" "$two"; then echo "same: ${one#build/repro/a/}"; else echo "DIFFERS: ${one#build/repro/a/}"; rc=1; fi
	done
done
exit $rc
