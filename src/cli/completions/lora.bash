# bash completion for lora. Commands and options come from the program itself, so they are never out of date.
_lora() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd=${COMP_WORDS[1]} words
	COMPREPLY=()
	if (( COMP_CWORD == 1 )); then
		words=$("${COMP_WORDS[0]}" help 2>/dev/null | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p')
		COMPREPLY=($(compgen -W "$words" -- "$cur"))
		return
	fi
	case $prev in
	--backend)
		words=$("${COMP_WORDS[0]}" methods backend 2>/dev/null | sed -n 's/^  \([^ ]*\).*/\1/p')
		COMPREPLY=($(compgen -W "auto $words" -- "$cur"))
		return ;;
	--chat-template)
		words=$("${COMP_WORDS[0]}" methods chat_template 2>/dev/null | sed -n 's/^  \([^ ]*\).*/\1/p')
		COMPREPLY=($(compgen -W "$words" -- "$cur"))
		return ;;
	--type)
		words=$("${COMP_WORDS[0]}" methods combination 2>/dev/null | sed -n 's/^  \([^ ]*\).*/\1/p')
		COMPREPLY=($(compgen -W "$words" -- "$cur"))
		return ;;
	--by) COMPREPLY=($(compgen -W "shapley norm random" -- "$cur")); return ;;
	--dtype) COMPREPLY=($(compgen -W "auto f32 bf16" -- "$cur")); return ;;
	--dtype-out) COMPREPLY=($(compgen -W "keep f32 f16 bf16" -- "$cur")); return ;;
	-n|-p|-t|--keep|--points|--threads|--seed|--count|--prompt|--text|--tokens|--decode|--temperature|--top-k|--top-p|--stop|--system|--repetition-penalty|--adapter-rows|--mc-dropout) return ;;
	-s|--set)
		words=$("${COMP_WORDS[0]}" help train 2>/dev/null | grep -o '\b[a-z_]*_[a-z_]*\b' | sort -u | sed 's/$/=/')
		COMPREPLY=($(compgen -W "method= optimizer= r= seed= $words" -- "$cur"))
		compopt -o nospace 2>/dev/null
		return ;;
	esac
	if [[ $cur == -* ]]; then
		words=$("${COMP_WORDS[0]}" help "$cmd" 2>/dev/null | grep -oE '^ +(-[a-z], )?--[a-z-]+' | grep -oE -- '--[a-z-]+')
		COMPREPLY=($(compgen -W "$words" -- "$cur"))
	elif [[ $cmd == help ]]; then
		words=$("${COMP_WORDS[0]}" help 2>/dev/null | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p')
		COMPREPLY=($(compgen -W "$words" -- "$cur"))
	elif [[ $cmd == hub ]] && (( COMP_CWORD == 2 )); then
		COMPREPLY=($(compgen -W "add list search verify remove compose" -- "$cur"))
	elif [[ $cmd == methods ]] && (( COMP_CWORD == 2 )); then
		words=$("${COMP_WORDS[0]}" methods 2>/dev/null | sed -n 's/^\([a-z][a-z_]*\)$/\1/p')
		COMPREPLY=($(compgen -W "$words" -- "$cur"))
	elif [[ $cmd == methods ]] && (( COMP_CWORD == 3 )); then
		words=$("${COMP_WORDS[0]}" methods "$prev" 2>/dev/null | sed -n 's/^  \([^ ]*\).*/\1/p')
		COMPREPLY=($(compgen -W "$words" -- "$cur"))
	else
		COMPREPLY=($(compgen -f -- "$cur"))
		compopt -o filenames 2>/dev/null
	fi
}
complete -F _lora lora
