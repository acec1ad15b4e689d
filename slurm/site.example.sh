# What a cluster is like: the only file that a site edits. Copy it to slurm/site.sh, which git ignores, and correct every
# line. chain.sh reads it where jobs are submitted, lib.sh where they run.
# shellcheck shell=bash disable=SC2034

# Options of sbatch for one node of each stage: who pays, where, how long, with how much of the node. Training runs one task
# per device, so --ntasks-per-node is the number of GPUs; do not add --gpus-per-task, which would hide the other GPUs from NCCL.
training=(--account=robots --partition=gpu --time=24:00:00 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=12 --mem=0)
one_gpu=(--account=robots --partition=gpu --time=04:00:00 --ntasks-per-node=1 --gpus-per-node=1 --cpus-per-task=12 --mem=100G)
cpu=(--account=robots --partition=cpu --time=04:00:00 --ntasks-per-node=1 --cpus-per-task=12 --mem=100G)
DATA_PREP=("${cpu[@]}")
PRETRAIN=("${training[@]}")
FINETUNE=("${one_gpu[@]}")
EVAL=("${cpu[@]}")

# A job that was signalled, has saved and is queued again counts as restarted; after this many it fails instead, so that a
# job whose time is too short for a single step does not go round for ever.
MAX_RESTARTS=30

# Makes `python -m whale` run: called on the login node by chain.sh, and in every job.
activate() {
    # shellcheck source=/dev/null
    . .venv/bin/activate
}

# The network between nodes, where NCCL and gloo choose the wrong one: `ip -br addr` on a compute node lists them.
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0

# A fast disk of each node, for what is compiled at run time: on a shared disk the nodes would wait for each other's locks.
scratch=/tmp/$(id -un)
export TORCH_EXTENSIONS_DIR=$scratch/torch_extensions TRITON_CACHE_DIR=$scratch/triton
