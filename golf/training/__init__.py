"""The training loop, checkpoints, ledger and averages."""
