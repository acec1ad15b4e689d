#!/usr/bin/env bash
# The whole pipeline on the built-in tabletop: `make demo` installs what it needs and runs this. Every line below is a
# command that also runs by hand (after `. .venv/bin/activate`). Each is shown with the seconds gone by; how long each took
# is written to runs/demo/budget.json. Stops at the first stage that fails, and fails if a figure of the report does not hold.
set -euo pipefail
cd "$(dirname "$0")"
# A waiting OpenMP thread spins briefly, then sleeps: never to spin costs 30 % of the training speed, always to spin stalls a
# machine that is busy with something else.
export PATH="$PWD/.venv/bin:$PATH" GOMP_SPINCOUNT=20000
rm -rf runs/demo
mkdir -p runs/demo

records=()
stage() {
    local start=$SECONDS status=0 IFS=' '
    printf '\n==> %d s: %s\n' "$SECONDS" "$*"
    "$@" || status=$?
    records+=("{\"command\": \"$*\", \"seconds\": $((SECONDS - start)), \"exit_code\": $status}")
    IFS=,
    printf '{"install_sec": %d, "stages": [%s]}\n' "$(cat .venv/install_sec)" "${records[*]}" > runs/demo/budget.json
    return "$status"
}

stage whale data_prep collect configs/data_prep/tabletop_collect.yaml
stage whale data_prep audit configs/data_prep/tabletop_audit.yaml
stage whale data_prep convert configs/data_prep/tabletop_convert.yaml
stage whale pretrain tokenizer configs/pretrain/tabletop_tokenizer.yaml
stage whale data_prep tokenize configs/data_prep/tabletop_tokenize.yaml
stage whale data_prep verify configs/data_prep/tabletop_verify.yaml
stage whale pretrain dynamics configs/pretrain/tabletop_dynamics.yaml
stage whale pretrain export configs/pretrain/tabletop_export_early.yaml
stage whale data_prep collect configs/data_prep/shifted_collect.yaml
stage whale data_prep convert configs/data_prep/shifted_convert.yaml
stage whale finetune world_model configs/finetune/shifted.yaml
stage whale finetune world_model configs/finetune/shifted.yaml configs/finetune/shifted_scratch.yaml
stage whale eval fidelity configs/eval/tabletop_fidelity.yaml
stage whale eval value configs/eval/tabletop_value.yaml
stage whale eval uncertainty configs/eval/tabletop_uncertainty.yaml
stage whale eval fidelity configs/eval/shifted_fidelity.yaml
stage whale eval fidelity configs/eval/shifted_fidelity.yaml name=scratch model=runs/demo/scratch/export
stage whale eval report configs/eval/tabletop_report.yaml
