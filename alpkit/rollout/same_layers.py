"""Score again without the layers before the first that changed: their outputs are what they were.

Putting one tensor of layer l back changes nothing below l, so that half of the work of trying every tensor
in turn is work done before. Bit for bit the same scores; `usable` says whether a model is built so.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from alpkit.policy.perturbation.sites import decoder_layers


class SameLayers:
    """Outputs of every decoder layer in one scoring; `skipping(n)` gives them back for the first n layers."""

    def __init__(self, model: PreTrainedModel, scores: Callable[[], np.ndarray]) -> None:
        self._layers = list(decoder_layers(model))
        self._outputs: list[list[Any]] = [[] for _ in self._layers]
        with self._forwards(self._layers, self._keep):
            self.scores = scores()
        self._owner = {
            id(value): number
            for number, layer in enumerate(self._layers)
            for value in layer.parameters()
        }
        self.usable = self._says_the_same(scores)

    def before(self, parameters: Sequence[nn.Parameter], *, head_only: bool) -> int:
        """Count the layers that come before anything that these parameters change; 0 where that is unknown.

        The embedding comes before all layers and the final norm after them: what lies in no layer counts as first.
        """
        if not self.usable:
            return 0
        if head_only:
            return len(self._layers)
        return min((self._owner.get(id(value), 0) for value in parameters), default=0)

    @contextmanager
    def skipping(self, count: int) -> Iterator[None]:
        """Run the model with the outputs of the first `count` layers taken from the first scoring."""
        with self._forwards(self._layers[:count], self._give_back):
            yield

    def _says_the_same(self, scores: Callable[[], np.ndarray]) -> bool:
        # A layer that hands more to later ones than its output (a shared cache) would show here.
        for count in (len(self._layers), len(self._layers) // 2):
            with self.skipping(count):
                if not np.array_equal(scores(), self.scores, equal_nan=True):
                    return False
        return True

    def _keep(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def keep(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            self._outputs[number].append(output)
            return output

        return keep

    def _give_back(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        outputs = iter(self._outputs[number])
        return lambda *args, **kwargs: next(outputs)

    @contextmanager
    def _forwards(
        self,
        layers: Sequence[nn.Module],
        made: Callable[[int, Callable[..., Any]], Callable[..., Any]],
    ) -> Iterator[None]:
        """Let `made` replace the forward of each of these layers inside the block."""
        # An instance's own forward (another library's wrapper) is put back, a class's shows through again.
        wrapped = [layer.__dict__.get("forward") for layer in layers]
        try:
            for number, layer in enumerate(layers):
                layer.forward = made(number, layer.forward)
            yield
        finally:
            for layer, forward in zip(layers, wrapped, strict=True):
                layer.__dict__.pop("forward", None)
                if forward is not None:
                    layer.forward = forward
