"""Check a model before its weights are read: that it is whole, has layers, and can be perturbed.

Builds the architecture on the meta device: no weights are read, and nothing is created. The launcher
asks before it creates the first run, so that a mistake costs no half-made grid.
"""

from functools import cache
from typing import cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alpkit.config import PerturbationConfig
from alpkit.config.tasks import PromptConfig
from alpkit.errors import ConfigError, PrerequisiteError
from alpkit.policy.files import check_files
from alpkit.policy.folders import BUILTINS, converted_folder, local_folder
from alpkit.policy.loading import (
    asks_for_its_own_code,
    check_prompt,
    load_tokenizer,
    own_code,
)
from alpkit.policy.perturbation import LayerwisePerturbation
from alpkit.policy.perturbation.sites import decoder_layers


@cache
def check_model(name: str, revision: str | None, perturbation: PerturbationConfig | None) -> None:
    """Refuse a model that cannot be trained, or not perturbed as asked; reads no weights.

    Raises `PrerequisiteError` for what is not installed or not to be found, `ConfigError` for a model
    without decoder layers and for layers or sites that it lacks.
    """
    model = model_without_weights(name, revision)
    if model is None:
        return
    if name not in BUILTINS and (folder := local_folder(name)) is not None:
        check_files(name, folder)
    if perturbation is None:
        return
    try:
        LayerwisePerturbation(model, perturbation).remove()
    except ConfigError as error:
        error.where = error.where or "perturbation"
        raise


@cache
def model_without_weights(name: str, revision: str | None) -> PreTrainedModel | None:
    """Build a model's architecture without weights (meta device); None for a built-in that was never loaded."""
    folder = converted_folder(name)
    if folder is None and name in BUILTINS:
        return None  # its config is still inside the package
    try:
        config = AutoConfig.from_pretrained(
            folder or name, revision=None if folder else revision, trust_remote_code=False
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if asks_for_its_own_code(error):
            raise own_code(name) from error
        lines = str(error).strip().splitlines()
        raise PrerequisiteError(
            f"model {name} has no config that transformers can build a causal language model from",
            where="model",
            why=lines[0] if lines else type(error).__name__,
            fix=f"check the id or the folder, or use {' or '.join(BUILTINS)}",
        ) from error
    decoder_layers(model)
    return cast(PreTrainedModel, model)


def check_prompt_of(name: str, revision: str | None, prompt: PromptConfig) -> None:
    """Refuse prompt settings that the model's tokenizer would not follow; reads the tokenizer only."""
    tokenizer = tokenizer_of(name, revision)
    if tokenizer is not None:
        check_prompt(tokenizer, prompt)


def tokenizer_of(name: str, revision: str | None) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer alone; None for a built-in that is not converted yet: it is still in its package."""
    folder = converted_folder(name)
    if folder is None and name in BUILTINS:
        return None
    try:
        return load_tokenizer(str(folder or name), None if folder else revision)
    except (OSError, ValueError, KeyError) as error:
        if asks_for_its_own_code(error):
            raise own_code(name) from error
        lines = str(error).strip().splitlines()
        raise PrerequisiteError(
            f"the tokenizer of model {name} cannot be loaded",
            where="model",
            why=lines[0] if lines else type(error).__name__,
            fix="give a folder or hub id that has a tokenizer",
        ) from error
