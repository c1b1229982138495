# What the scripts of tests share, to be read by `. tests/check.sh` at the top of the project: counters, and a check.
# Two tests run side by side, and idle threads of one would take time from the other.
export FVGPT_THREADS="${FVGPT_THREADS:-1}"
passed=0
failed=0
check() {                                                # check "what" command...: the command succeeds
  what=$1
  shift
  if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED $what"; fi
}
