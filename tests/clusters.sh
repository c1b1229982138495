#!/bin/sh
# Shards under the engines that start them on many machines: Open MPI, a Slurm job array, GNU parallel.  Under each of
# them three shards do a list of two data sets, two trainers and two seeds; one is killed (-9) at work and started again;
# in the end every file must have the bytes of the run alone.  What is not installed is skipped with a word (Debian:
# openmpi-bin, slurm-wlm and munge, parallel; Slurm is started on this machine alone, for which it wants root).
# $1: the folder with the programs.
build=$1
fvgpt=$build/fvgpt
work=$build/clusters
. tests/check.sh
within() {                                               # within SECONDS command...: waits until it succeeds
  left=$(($1 * 10))
  shift
  until "$@"; do
    left=$((left - 1))
    [ $left -gt 0 ] || return 1
    sleep 0.1
  done
}
is_root() { [ "$(id -u)" -eq 0 ]; }

rm -rf "$work"
mkdir -p "$work"
for set in things textures; do "$build/world" "$work/world" --set $set --train 2 --test 1 >/dev/null || exit 1; done
list="tune --threads 1 --model examples/tiny-clip --data $work/world/things --data $work/world/textures --trainer FVGPT_CoOp,KgCoOp --shots 2 --epochs 40 --seeds 1,2 --augment none"
"$fvgpt" $list --out "$work/alone" >"$work/alone.txt" 2>/dev/null || { echo "FAILED the run alone"; exit 1; }
claim_of() { grep -l -s "^shard 2/3 " "$1"/*/*/seed*/claim.* | head -n 1; }
has_claim() { [ -n "$(claim_of "$1")" ]; }
kill_shard() {                                           # kill_shard OUT: kills shard 2 of 3 once it is at work
  within 60 has_claim "$1" && kill -9 "$(sed 's/.* process \([0-9]*\) .*/\1/' "$(claim_of "$1")")"
}
ends_alike() {                                           # ends_alike "what" OUT LOG...
  check "$1: every file has the bytes of the run alone" diff -r "$work/alone" "$2"
  what=$1
  shift 2
  check "$what: one of the shards printed the tables" sh -c "tail=\$(tail -n 3 '$work/alone.txt' | head -n 1); cat \"\$@\" | grep -q -F -e \"\$tail\"" _ "$@"
}

# ---- Open MPI: when a process is killed, mpirun ends the others, and the same command goes on ----
mpi() {
  as_root=$(is_root && echo --allow-run-as-root)
  mpirun $as_root --oversubscribe -n 3 "$fvgpt" $list --shard auto --out "$work/mpi" >>"$work/mpi.txt" 2>>"$work/mpi.err"
}
if command -v mpirun >/dev/null; then
  mpi &
  id=$!
  check "mpirun: a shard was killed" kill_shard "$work/mpi"
  wait $id
  check "mpirun: ended them all" [ $? -ne 0 ]
  check "mpirun: what is missing is known" sh -c "'$fvgpt' table '$work/mpi' 2>&1 | grep -q 'of 16 results are missing'"
  check "mpirun: again" mpi
  ends_alike mpirun "$work/mpi" "$work/mpi.txt"
else
  echo "skipped: no mpirun (openmpi-bin)"
fi

# ---- GNU parallel: starts a job that was killed again by itself ----
if command -v parallel >/dev/null; then
  parallel --will-cite --jobs 3 --retries 3 "$fvgpt" $list --shard '{}/3' --out "$work/parallel" ::: 1 2 3 >"$work/parallel.txt" 2>"$work/parallel.err" &
  id=$!
  check "parallel: a shard was killed" kill_shard "$work/parallel"
  check "parallel: ends well" wait $id
  ends_alike parallel "$work/parallel" "$work/parallel.txt"
else
  echo "skipped: no GNU parallel (parallel)"
fi

# ---- Slurm: a controller and a node of four processors on this machine ----
slurm=$PWD/$work/slurm
case $work in /*) slurm=$work/slurm ;; esac
begin_slurm() {
  mkdir -p "$slurm/state" "$slurm/spool"
  chmod 755 "$slurm"
  head -c 128 /dev/urandom >"$slurm/munge.key"
  chmod 600 "$slurm/munge.key"
  port=$((20000 + $$ % 20000))
  cat >"$slurm/slurm.conf" <<END
ClusterName=fvgpt
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$slurm/munge.socket
StateSaveLocation=$slurm/state
SlurmdSpoolDir=$slurm/spool
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmdPidFile=$slurm/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
END
  SLURM_CONF=$slurm/slurm.conf
  export SLURM_CONF
  munged --foreground --force --key-file="$slurm/munge.key" --socket="$slurm/munge.socket" --pid-file="$slurm/munged.pid" \
    --log-file="$slurm/munged.log" --seed-file="$slurm/munged.seed" >"$slurm/munged.out" 2>&1 &
  daemons=$!
  within 20 [ -S "$slurm/munge.socket" ] || return 1
  slurmctld -D >"$slurm/slurmctld.log" 2>&1 &
  daemons="$! $daemons"
  slurmd -D >"$slurm/slurmd.log" 2>&1 &
  daemons="$! $daemons"
  within 40 sh -c "sinfo -h -o %t 2>/dev/null | grep -q -E 'idle|mix'"
}
end_slurm() {
  kill $daemons 2>/dev/null
  wait $daemons 2>/dev/null
}
submit() {                                               # submit ARRAY
  sbatch --parsable --array="$1" --chdir="$PWD" --output="$slurm/job_%A_%a.txt" --error="$slurm/job_%A_%a.err" \
    --wrap "exec '$fvgpt' $list --shard auto --out '$work/slurm-out'" >>"$slurm/jobs" 2>&1
}
is_idle() { [ -z "$(squeue -h 2>&1)" ]; }
if ! command -v sbatch >/dev/null || ! command -v munged >/dev/null || ! command -v slurmctld >/dev/null; then
  echo "skipped: no Slurm (slurm-wlm munge)"
elif ! is_root; then
  echo "skipped: Slurm wants root"
elif begin_slurm; then
  check "slurm: an array of three" submit 0-2
  check "slurm: a shard was killed" kill_shard "$work/slurm-out"
  check "slurm: its job again" submit 1
  check "slurm: all end" within 60 is_idle
  ends_alike slurm "$work/slurm-out" "$slurm"/job_*.txt
  end_slurm
else
  check "slurm: starts: $(tail -n 3 "$slurm"/*.log)" false
  end_slurm
fi

[ $failed -eq 0 ] && rm -rf "$work"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
