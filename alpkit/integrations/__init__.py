"""alpkit's objectives inside trainers that people already use: `trl`, `verl`. Thin; neither is required."""
