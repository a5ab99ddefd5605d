"""The base of every config section: frozen, closed, documented by its attribute docstrings."""

import types
from typing import Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A config section: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    refused: ClassVar[dict[str, str]] = {}
    """Keys that people would look for here and that must not exist, with the reason."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: object) -> object:
        for key in data if isinstance(data, dict) else ():
            if key in cls.refused:
                raise ValueError(f"{key} {cls.refused[key]}")
        return data

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, data: object) -> object:
        # pydantic would read `steps: true` as 1.
        for key, value in data.items() if isinstance(data, dict) else ():
            info = cls.model_fields.get(key) if isinstance(value, bool) else None
            if info is not None and _is_number(info.annotation):
                raise ValueError(f"{key}: wanted a number, got {str(value).lower()}")
        return data


def _is_number(annotation: Any) -> bool:
    """Whether the annotation is int or float, optional or not."""
    union = get_origin(annotation) in (Union, types.UnionType)
    branches = get_args(annotation) if union else (annotation,)
    kinds = {getattr(branch, "__origin__", branch) for branch in branches}
    return bool(kinds & {int, float}) and bool not in kinds
