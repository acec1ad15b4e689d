"""Tasks of the pretraining stage."""

from whale.cli import Task
from whale.pretrain.config import ExportConfig, TrainDynamicsConfig, TrainTokenizerConfig
from whale.pretrain.estimate import plan_dynamics, plan_tokenizer
from whale.pretrain.train_dynamics import export, train_dynamics
from whale.pretrain.train_tokenizer import train_tokenizer

TASKS = {
    "tokenizer": Task(TrainTokenizerConfig, train_tokenizer, plan_tokenizer),
    "dynamics": Task(TrainDynamicsConfig, train_dynamics, plan_dynamics),
    "export": Task(ExportConfig, export),
}
