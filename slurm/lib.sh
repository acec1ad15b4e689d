# What the sbatch scripts share: meet, run, pass signals on, queue again. They run in the folder that they were submitted
# from, which has to be the root of the repository.
# shellcheck shell=bash
set -eo pipefail # no -u: modules and conda, which `activate` may call, do not survive it

# fail PROBLEM REMEDY: exit 2, as `whale` does for what a user can put right.
fail() {
    printf 'slurm: %s\n  remedy: %s\n' "$1" "$2" >&2
    exit 2
}

[[ -f slurm/site.sh ]] || fail "slurm/site.sh is missing" "cp slurm/site.example.sh slurm/site.sh, and edit it"
# shellcheck source=slurm/site.example.sh
. slurm/site.sh

# Where the ranks meet: an address of the first node as SLURM knows it, because a node's name need not be one in the DNS, and
# a port that follows from the job, so that two jobs on a node differ, past those that something else listens on.
rendezvous() {
    local first node
    read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    node=$(scontrol show node --oneliner "$first")
    [[ $node =~ NodeAddr=([^ ]+) ]]
    MASTER_ADDR=${BASH_REMATCH[1]} MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
    while (: < "/dev/tcp/$MASTER_ADDR/$MASTER_PORT") 2> /dev/null; do MASTER_PORT=$((MASTER_PORT + 1)); done
    export MASTER_ADDR MASTER_PORT
}

# What each task does: tell the program its rank as torchrun would, and become the program, so that signals reach it.
# shellcheck disable=SC2016
as_rank='export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS; exec "$@"'

# USR1 is sent ahead of the time limit, TERM on preemption, to this script alone or to all. srun would take TERM as an order
# to kill the step, so both are passed on as USR1.
step='' signalled=''
pass_on() {
    signalled=1 interrupted=1
    [[ -z $step ]] || kill -USR1 "$step" 2> /dev/null || true
}

# Queue this job again; of an array only this task, which may carry the number of the whole array as its SLURM_JOB_ID. Not a
# job that was cancelled, ran out of time or is queued again already: `scontrol requeue` would bring it back to life.
requeue() {
    local job=$SLURM_JOB_ID restarts=${SLURM_RESTART_COUNT:-0} state
    [[ -z $SLURM_ARRAY_TASK_ID ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    state=$(squeue --noheader --jobs="$job" --format=%T)
    if [[ $state != RUNNING ]]; then
        echo "slurm: job $job is ${state:-gone}, so it is not queued again" >&2
    elif ((restarts >= MAX_RESTARTS)); then
        echo "slurm: job $job was restarted $restarts times, which is the limit (MAX_RESTARTS in slurm/site.sh)" >&2
    else
        echo "slurm: job $job is queued again, restart $((restarts + 1)) of at most $MAX_RESTARTS"
        scontrol requeue "$job"
    fi
}

# run STAGE TASK WORD...: `whale STAGE TASK WORD...` in every task of the job; does not return.
#
# Exit code 75 says: saved after a signal, the same command goes on. A program that keeps nothing to save is ended by the
# signal itself, and the same command goes on too (data_prep) or starts again.
# A rank that fails is named by the others, which then stop; --wait ends them where they cannot. --kill-on-bad-exit would end
# ranks that are about to leave with 75 as soon as the first one has, and make the exit code of the step 143.
run() {
    local interrupted status
    trap pass_on USR1 TERM
    activate
    rendezvous
    export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
    echo "slurm: job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, restart ${SLURM_RESTART_COUNT:-0}: whale $*"
    srun --cpus-per-task="$OMP_NUM_THREADS" --kill-on-bad-exit=0 --wait=120 \
        bash -c "$as_rank" rank python -m whale "$@" &
    step=$!
    while # a signal ends `wait`, but not the step
        interrupted='' status=0
        wait "$step" || status=$?
        [[ $interrupted ]]
    do :; done
    if [[ $status == 75 || ($signalled && ($status == 138 || $status == 143)) ]]; then requeue; fi
    exit "$status"
}
