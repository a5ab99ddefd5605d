"""alpkit: ablate off-policy corrections for RL on language models through one trainer core.

Importing the package imports nothing heavy; torch, transformers and mlflow load where they are used.
"""

__version__ = "0.1.0"
