"""Two fakes of a network: one whose every score is known beforehand, one that computes equal inputs once.

Shapes: B windows or streams, T tokens in a pass, D width, R rows, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["EchoModel", "MemoModel"]


class EchoModel:
    """Stands in for a network on the tokens 0, 1, 2 ...: its row for input i gives nats ``nats()[i]`` to target i.

    Every other target gets other nats from that row, so sums tell which rows were scored, against what, how often.
    """

    training = False

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._boost = 1.0 + (np.arange(vocab_size - 1) * 0.6180339887) % 1.0  # logit of the right target; all differ

    def nats(self) -> np.ndarray:
        """float64 (V-1,): nats of each target from its own row."""
        boost = self._boost.astype(np.float32).astype(np.float64)
        return np.asarray(np.log(np.exp(boost) + self.vocab_size - 1.0) - boost)

    def parameters(self) -> list[torch.Tensor]:
        """One tensor that names the device."""
        import torch

        return [torch.zeros(1)]

    def eval(self) -> EchoModel:
        """Nothing to switch."""
        return self

    def train(self, mode: bool = True) -> EchoModel:
        """Nothing to switch."""
        return self

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """(B,T) -> (B,T,1): the input itself."""
        return ids.double()[..., None]

    def new_state(self, batch: int, window: int, chunk: int = 256) -> None:
        """Nothing to remember."""

    def step(self, ids: torch.Tensor, state: None) -> torch.Tensor:
        """As ``hidden``."""
        return self.hidden(ids)

    def band_hidden(self, ids: torch.Tensor, window: int) -> torch.Tensor:
        """As ``hidden``."""
        return self.hidden(ids)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(R,1) -> (R,V): the boost at the target behind the input, 0 elsewhere."""
        import torch

        inputs = hidden[..., 0].long().clamp_max(self.vocab_size - 2)
        out = torch.zeros(*inputs.shape, self.vocab_size)
        boost = torch.from_numpy(self._boost.astype(np.float32))
        out.scatter_(-1, inputs[..., None] + 1, boost[inputs][..., None])
        return out


@dataclasses.dataclass
class _MemoState:
    """A streaming state that is only computed when an answer is not known: ``pending`` inputs it has not seen yet."""

    real: Any
    key: bytes
    pending: list[torch.Tensor]


class MemoModel:
    """A network that answers a repeated input from memory: thousands of runs that differ in their last token cost one.

    Right for any network that is a function of its inputs, which ``check_scores`` proves without it.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._known: dict[tuple[str, bytes], torch.Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def _remember(self, kind: str, tensor: torch.Tensor, compute: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        key = (kind, _hash(tensor))
        if key not in self._known:
            self._known[key] = compute(tensor)
        return self._known[key]

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """As the network's."""
        return self._remember("hidden", ids, self._model.hidden)

    def band_hidden(self, ids: torch.Tensor, window: int) -> torch.Tensor:
        """As the network's."""
        from golf.models.block import band_hidden

        return self._remember(f"band {window}", ids, lambda found: band_hidden(self._model, found, window))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """As the network's."""
        return self._remember("logits", hidden, self._model.logits)

    def new_state(self, batch: int, window: int, chunk: int = 256) -> _MemoState:
        """The network's state, and the hash of all that it was given."""
        return _MemoState(self._model.new_state(batch, window, chunk), f"{batch} {window} {chunk}".encode(), [])

    def step(self, ids: torch.Tensor, state: _MemoState) -> torch.Tensor:
        """As the network's; inputs with known answers reach the network only when an unknown one follows."""
        state.key = hashlib.sha256(state.key + _hash(ids)).digest()
        key = ("step", state.key)
        if key in self._known:
            state.pending.append(ids)
            return self._known[key]
        for earlier in state.pending:
            self._model.step(earlier, state.real)
        state.pending.clear()
        self._known[key] = self._model.step(ids, state.real)
        return self._known[key]


def _hash(tensor: torch.Tensor) -> bytes:
    data = tensor.detach().cpu().contiguous()
    head = f"{tuple(data.shape)} {data.dtype}".encode()
    return hashlib.sha256(head + data.flatten().view(dtype=_bytes_type()).numpy().tobytes()).digest()


def _bytes_type() -> torch.dtype:
    import torch

    return torch.uint8
