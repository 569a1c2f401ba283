"""The commands of the trainer: `canthus train`, `data`, `label` and `eval`. torch is imported only when one runs."""
