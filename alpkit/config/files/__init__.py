"""YAML files: reading them with positions, and naming every fault with its line and column."""
