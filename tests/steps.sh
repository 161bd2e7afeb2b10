# shellcheck shell=bash
# Steps of a test run: each is timed, none hides another's failure, and a summary ends it.

STEPS=()  # "result seconds name"
STEPS_FAILED=0
# What tests that failed said first; one file for a script and those that it calls.
if [ -z "${STEPS_FAILURES:-}" ]; then
  export STEPS_FAILURES=$PWD/target/test/failures
  mkdir -p target/test && : >"$STEPS_FAILURES"
fi
export STEP_OK=yes

# Call it as a plain command: behind `if`, `&&` or `||` bash ignores `set -e` in all that it runs. STEP_OK tells the outcome.
step() { # NAME COMMAND...
  local name=$1 began=$SECONDS
  shift
  printf '\n=== %s\n' "$name"
  set +e
  (
    set -e
    "$@"
  )
  local status=$? result=ok
  set -e
  STEP_OK=yes
  if [ $status != 0 ]; then STEPS_FAILED=1 STEP_OK='' result=FAILED; fi
  STEPS+=("$result $((SECONDS - began)) $name")
  printf -- '--- %s: %s after %d s\n' "$name" $result $((SECONDS - began))
}

skip() { # NAME WHY: said loudly; where CI=true nothing may be skipped
  printf '\n*** NOT RUN: %s: %s\n' "$1" "$2"
  if [ "${CI:-}" = true ]; then
    STEPS_FAILED=1
    STEPS+=("FAILED 0 $1 (CI=true, and it could not run: $2)")
  else
    STEPS+=("NOT-RUN 0 $1 ($2)")
  fi
}

# Runs cargo's tests. What failed is said again behind the summary, where somebody who reads the end of a long log sees it.
cargo_tests() { # ARGUMENTS of cargo test
  local log
  log=$(mktemp)
  cargo test "$@" 2>&1 | tee "$log" && rm -f "$log" && return
  awk '/^---- .* ----$/ { left = 12 } left-- > 0 { print substr($0, 1, 500) }' "$log" >>"$STEPS_FAILURES"
  rm -f "$log"
  return 1
}

summary() { # TITLE
  local line result seconds name
  printf '\n===== %s: %d min %d s\n' "$1" $((SECONDS / 60)) $((SECONDS % 60))
  for line in "${STEPS[@]}"; do
    read -r result seconds name <<<"$line"
    printf '  %-8s %5d s  %s\n' "$result" "$seconds" "$name"
  done
  cat "$STEPS_FAILURES"
  return "$STEPS_FAILED"
}
