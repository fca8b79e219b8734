#!/bin/sh
# The main job from end to end, as `make demo` runs it: demo.sh LIBDIR BINDIR OUTDIR
# LORA_DEMO_STEPS sets the number of training steps.
lib=$1 lora=$2/lora out=$3
steps=${LORA_DEMO_STEPS:-150}
CC=${CC:-cc}
model=examples/demo/model text=examples/demo/pirate.txt adapter=$out/pirate
prompt=${LORA_DEMO_PROMPT:-One morning}
export LD_LIBRARY_PATH="$(pwd)/$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
if [ -t 1 ]; then bold=$(printf '\033[1m') dim=$(printf '\033[2m') plain=$(printf '\033[0m'); else bold='' dim='' plain=''; fi
start=$(date +%s)

title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
run() { # show a command, then run it
	printf '%s$ %s%s\n' "$dim" "$(printf '%s' "$*" | sed "s|$lora|lora|")" "$plain"
	"$@" || { echo "demo: that failed" >&2; exit 1; }
}
story() { # the prompt in bold, then what the model makes of it
	set -- generate -m "$model" "$@" -p "$prompt" -n 70 --threads 0 --quiet
	printf '%s$ lora %s%s\n\n%s%s%s' "$dim" "$*" "$plain" "$bold" "$prompt" "$plain"
	"$lora" "$@" || { echo "demo: that failed" >&2; exit 1; }
}

rm -rf "$out"; mkdir -p "$out"
title "1. The model: a small Llama that was trained on everyday stories, shipped with the sources"
run "$lora" info "$model" | head -12
title "2. What it writes now"
story
title "3. Train an adapter on a pirate's log book ($(wc -c <"$text") bytes of text); the weights of the model stay as they are"
run "$lora" train -m "$model" -d "$text" -o "$adapter" --threads 0 --seed 1 -s r=8 -s lora_alpha=16 -s target_modules=all-linear \
	-s learning_rate=0.005 -s lr_scheduler_type=cosine -s warmup_steps=10 -s max_steps="$steps" -s batch_size=8 -s sequence_length=64
title "4. What it writes with the adapter"
story -a "$adapter"
title "5. Merge into the weights, take out again, compare every byte (examples/merge_cycle.c)"
$CC -std=c11 -O2 -Iinclude examples/merge_cycle.c -o "$out/merge_cycle" -L"$lib" -llora || exit 1
run "$out/merge_cycle" "$model" 10 "$adapter"
title "6. The adapter is a PEFT directory: Python's peft loads it, and so does any program that links liblora"
run ls -l "$adapter"
title "7. How the loss fell"
run "$lora" plot "$adapter" -o "$out/loss.svg"
run "$lora" plot "$adapter"
title "Done in $(($(date +%s) - start)) seconds"
cat <<END
The adapter is in $adapter, the curve in $out/loss.svg.
Next:  make check                          every test
       examples/quickstart.c               the same training in C, about fifty lines
       $lora help                 the other commands
END
