#!/usr/bin/env bash
# Sweeps by a real SLURM, all of it on this machine: munged, slurmctld and slurmd are started in a folder and ended.
#
#     apt-get install slurm-wlm munge
#     sudo scripts/check_slurm.sh python KEY=VALUE ...       # the Python that lrexp is installed for; words of the runs
#
# Three runs are submitted as one array. One gets SIGUSR1, as before its time is over; one is requeued by SLURM, as when
# its node is lost; one job is killed, and the same line submits its run again. The bytes are those of a serial sweep.
# What is given has to train for some minutes, so that the signals meet running runs. Exit code 1 if something is amiss.
set -euo pipefail
python=$1
shift
place=$(mktemp -d /tmp/lrexp-slurm-XXXXXX)
chmod 755 "$place"
host=$(hostname -s)
mkdir -p "$place"/{state,spool,munge}

finish() {
    for name in slurmd slurmctld munge/munged; do
        [ -f "$place/$name.pid" ] && kill "$(cat "$place/$name.pid")" || true
    done
}
trap finish EXIT

cat > "$place/slurm.conf" << CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$place/munge/socket
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
JobRequeue=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
head -c 128 /dev/urandom > "$place/munge/key"
chmod 400 "$place/munge/key"
chown -R munge "$place/munge"
setpriv --reuid=munge --regid=munge --clear-groups munged --key-file="$place/munge/key" --socket="$place/munge/socket" \
    --pid-file="$place/munge/munged.pid" --log-file="$place/munge/log" --seed-file="$place/munge/seed"
export SLURM_CONF="$place/slurm.conf"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
wait_for() { # SECONDS COMMAND...
    local last=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $last ] || { echo "it did not come: $*"; exit 1; }
        sleep 2
    done
}
idle() { sinfo -h -o %t | grep -q idle; }
wait_for 60 idle

words=("$@" seed=1,2,3 hardware=cpu hardware.threads=1)
sweep() { "$python" -m lrexp train -m "${words[@]}" "$@"; }
submit() { sweep --launcher slurm --slurm time=60 output_dir="$place/sweep"; }
states() { "$python" -m lrexp status "$place/sweep" --format csv | tail -n +2 | cut -d, -f2 | sort | uniq -c; }
under_way() { ls -d "$place"/sweep/*/checkpoints/step-* 2> /dev/null | cut -d/ -f5 | sort -u | [ "$(wc -l)" -ge "$1" ]; }
over() { ! states | grep -qE 'queued|running'; }

submit
submit # the same line while all is queued or running
[ "$(ls "$place"/sweep/.launch | wc -l)" = 1 ]
job=$(squeue -h -o %F | sort -u)
wait_for 600 under_way 1
sleep 5
running=($(squeue -h -r -t R -o %i))
echo "job $job: running ${running[*]}"
scancel --signal=USR1 "${running[0]}"
[ ${#running[@]} -lt 2 ] || scontrol requeue "${running[1]}"
sleep 5
squeue -r
states
wait_for 600 under_way 3
victim=$(pgrep -f "submitit.core._submit $(realpath "$place")" | tail -1)
kill -KILL "$victim"
echo "killed a job's process"
wait_for 3000 over
states
submit
wait_for 3000 over
states
[ "$(states | awk '{print $1, $2}')" = "3 finished" ]
sweep output_dir="$place/whole" > /dev/null
for file in "$place"/whole/*/{metrics.jsonl,adapter.safetensors,predictions.parquet}; do
    cmp "$file" "${file/whole/sweep}"
done
echo "the bytes are those of a serial sweep"
rm -rf "$place/whole" "$place/sweep"
