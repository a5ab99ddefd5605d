"""Helpers that tests of several rooms share: random models, planted grids, peers in processes of their own."""
