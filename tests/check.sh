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
# $fvgpt ends with 1 and says at the end what it should; only the cache's own last line may follow.  Its output goes to the
# folder $work.  Some scripts have a function of their own in the place of this one.
refused() {                                              # refused "what" "text in the message" arguments of fvgpt...
  what=$1
  text=$2
  shift 2
  "$fvgpt" "$@" >"$work/stdout" 2>"$work/stderr"
  status=$?
  check "$what: exit $status, $(tail -n 1 "$work/stderr")" sh -c "[ $status -eq 1 ] && grep '^fvgpt: ' '$work/stderr' | grep -v ' features reused from ' | tail -n 1 | grep -q -F -e \"\$1\"" _ "$text"
}
