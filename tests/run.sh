#!/bin/sh
# Run Check programs and gates, print one line for each, and at the end "N passed, N failed[, N skipped]".
#
#   run.sh [-j JOBS] -o DIR ITEM...     ITEM is a program, or NAME=COMMAND for a gate
#
# Counts come from Check's own summary ("Checks: A, Failures: B, Errors: C"), or from a line "A passed, B failed[, C skipped]", else
# from the exit status. A line that starts with "SKIP" counts as skipped and is shown. Gates run one after the other, after the programs.
# RUN_UNDER is put in front of each program (valgrind). Exit status 1 when anything failed.
jobs=1 out=build/results
if [ "${1:-}" = --one ]; then
	out=$2 item=$3
	case $item in
	*=*) name=${item%%=*} command=${item#*=} ;;
	*) name=${item##*/} command="${RUN_UNDER:-} $item" ;;
	esac
	start=$(date +%s)
	sh -c "$command" >"$out/$name.log" 2>&1 </dev/null
	rc=$?
	awk -v rc=$rc -v name="$name" -v secs=$(($(date +%s) - start)) '
		/Checks: [0-9]+, Failures: [0-9]+, Errors: [0-9]+/ {
			match($0, /Checks: [0-9]+/); c = substr($0, RSTART + 8, RLENGTH - 8)
			match($0, /Failures: [0-9]+/); f = substr($0, RSTART + 10, RLENGTH - 10)
			match($0, /Errors: [0-9]+/); e = substr($0, RSTART + 8, RLENGTH - 8)
			passed += c - f - e; failed += f + e; counted = checks = 1; next
		}
		/^[0-9]+ passed, [0-9]+ failed/ { passed += $1; failed += $3; if ($6 ~ /^skipped/) skipped += $5; counted = 1; next }
		/^SKIP/ { lines++ }
		END {
			if (!counted) { if (rc == 0 && !lines) passed = 1 }
			if (rc != 0 && !failed) failed = 1
			if (checks) passed -= lines > passed ? passed : lines # a skipped test of Check counts as passed there
			if (lines > skipped) skipped = lines
			printf "%d %d %d %d %s\n", passed, failed, skipped, secs, name
		}' "$out/$name.log" >"$out/$name.result"
	read -r passed failed skipped secs name <"$out/$name.result"
	line=$(printf '%-22s %5d passed' "$name" "$passed")
	[ "$failed" -gt 0 ] && line="$line, $failed FAILED"
	[ "$skipped" -gt 0 ] && line="$line, $skipped skipped"
	[ "$secs" -gt 1 ] && line="$line  (${secs}s)"
	echo "$line"
	grep '^SKIP' "$out/$name.log" | sort -u | head -8 | sed 's/^/    /'
	if [ "$failed" -gt 0 ]; then grep -v '^SKIP' "$out/$name.log" | tail -60 | sed 's/^/    /'; fi
	exit 0
fi
while getopts j:o: opt; do
	case $opt in
	j) jobs=$OPTARG ;;
	o) out=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
mkdir -p "$out" && rm -f "$out"/*.result "$out"/*.log
for item in "$@"; do
	case $item in *=*) ;; *) printf '%s\0' "$item" ;; esac
done | xargs -0 -r -n 1 -P "$jobs" sh "$0" --one "$out"
for item in "$@"; do
	case $item in *=*) sh "$0" --one "$out" "$item" ;; esac
done
cat "$out"/*.result 2>/dev/null | awk -v want=$# '
	{ passed += $1; failed += $2; skipped += $3; n++; if ($2) bad = bad " " $5 }
	END {
		if (n < want) { failed += want - n; bad = bad " (" want - n " without result)" }
		if (bad != "") print "failed in:" bad
		printf "%d passed, %d failed%s\n", passed, failed, skipped ? ", " skipped " skipped" : ""
		exit failed > 0
	}'
