# What the scripts of tests share, to be read by `. tests/check.sh` at the top of the project: counters, and a check.
passed=0
failed=0
check() {                                                # check "what" command...: the command succeeds
  what=$1
  shift
  if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED $what"; fi
}
