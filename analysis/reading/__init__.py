"""Read run folders and stores into frames, on top of alpkit.runs."""
