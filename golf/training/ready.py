"""What must be right before the clock of a paid run starts, and in its first steps: no slow substitute in silence.

A kernel of another package that is missing or wrong, attention without a fused kernel, a graph that one process could
not make, a machine slower than any that was planned for: each lets a run on GPUs complete with a third of its steps. So
each ends it, on every process and with the reason, unless ``train.allow_slow`` is true. On CPUs they are warnings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend

from golf.base.distributed import Ranks
from golf.base.errors import GolfError
from golf.models.layers import Attention
from golf.models.sliding_attention import SlidingAttention
from golf.training.compiling import NotCompiledError, has_bf16
from golf.training.writer import on_host

if TYPE_CHECKING:
    from golf.models.base import LanguageModel
    from golf.training.loop import Trainer
    from golf.training.plan import Machine

__all__ = ["Pace", "SlowRunError", "attention_backends", "describe", "kernels", "prepare", "refuse_slow", "warm_up"]

_WARM, _STEPS = 10, 50  # steps that are not counted, and after which a run is judged
_REMEDY = "mend that, or set train.allow_slow to true to train on"


class SlowRunError(GolfError):
    """A run on GPUs would take several times as long as it should."""


def attention_backends(model: LanguageModel, batch: int, length: int, device: torch.device) -> list[str]:
    """What torch chooses for the scaled-dot-product attention of ``model`` in bf16 on ``device``, without masks and, of
    sliding windows, with: FLASH_ATTENTION, CUDNN_ATTENTION, EFFICIENT_ATTENTION or MATH."""
    found = {}
    for module in model.modules():
        if not isinstance(module, Attention):
            continue
        window = module.window if isinstance(module, SlidingAttention) else length
        mask, keys = None, length
        rows, queries = batch, length
        if window < length:  # blocks of queries, each with two of keys
            rows, queries, keys = batch * -(-length // window), window, 2 * window
            mask = torch.ones(rows, 1, queries, keys, dtype=torch.bool, device=device)
        q = torch.empty(rows, module.heads, queries, module.head_dim, dtype=torch.bfloat16, device=device)
        k = torch.empty(rows, module.kv_heads, keys, module.head_dim, dtype=torch.bfloat16, device=device)
        q.requires_grad_()
        grouped = module.heads != module.kv_heads
        choice = torch._fused_sdp_choice(q, k, k, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
        found[SDPBackend(choice).name] = True  # a set in the order of the layers
    return list(found)


def kernels(model: LanguageModel, batch: int, length: int, device: torch.device) -> tuple[str | None, str]:
    """For the GPU ``device`` and bf16: what would be slow there (None: nothing), and the kernels in words."""
    ready, own = model.kernel(device)
    backends = attention_backends(model, batch, length, device)
    slow = None if ready else own
    if "MATH" in backends:
        slow = f"attention of {batch} x {length} tokens has no fused kernel in torch {torch.__version__}"
    told = [f"attention {', '.join(backends)}"] if backends else []
    return slow, "; ".join([*told, own] if own else told)


def refuse_slow(problem: str | None, group: Ranks, *, strict: bool, log: Callable[[str], None]) -> None:
    """Raise ``SlowRunError`` on every process when one has a ``problem``; every process must call it.

    Where not ``strict`` each process only logs its own.
    """
    if not strict:
        if problem is not None:
            log(f"warning: {problem}; training runs slower")
        return
    found = group.first_problem(problem)
    if found is not None:
        raise SlowRunError(f"training would run several times slower: {found}; {_REMEDY}")


def prepare(trainer: Trainer) -> None:
    """Kernels and graphs of ``trainer``, and on GPUs one whole step, before the clock starts.

    Raises ``SlowRunError`` on every process.
    """
    problem, config = None, trainer.config
    if trainer.device.type == "cuda" and trainer.context._enabled:
        problem, told = kernels(trainer.model, trainer.micro, config.sequence_length, trainer.device)
        trainer.log(f"kernels: {told}")
    if config.compile and (problem is None or not trainer.strict):
        try:
            trainer._compile()
        except NotCompiledError as error:
            problem = str(error)
    refuse_slow(problem, trainer.group, strict=trainer.strict, log=trainer.log)
    if trainer.device.type == "cuda":
        warm_up(trainer)


def warm_up(trainer: Trainer) -> None:
    """One whole step for what is made at its first use (communicators, kernels of the optimizers), then all is as it
    was."""
    tensors, meta = trainer.state.to_checkpoint()
    kept, arrive = on_host(tensors)  # which also makes the pinned memory of later checkpoints
    shape = trainer.accumulate * trainer.micro, trainer.config.sequence_length + 1
    trainer._apply(trainer._gradients(torch.zeros(shape, dtype=torch.int64)))
    arrive()
    trainer.state.restore(kept, meta)


def describe(trainer: Trainer) -> list[str]:
    """What the run of ``trainer`` will do, in words, before it starts."""
    config, model, roles = trainer.config, trainer.model, Counter[str]()
    for name, parameter in model.unique_parameters().items():
        roles[model.role(name)] += parameter.numel()
    bf16 = config.precision == "bf16" and has_bf16(trainer.device)
    graphs = "one graph for each depth" if model.whole_graph else "graphs of the layers"
    compiled = f"compiled, {graphs}" if config.compile else "not compiled"
    total = model.num_parameters()
    share = config.tokens_per_step * config.iterations / max(1, trainer.batches.source.num_tokens - 1)
    return [
        f"parameters: {total:,} ({', '.join(f'{name} {count:,}' for name, count in roles.items())})",
        trainer.optimizers.sizes().describe(bool(trainer.state.ema)),
        f"batch: {config.tokens_per_step:,} tokens a step = {trainer.group.world} process(es) x {trainer.accumulate} "
        f"micro batches x {trainer.micro} sequences x {config.sequence_length} tokens; {share:.2f} epochs at most",
        f"device: {trainer.device}, {'bf16 autocast' if bf16 else 'fp32'}, {compiled}, "
        f"{torch.get_num_threads()} threads",
    ]


class Pace:
    """Compares the first steps of a run by the clock with ``slowest``, the slowest machine that it was planned for."""

    def __init__(self, slowest: Machine | None) -> None:
        self._slowest, self._steps, self._began, self._allowed = slowest, 0, 0.0, 0.0

    def after_step(self, depth: int, elapsed: float) -> str | None:
        """What is wrong, once, after 50 steps; ``elapsed`` seconds of training, the same on every process."""
        if self._slowest is None or self._steps >= _STEPS:
            return None
        self._steps += 1
        if self._steps <= _WARM:
            self._began = elapsed
            return None
        self._allowed += self._slowest.step_seconds[depth]
        count, seconds = self._steps - _WARM, elapsed - self._began
        if self._steps < _STEPS or seconds <= self._allowed:
            return None
        return (
            f"{count} steps at depth {depth} took {1e3 * seconds / count:.0f} ms each, the slowest machine of the plan "
            f"({self._slowest.name}) takes {1e3 * self._allowed / count:.0f} ms; see what else runs on these devices"
        )
