"""What several seeds say: scores, verdicts, and the displays of rliable."""
