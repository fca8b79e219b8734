#!/bin/sh
# Size of the stripped shared library (bar: under 1 MB, plug-ins not counted) and the shared libraries that it pulls in.
# Two names outside this list would mean that a new dependency came in unseen.
lib=$1 build=$2
known="libc.so.6 libm.so.6 libz.so.1 libjansson.so.4 libpcre2-8.so.0 libutf8proc.so.2 libutf8proc.so.3 libpthread.so.0 libdl.so.2 ld-linux-x86-64.so.2 ld-linux-aarch64.so.1"
rc=0
strip -o "$build/stripped.so" "$lib" || exit 1
bytes=$(wc -c <"$build/stripped.so")
echo "stripped liblora.so: $bytes bytes"
limit=1000000
readelf -d "$lib" | grep -q RELR || limit=1090000 # glibc before 2.36 reads only the long form of relative relocations
[ "$bytes" -lt "$limit" ] || { echo "over $limit bytes"; rc=1; }
needed=$(readelf -d "$lib" | sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p')
echo "pulls in:" $needed
for name in $needed; do
	case " $known " in *" $name "*) ;; *) echo "unexpected dependency: $name"; rc=1 ;; esac
done
for plugin in "${lib%/*}"/lora/*.so; do
	[ -f "$plugin" ] && echo "plug-in ${plugin##*/}: $(wc -c <"$plugin") bytes, pulls in:" $(readelf -d "$plugin" | sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p')
done
exit $rc
