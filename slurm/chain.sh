#!/usr/bin/env bash
# Submits a pipeline: each stage waits until the one before it has succeeded, and is cancelled when that one fails.
#   slurm/chain.sh [--dry-run] slurm/tabletop.chain
# A chain is a file of lines `stage [option of sbatch ...] <stage> <task> <config.yaml> ... [key.path=value ...]`. All of its
# configurations are loaded before anything is submitted. With --dry-run, sbatch's command lines are shown and not run.
set -eo pipefail
cd "$(dirname "$0")/.."
. slurm/lib.sh

dry_run='' jobs=() previous=''
if [[ $1 == --dry-run ]]; then
    dry_run=1
    shift
fi
[[ $# == 1 ]] || fail "chain.sh takes one argument, the file that describes the chain" "slurm/chain.sh slurm/tabletop.chain"
[[ -f $1 ]] || fail "there is no chain $1" "name a file of \`stage\` lines, such as slurm/tabletop.chain"
chain=$(realpath "$1")

# Split a line of the chain into `options` of sbatch and `words` of whale.
read_line() {
    options=()
    while [[ $1 == --* ]]; do
        options+=("$1")
        shift
    done
    words=("$@")
}

check() {
    read_line "$@"
    python -m whale "${words[@]}" --print-config > /dev/null || fail "nothing was submitted" "correct \`stage $*\` in $chain"
}

# What was submitted before sbatch refused a stage would run for nothing.
take_back() {
    [[ ${#jobs[@]} == 0 ]] || scancel "${jobs[@]}"
    fail "sbatch refused this stage, so the chain was taken back" "see its message above; slurm/site.sh has the options"
}

submit() {
    local name command
    read_line "$@"
    name=${words[0]}
    declare -n of_site=${name^^}
    command=(sbatch --parsable "${of_site[@]}" "${options[@]}" "--job-name=$name-${words[1]}" --output=runs/slurm/%x-%j.log)
    [[ -z $previous ]] || command+=("--dependency=afterok:$previous" --kill-on-invalid-dep=yes)
    command+=("slurm/$name.sbatch" "${words[@]:1}")
    printf '%q ' "${command[@]}"
    echo
    if [[ $dry_run ]]; then
        previous=JOB$((${previous#JOB} + 1))
        return
    fi
    mkdir -p runs/slurm
    previous=$("${command[@]}") || take_back
    previous=${previous%%;*} # a federation adds its cluster's name
    jobs+=("$previous")
    echo "    is job $previous"
}

stage() { "$each" "$@"; }

activate
for each in check submit; do
    # shellcheck source=/dev/null
    . "$chain"
done
[[ $dry_run ]] || echo "queued: squeue --jobs=$(IFS=,; echo "${jobs[*]}"), logs in runs/slurm"
