"""whale: pretrain, adapt and judge video world models for robots."""

__version__ = "0.1.0"
