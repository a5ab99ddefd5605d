"""Statistics across seeds: scores, verdicts, and rliable's interquartile means."""
