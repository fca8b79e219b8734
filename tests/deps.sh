#!/bin/sh
# What liblora needs from the system, and how to get it.
#
#   deps.sh probe GROUP...     say what is missing and the command that brings it; exit 1 when something is
#   deps.sh install GROUP...   bring it, as root or with sudo that asks no password; else as probe
#   deps.sh tool PROGRAM       the same as probe for one program that an optional target uses
#
# Groups: core (build), check (tests). A line of the table is: group, wanted (need, like), what for, Debian package,
# probe. A probe is "h HEADER LIBRARY" (compile and link) or "p PROGRAM".
set -u
CC=${CC:-cc}
command -v "${CC%% *}" >/dev/null 2>&1 || CC=gcc

table() {
	cat <<-'END'
	core need C-library-headers libc6-dev h stdio.h -lc
	core need zlib zlib1g-dev h zlib.h -lz
	core need jansson libjansson-dev h jansson.h -ljansson
	core need PCRE2 libpcre2-dev h pcre2.h -lpcre2-8
	core need utf8proc libutf8proc-dev h utf8proc.h -lutf8proc
	core need SQLite-(the-lora-program) libsqlite3-dev h sqlite3.h -lsqlite3
	core like BLIS-(fast-backend) libblis-dev b - -
	core like oneDNN-(fast-backend,-bf16) libdnnl-dev h oneapi/dnnl/dnnl.h -ldnnl
	check like oneDNN-(bf16-backend) libdnnl-dev h oneapi/dnnl/dnnl.h -
	check need Check check h check.h -
	check need pkg-config pkg-config p pkg-config -
	check need C++-compiler g++ p c++ -
	check need Python-3 python3 p python3 -
	check like libabigail-(ABI-dump) abigail-tools p abidw -
	END
}

probe() { # kind what library
	case $1 in
	p) command -v "$2" >/dev/null 2>&1 ;;
	h)
		lib=$3; [ "$lib" = - ] && lib=
		printf '#define PCRE2_CODE_UNIT_WIDTH 8\n#include <stddef.h>\n#include <stdio.h>\n#include <%s>\nint main(void) { return 0; }\n' "$2" |
			$CC ${CPPFLAGS:-} -x c - -o /dev/null ${LDFLAGS:-} $lib >/dev/null 2>&1 ;;
	b)
		for dir in "" /blis /blis-pthread /blis-openmp /blis-serial; do
			for root in /usr/include /usr/local/include /usr/include/*-linux-gnu*; do
				[ -f "$root$dir/blis.h" ] && return 0
			done
		done
		return 1 ;;
	esac
}

missing() { # groups -> lines "want name package"
	table | while read -r group want name package kind what lib; do
		for g in "$@"; do
			[ "$g" = "$group" ] || continue
			probe "$kind" "$what" "$lib" || echo "$want $name $package"
		done
	done
}

say() { # lines of missing()
	echo "$1" | while read -r want name package; do
		[ -n "$name" ] || continue
		name=$(echo "$name" | tr - ' ')
		if [ "$want" = need ]; then echo "missing: $name (package $package)"; else echo "optional, not there: $name (package $package)"; fi
	done
}

packages() { echo "$1" | awk -v want="$2" '$3 != "" && (want == "" || $1 == want) { print $3 }' | sort -u | tr '\n' ' '; }

mode=${1:-}; [ $# -gt 0 ] && shift
case $mode in
tool)
	command -v "$1" >/dev/null 2>&1 && exit 0
	echo "this target needs $1: apt-get install $1" >&2
	exit 1 ;;
probe)
	list=$(missing "$@")
	[ -n "$list" ] && say "$list" >&2
	need=$(packages "$list" need)
	[ -z "$need" ] && exit 0
	echo "get it with:  sudo apt-get install $need" >&2
	exit 1 ;;
install)
	list=$(missing "$@")
	[ -z "$list" ] && exit 0
	say "$list"
	need=$(packages "$list" need); all=$(packages "$list" "")
	as=
	if [ "$(id -u)" != 0 ]; then
		if sudo -n true 2>/dev/null; then as="sudo -n"; else as=no; fi
	fi
	if [ "$as" = no ] || ! command -v apt-get >/dev/null 2>&1; then
		[ -z "$need" ] && exit 0
		echo "get it with:  sudo apt-get install $all" >&2
		[ "$as" = no ] && echo "(this user may not install packages, so it was not tried)" >&2
		exit 1
	fi
	get() { $as env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "$@"; }
	mkdir -p build
	log=build/apt.log
	echo "installing: $all(log in $log)"
	# shellcheck disable=SC2086
	get $all >"$log" 2>&1 || { $as apt-get -q update >>"$log" 2>&1; get $all >>"$log" 2>&1; } ||
		[ -z "$need" ] || get $need >>"$log" 2>&1 || { tail -5 "$log" >&2; echo "could not install $need" >&2; exit 1; }
	left=$(packages "$(missing "$@")" need)
	[ -z "$left" ] && exit 0
	echo "still missing after apt-get: $left" >&2
	exit 1 ;;
*)
	sed -n '2,9p' "$0" >&2
	exit 2 ;;
esac
