"""Online mixtures of a neural distribution with exact causal counts: normalised, single pass, score before update."""

from golf.mixing.bias import ArrayOps, DocumentBias, chunk_bounds, numpy_ops
from golf.mixing.config import MixtureConfig
from golf.mixing.counts import CountTable, candidates, count_contexts
from golf.mixing.mixture import MixResult, NormalisationReport, mix
from golf.mixing.record import NeuralRecord, record_from_log_probs
from golf.mixing.stream import MixtureState

__all__ = [
    "ArrayOps",
    "CountTable",
    "DocumentBias",
    "MixResult",
    "MixtureConfig",
    "MixtureState",
    "NeuralRecord",
    "NormalisationReport",
    "candidates",
    "chunk_bounds",
    "count_contexts",
    "mix",
    "numpy_ops",
    "record_from_log_probs",
]
