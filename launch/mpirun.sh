#!/usr/bin/env bash
# Starts a job under mpirun: one scheduler, S servers, W workers.
#
#   launch/mpirun.sh JOB --servers S --workers W [--set path=value]... [--run_dir DIR] [other flags of plexus-scheduler]
#
# MPIRUN_ARGS holds more arguments for mpirun itself, such as "--hostfile hosts".  Works as root in a
# container, and with more processes than cores.  PLEXUS_BIN: the folder of the programs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${PLEXUS_BIN:-$here/../build/release/bin}
usage() { sed -n '2,7p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//' >&2; exit 2; }

[ $# -ge 1 ] || usage
case $1 in -*) usage ;; esac
job=$1; shift
servers=1 workers=1 rest=()
while [ $# -gt 0 ]; do
  case $1 in
    --servers|--workers)
      [ $# -ge 2 ] || usage
      declare "${1#--}=$2"; shift 2 ;;
    --servers=*|--workers=*)
      flag=${1%%=*}; declare "${flag#--}=${1#*=}"; shift ;;
    *) rest+=("$1"); shift ;;
  esac
done
case $servers$workers in *[!0-9]*) usage ;; esac
[ -x "$bin/plexus-scheduler" ] || { echo "no programs in $bin: run ./dev build, or set PLEXUS_BIN" >&2; exit 2; }

root=()
[ "$(id -u)" -ne 0 ] || root=(--allow-run-as-root)
# shellcheck disable=SC2086  # MPIRUN_ARGS is a list of words.
exec mpirun "${root[@]}" --oversubscribe --bind-to none --mca btl_vader_single_copy_mechanism none \
  --mca mpi_yield_when_idle 1 ${MPIRUN_ARGS:-} \
  -n 1 "$bin/plexus-scheduler" --job="$job" "${rest[@]}" \
  : -n "$servers" "$bin/plexus-ps" : -n "$workers" "$bin/plexus-worker"
