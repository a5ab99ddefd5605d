"""From an ablation file to the cells of its grid."""
