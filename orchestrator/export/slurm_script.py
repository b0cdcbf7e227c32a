"""The lines of the batch script that are the same for every job: Bash 4, and what Slurm itself has."""

from __future__ import annotations

BODY = r"""
set -u
{setup}python={python}
words=(
    {words}
)
{tasks}run_name="{run_name}"
most_requeues={most_requeues}

# Slurm tells this shell alone that the time is nearly over (--signal=B:USR1@…); the run hears it from here.
# Whoever cancels the job has Slurm tell every process of it, and the run has heard it already.
driver= heard= over= cancelled= joined=
tell() {{ heard=1 over=1; if [ -n "$driver" ]; then kill -USR1 "$driver" 2>/dev/null; fi; }}
trap tell USR1
trap 'heard=1 cancelled=1' TERM

# Ray's processes and what keeps them do not hear the signals that ask the run to stop: the ranks need them
# until they have saved. They are ended below.
deaf() {{
    "$python" -c '
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
os.execv(sys.argv[1], sys.argv[1:])' "$@"
}}

# A Ray that the shell which submitted had in mind is another one.
unset RAY_ADDRESS

# All that this job's Ray has is its own: the record of the cluster, the token, ports that are free, a folder.
export XDG_STATE_HOME
XDG_STATE_HOME=$(mktemp -d "${{TMPDIR:-/tmp}}/orchestrator-$SLURM_JOB_ID.XXXXXX") || exit 3
trap 'rm -rf "$XDG_STATE_HOME"' EXIT
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$("$python" -c 'import secrets; print(secrets.token_hex(32))') || exit 3

{workers}
code=0
start_ray || code=$?
if [ "$code" -eq 0 ] && [ -n "$cancelled" ]; then
    code=143
elif [ "$code" -eq 0 ] && [ -n "$over" ]; then
    code=138 # the time was over before the run began
elif [ "$code" -eq 0 ]; then
    heard=
    "$python" -m orchestrator "run_name=$run_name" "${{words[@]}}" &
    driver=$!
    # A signal ends `wait`, with a status that says nothing of the run: it is waited for again.
    while :; do
        wait "$driver"
        status=$?
        [ "$status" -eq 127 ] || code=$status
        [ -n "$heard" ] || break
        heard=
    done
    driver=
fi
end_ray

if [ "$code" -eq 138 ]; then
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt "$most_requeues" ]; then
        echo "saved before the time limit; the job is requeued, and $run_name goes on"
        scontrol requeue "$SLURM_JOB_ID" && exit 0
    fi
    echo "saved before the time limit; not requeued (slurm.max_requeues=$most_requeues). To go on: sbatch" >&2
fi
exit "$code"
"""

ONE_NODE = r"""
start_ray() {{ deaf "$python" -m orchestrator up ray_address=local "${{words[@]}}"; }}
end_ray() {{
    "$python" -m orchestrator down --force >"$XDG_STATE_HOME/down.txt" 2>&1 || cat "$XDG_STATE_HOME/down.txt"
}}
"""

MANY_NODES = r"""
start_ray() {{
    local other address gcs others=$((SLURM_JOB_NUM_NODES - 1))
    # The address from which this node reaches another one of the job.
    other=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | grep -vxF "$SLURMD_NODENAME" | head -n 1)
    other=$(scontrol --oneliner show node "$other" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
    address=$("$python" -c 'import socket, sys
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.connect((sys.argv[1], 9))
print(probe.getsockname()[0])' "$other") || return 3
    deaf "$python" -m orchestrator up "launch.node_address=$address" "${{words[@]}}" || return
    gcs=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' \
        "$XDG_STATE_HOME/orchestrator/cluster.json") || return
    # A Ray on every other node, which ends by itself when the head's has ended.
    srun --nodes=$others --ntasks=$others --ntasks-per-node=1 --cpus-per-task={cpus} \
        --exclude="$SLURMD_NODENAME" --kill-on-bad-exit=0 --output="$XDG_STATE_HOME/nodes.txt" \
        "$python" -m orchestrator.cluster.warm.join "$gcs" --cpus={cpus} --gpus={gpus} &
    joined=$!
}}
end_ray() {{
    "$python" -m orchestrator down --force >"$XDG_STATE_HOME/down.txt" 2>&1 || cat "$XDG_STATE_HOME/down.txt"
    if [ -n "$joined" ]; then
        for _ in $(seq 30); do kill -0 "$joined" 2>/dev/null && sleep 1; done
        scancel --quiet --signal=KILL "$SLURM_JOB_ID.0" 2>/dev/null
        wait "$joined" || cat "$XDG_STATE_HOME/nodes.txt"
    fi
}}
"""
