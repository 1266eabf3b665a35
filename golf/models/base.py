"""The interface every model family implements, and what all families share: tied head, loss, streaming loop and roles.

Shapes: ``B`` batch, ``T`` tokens, ``D`` width, ``V`` vocabulary, ``t`` tokens of one streaming call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from golf.base.errors import GolfError
from golf.models.layers import DEFAULT_ROWS, Matrix, Role, softcapped_cross_entropy, softcapped_logits

__all__ = ["LanguageModel"]

_GPU_LOGITS = 1 << 26  # float32 logits at a time on GPUs, 268 MB: pieces of a graph cost compilation and launches there


class LanguageModel(nn.Module, ABC):
    """A causal language model with tied embeddings and softcapped logits.

    A family sets ``token_embedding`` (V,D), makes its matrices as ``golf.models.layers.Matrix`` with their roles, names
    its lookup tables in ``tables``, as any module may, and implements the abstract methods. Parameters are float32
    masters; lower precision comes from autocast around the call.
    """

    tables: tuple[str, ...] = ("token_embedding",)  # parameters, or lists of them, that are lookup tables
    token_embedding: nn.Parameter
    loss_rows: int = DEFAULT_ROWS  # tokens turned into logits at a time by `loss`
    whole_graph: bool = True  # `loss` can be traced as one graph; else only the parts given to `layer_function` can

    def __init__(self, *, softcap: float, max_depth: int = 1) -> None:
        super().__init__()
        self.softcap = softcap
        self.max_depth = max_depth
        self._depth = max_depth
        self._compile_options: dict[str, Any] | None = None
        self._compiled: dict[str, Callable[..., Any]] = {}

    def kernel(self, device: torch.device) -> tuple[bool, str]:
        """Whether the foreign kernel that this family needs to be fast in bf16 on the GPU ``device`` is there and
        right, and its name or what is wrong; ``(True, "")`` where it needs none."""
        return True, ""

    @abstractmethod
    def hidden(self, ids: Tensor) -> Tensor:
        """All blocks and the final norm at the current depth: ``ids`` (B,T) int64 -> (B,T,D)."""

    @abstractmethod
    def new_state(self, batch: int, window: int, chunk: int = 256) -> Any:
        """An empty streaming state for ``batch`` texts at the current depth.

        Tokens attend to the last ``window`` keys; ``step`` works in passes of ``chunk`` tokens at most. Make it under
        the same autocast setting as ``step``.
        """

    @abstractmethod
    def _step(self, ids: Tensor, state: Any) -> Tensor:
        """One streaming pass of at most ``state.chunk`` tokens."""

    @property
    def depth(self) -> int:
        """Repeats of the blocks in use, 1..max_depth; always 1 for a flat model."""
        return self._depth

    def set_depth(self, repeats: int) -> None:
        """Use ``repeats`` repeats from now on. Raises ``GolfError`` outside 1..max_depth."""
        if not 1 <= repeats <= self.max_depth:
            raise GolfError(f"depth: found {repeats}, expected 1 to {self.max_depth} (the model's `repeats`)")
        self._depth = repeats

    def compile_layers(self, **options: Any) -> None:
        """From now on run each effective layer and the loss head through ``torch.compile`` (lazily, on first use).

        One graph per kind of layer instead of one per depth with every layer unrolled: compilation takes a fraction
        of the time, and a switch of depth compiles nothing new. ``options`` go to ``torch.compile``.
        """
        self._compile_options = {"fullgraph": True, "dynamic": False} | options
        self._compiled.clear()

    def layer_function(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """``function``, or its compiled form after ``compile_layers``; only while gradients are recorded."""
        if self._compile_options is None or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return function
        if function.__name__ not in self._compiled:
            self._compiled[function.__name__] = torch.compile(function, **self._compile_options)
        return self._compiled[function.__name__]

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""
        return self.token_embedding.size(0)

    def logits(self, hidden: Tensor) -> Tensor:
        """Softcapped float32 logits (..., V) of ``hidden`` (..., D); call it only on the rows you score."""
        return softcapped_logits(hidden, self.token_embedding, self.softcap)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token, float32 scalar; ``ids`` and ``targets`` (B,T) int64, targets already shifted."""
        hidden = self.hidden(ids).flatten(0, -2)
        head = self.layer_function(softcapped_cross_entropy)
        rows = max(self.loss_rows, _GPU_LOGITS // self.vocab_size) if ids.is_cuda else self.loss_rows
        return head(hidden, self.token_embedding, targets.flatten(), self.softcap, rows)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The same as ``loss``, so that wrappers which call the module (DDP, functional_call) train it."""
        return self.loss(ids, targets)

    @torch.no_grad()
    def step(self, ids: Tensor, state: Any) -> Tensor:
        """Feed the next ``ids`` (B,t) of each text, each token once; returns (B,t,D) and advances ``state`` in place.

        Within the first ``window`` tokens the result is that of ``hidden`` on the whole prefix, up to rounding,
        however the text is cut into calls. Every t is allowed. No gradient flows.
        """
        pieces = [self._step(piece, state) for piece in ids.split(state.chunk, dim=1)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def role(self, name: str) -> Role:
        """What the parameter ``name`` is to the optimizer and the quantizer; raises ``KeyError`` for unknown names.

        ``embedding``: lookup tables, as the module that holds them says. ``attention`` and ``mlp``: matrices that were
        made so. ``control``: all else (gains, scales, mixes, depth tables), kept in high precision.
        """
        self.get_parameter_or_raise(name)
        path, _, last = name.rpartition(".")
        owner = self.get_submodule(path)
        if isinstance(owner, nn.ParameterList):
            path, _, last = path.rpartition(".")
            owner = self.get_submodule(path)
        if isinstance(owner, Matrix):
            return owner.role
        return "embedding" if last in getattr(owner, "tables", ()) else "control"

    def get_parameter_or_raise(self, name: str) -> nn.Parameter:
        """The parameter called ``name``; ``KeyError`` with the name otherwise."""
        try:
            return self.get_parameter(name)
        except AttributeError:
            raise KeyError(name) from None

    def unique_parameters(self) -> dict[str, nn.Parameter]:
        """Every trainable storage once, under its first name, in module order (tied weights are not repeated)."""
        seen: set[tuple[int, tuple[int, ...]]] = set()
        unique: dict[str, nn.Parameter] = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            pointer = parameter.untyped_storage().data_ptr()
            key = (pointer or id(parameter), tuple(parameter.shape))  # a meta tensor has no address
            if key not in seen:
                seen.add(key)
                unique[name] = parameter
        return unique

    def quantizable_names(self) -> list[str]:
        """Names of the matrices and tables that the quantizer turns into integers: every role but ``control``."""
        return [name for name in self.unique_parameters() if self.role(name) != "control"]

    def num_parameters(self) -> int:
        """Trainable values, tied storage counted once."""
        return sum(parameter.numel() for parameter in self.unique_parameters().values())
