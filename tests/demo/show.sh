# shellcheck shell=bash
# What the demos share: each step is said, shown and checked; the first that fails ends the demo with status 1.

title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { # COMMAND...: shown as typed, then run
  printf '$ %s\n' "$(shown "$@")"
  "$@"
}
shown() { # quoted only where a shell needs it
  local word out=
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=@%,+-]+$ ]]; then out+="$word "; else out+="'${word//\'/\'\\\'\'}' "; fi
  done
  printf '%s' "${out% }"
}
fail() {
  printf 'demo: FAILED: %s\n' "$*" >&2
  exit 1
}
expect() { # WHAT PART COMMAND...: runs it, shows it, and demands PART in its output
  local what=$1 part=$2 out
  shift 2
  printf '$ %s\n' "$(shown "$@")"
  out=$("$@") || fail "$what: $(shown "$@") ended with $?"
  printf '%s\n' "$out"
  [[ $out == *"$part"* ]] || fail "$what: '$part' is not in the output"
}
until_true() { # WHAT SECONDS COMMAND...
  local what=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || fail "$what did not happen in time"
    sleep 0.1
  done
}
