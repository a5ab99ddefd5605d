"""From run folders and stores to frames, on top of alpkit.runs: there is no second reader."""
