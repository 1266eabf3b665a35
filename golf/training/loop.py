"""The training loop: progressive depth, Muon and AdamW, snapshots and a moving average, checkpoints, one run log.

Shapes: ``B`` sequences of one micro batch, ``L`` tokens of a sequence. Losses are in nats per token.
Recipe: openai/parameter-golf PR #895; what changed is that every schedule follows progress and every graph is compiled
before the clock starts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.base.distributed import Ranks
from golf.base.errors import GolfError
from golf.data.batches import Batches, TokenSource, prefetch
from golf.models.base import LanguageModel
from golf.training.checkpoint import CheckpointError, CheckpointFolder
from golf.training.compiling import autocast, deterministic, prepare_loss
from golf.training.config import (
    TrainConfig,
    context_at,
    depth_at,
    momentum_at,
    multiplier_at,
    progress_at,
    qat_acts,
    seconds_left,
    snapshot_due,
)  # fmt: skip
from golf.training.ledger import TrainState, make_ledger
from golf.training.optimizers import OptimizerConfig, Optimizers
from golf.training.outputs import Sink, TrainResult, weights_meta
from golf.training.plan import Machine
from golf.training.qat import LateQat
from golf.training.ready import Pace, SlowRunError, prepare
from golf.training.reduce import BUCKET_BYTES, GradientMean
from golf.training.signals import StopFlag, TrainingInterrupted
from golf.training.writer import Writer

__all__ = ["DivergedError", "MemoryShortError", "Trainer"]

_HISTORY_ROWS = 1000  # rows of the history at most, about
_DIVERGED = 3.0  # a loss beyond this multiple of ln(vocabulary), the loss of knowing nothing, has diverged


class DivergedError(GolfError):
    """The loss is not finite or has exploded."""


class MemoryShortError(GolfError):
    """A micro batch does not fit into the device's memory."""


class Trainer:
    """One training run on one device (or one process of a group).

    ``model`` is freshly initialized; ``source`` is the training split; ``base_meta`` goes into the metadata of every
    weights file. ``run`` continues from the newest checkpoint in ``checkpoints``. A run on GPUs that is slower than
    ``slowest``, the slowest machine of its plan, is stopped.
    """

    def __init__(
        self,
        model: LanguageModel,
        config: TrainConfig,
        *,
        source: TokenSource,
        checkpoints: CheckpointFolder,
        base_meta: Mapping[str, Any],
        device: str = "cpu",
        group: Ranks | None = None,
        stop: StopFlag | None = None,
        log: Callable[[str], None] = print,
        sink: Sink | None = None,
        slowest: Machine | None = None,
    ) -> None:
        self.config, self.device, self.log, self.sink = config, torch.device(device), log, sink
        self.group, self.stop = group or Ranks(), stop or StopFlag()
        self.model = model.to(self.device)
        self.checkpoints, self.base_meta = checkpoints, base_meta
        self.schedule = config.schedule(model.max_depth)
        self.set_context: Callable[[int | None], None] | None = getattr(model, "set_context", None)
        self.knowing: Callable[[np.ndarray], AbstractContextManager[None]] = getattr(
            model, "knowing", lambda ids: nullcontext()
        )
        if config.context_phases and self.set_context is None:
            raise GolfError(f"train.context_phases: expected [], {type(model).__name__} attends to the whole sequence")
        sequences = config.tokens_per_step // config.sequence_length
        self.batches = Batches(source, config.sequence_length, sequences, config.seed, model.vocab_size)
        self.batches.share(0, self.group.rank, self.group.world)  # a split too short or a world that does not divide
        local = sequences // self.group.world
        self.micro = math.gcd(min(config.micro_batch_tokens // config.sequence_length, local), local)
        self.accumulate = local // self.micro
        settings = OptimizerConfig(
            config.matrix_lr, config.embedding_lr, config.control_lr, config.weight_decay, config.momentum,
            coefficients=config.muon_coefficients, row_norm=config.muon_row_norm,
            newton_schulz_precision=config.newton_schulz_precision, beta2=config.adam.beta2,
            embedding_decay=config.adam.embedding_decay, control_decay=config.adam.control_decay,
        )  # fmt: skip
        self.optimizers = Optimizers(model, settings, rank=self.group.rank, world=self.group.world)
        self.state = TrainState(model, self.optimizers, ema_decay=config.ema_decay)
        self.qat = LateQat(model, config.qat)
        self.parameters = list(model.unique_parameters().values())
        cuda = self.device.type == "cuda"
        whole = cuda and config.compile and model.whole_graph  # hands over all at its end
        self.gradient_mean = GradientMean(self.parameters, self.group, bucket_bytes=1 << 62 if whole else BUCKET_BYTES)
        self.context, self.strict = autocast(config.precision, self.device), cuda and not config.allow_slow
        self.pace = Pace(slowest if self.strict else None)
        self.row_every, self.stop_signal = max(1, config.iterations // _HISTORY_ROWS), 0
        self.writer = Writer()
        self.losses: list[Tensor] = []  # on the device, not read yet
        self.loss_fn: Callable[[Tensor, Tensor], Tensor] = model.loss

    def run(self) -> TrainResult:
        """Train to the end.

        Raises ``DivergedError``, ``MemoryShortError``, ``SlowRunError``, ``CheckpointError``, or
        ``TrainingInterrupted`` after a signal.
        """
        self.model.train()
        saved = self.checkpoints.load()
        if saved is not None:
            self.state.restore(*saved)
            self.log(f"resuming after step {self.state.events.step}, {self.state.events.elapsed:.0f} s of training")
        self._check_agreement()
        self.group.broadcast(self.state.weights.values())
        try:
            with deterministic(self.device), self.writer:
                if self.state.events.progress < 1.0:
                    prepare(self)
                    self._loop()
        except torch.OutOfMemoryError as error:
            tokens = self.micro * self.config.sequence_length
            raise MemoryShortError(
                f"out of memory on {self.device}: {tokens} tokens in one forward pass; "
                "lower train.micro_batch_tokens, the global batch stays the same"
            ) from error
        rows = self.state.events.history
        tail = rows[-max(1, len(rows) // 50) :]
        final = sum(row[2] for row in tail) / len(tail)
        return TrainResult(self.state, make_ledger(self.state), final, self.model.num_parameters())

    def _check_agreement(self) -> None:
        """Processes on several machines must resume from the same step, on the same tokens."""
        own = (self.state.events.step, self.batches.source.num_tokens)
        step, tokens = self.group.decide(own)
        if own != (step, tokens):
            raise CheckpointError(
                f"process {self.group.rank} continues from step {own[0]} with {own[1]:,} training tokens, process 0 "
                f"from step {step:.0f} with {tokens:,.0f}; every machine must see the same folder GOLF_CKPT_DIR "
                "and have the same artifacts/tokens"
            )

    def _compile(self, **options: Any) -> None:
        """Prepare the loss at every depth of the run; ``options`` go to ``torch.compile``."""
        depths = {depth for _, depth in self.schedule.depth_phases} or {self.schedule.full_depth}
        example = torch.zeros(self.micro, self.config.sequence_length, dtype=torch.int64, device=self.device)
        began = time.monotonic()
        self.loss_fn = prepare_loss(self.model, tuple(sorted(depths)), (example, example), self.context, **options)
        self.log(f"prepared depths {sorted(depths)} in {time.monotonic() - began:.0f} s, before the clock starts")

    def _loop(self) -> None:
        config, events = self.config, self.state.events
        self._start, self._logged, self._saved = time.monotonic() - events.elapsed, time.monotonic(), events.elapsed
        self._logged_tokens = events.tokens
        steps = prefetch(
            self.batches, events.step, config.iterations, rank=self.group.rank, world=self.group.world,
            prepare=self._to_host_tensor,
        )  # fmt: skip
        with closing(steps) as stream:  # type: ignore[type-var]
            while events.progress < 1.0:
                self._step(*next(stream))
                self.writer.check()
                if self.stop_signal and events.progress < 1.0:
                    self._save()
                    self.writer.wait()
                    raise TrainingInterrupted(self.stop_signal, events.step)
                slow = self.pace.after_step(self.model.depth, events.elapsed)
                if slow is not None and events.progress < 1.0:
                    self._save()
                    self.writer.wait()
                    raise SlowRunError(f"{slow}; set train.allow_slow to true to train on from step {events.step}")
                if time.monotonic() - self._logged >= config.log_seconds:
                    self._log_line(time.monotonic())
                if self._due and events.progress < 1.0:
                    self._save()
        self._log_line(time.monotonic())
        self._save()

    def _to_host_tensor(self, rows: np.ndarray) -> Tensor:
        """``rows`` as a tensor, in pinned memory where a GPU takes them from; runs in the reading thread."""
        tokens = torch.from_numpy(rows)
        if self.device.type != "cuda":
            return tokens
        if self.device.index is not None:  # of this thread; pinning must not open a context on GPU 0
            torch.cuda.set_device(self.device)
        return tokens.pin_memory()

    def _step(self, windows: np.ndarray, rows: Tensor) -> None:
        """One update: gradients of the global batch, clip, optimizers, moving average, then what is due."""
        config, events, before = self.config, self.state.events, self.state.events.progress
        depth = depth_at(before, self.schedule.depth_phases, self.schedule.full_depth)
        multiplier = multiplier_at(before, self.schedule)
        if self.model.depth != depth:
            self.model.set_depth(depth)
        if self.set_context is not None:
            self.set_context(context_at(before, config.context_phases))
        events.begin_step(depth, multiplier)
        quantized = qat_acts(multiplier, config.qat.below)
        if quantized and events.qat_start is None:
            events.qat_start = events.step + 1
        with self.qat.quantized(events.fake_quantizations) if quantized else nullcontext():
            loss = self._gradients(rows)
        momentum = momentum_at(events.step, config.momentum_start, config.momentum, config.momentum_warmup_steps)
        self.optimizers.set_lr_multiplier(multiplier)
        self.optimizers.set_momentum(momentum)
        self.losses.append(self._apply(loss))
        events.chain_order(windows)
        events.step += 1
        events.tokens += config.tokens_per_step
        elapsed = time.monotonic() - self._start
        after = progress_at(events.step, config.iterations, elapsed, config.budget_seconds)
        saving = elapsed - self._saved >= config.checkpoint_seconds
        after, elapsed, signum, due = self.group.decide((after, elapsed, self.stop.signum, saving))
        self.stop_signal, self._due = int(signum), bool(due)  # rank 0's, so that all stop or save after the same step
        events.phase_seconds[-1] += elapsed - events.elapsed
        events.elapsed, events.progress = elapsed, after
        if events.step % self.row_every == 0 or after >= 1.0:
            self._history_row(depth, multiplier)
        if snapshot_due(before, after, self.schedule):
            self._snapshot()

    def _apply(self, loss: Tensor) -> Tensor:
        """Mean gradients, clip, optimizers, moving average; the ``loss``, NaN where the gradient is not finite."""
        for parameter in self.parameters:
            if parameter.grad is None:  # not used at this depth: a zero gradient, so that every tensor has its state
                parameter.grad = torch.zeros_like(parameter)
        self.gradient_mean.finish()
        limit = self.config.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        self.state.clipped += (norm > limit).float()
        self.optimizers.step()
        self.state.update_ema()
        return torch.where(norm.isfinite(), loss, math.nan)  # such an update ruins the weights though the loss is fine

    def _gradients(self, rows: Tensor) -> Tensor:
        """Accumulate gradients over the micro batches of ``rows`` (sequences, L + 1); returns the mean loss."""
        for parameter in self.parameters:
            parameter.grad = None
        total = torch.zeros((), device=self.device)
        known, pieces = rows.numpy(), rows.to(self.device, non_blocking=True).split(self.micro)
        for index, piece in enumerate(pieces):
            with self.context, self.knowing(known[index * self.micro : (index + 1) * self.micro, :-1]):
                loss = self.loss_fn(piece[:, :-1].contiguous(), piece[:, 1:].contiguous())
            with self.gradient_mean.overlapped() if index == len(pieces) - 1 else nullcontext():
                (loss / self.accumulate).backward()
            total += loss.detach()
        return self.group.mean(total / self.accumulate)

    def _history_row(self, depth: int, multiplier: float) -> None:
        self._read_losses()
        events = self.state.events
        mean = sum(events.pending) / len(events.pending)
        events.history.append([events.step, events.progress, mean, multiplier, depth, events.tokens])
        if self.sink is not None:
            speed = events.tokens / max(1e-9, events.elapsed)
            point = {"loss": mean, "lr_multiplier": multiplier, "depth": depth, "tokens_per_second": speed}
            self.sink(events.step, point)
        events.pending = []

    def _read_losses(self) -> None:
        """Copy the losses from the device and stop when one shows that the run is lost."""
        events = self.state.events
        first = events.step - len(self.losses) + 1
        values = [float(value) for value in torch.stack(self.losses).tolist()] if self.losses else []
        self.losses = []
        bound = _DIVERGED * math.log(self.model.vocab_size)
        for step, value in enumerate(values, start=first):
            if not math.isfinite(value) or value > bound:
                self.writer.wait()
                last = self.checkpoints.newest() or "none yet"
                raise DivergedError(
                    f"loss is {value:.3f} nats per token at step {step}, expected less than {bound:.1f}; last good "
                    f"checkpoint: {last}; lower train.matrix_lr, train.embedding_lr or train.control_lr"
                )
        events.pending.extend(values)

    def _snapshot(self) -> None:
        events = self.state.events
        if self.group.rank == 0:
            index, meta = len(events.snapshot_steps), weights_meta(self.state, self.base_meta)
            self.writer.write(lambda tensors: self.checkpoints.save_snapshot(index, tensors, meta), self.state.weights)
        events.snapshot_steps.append(events.step)

    def _save(self) -> None:
        self._read_losses()
        self.group.check_equal(self.state.weights)
        if self.group.rank == 0:
            step, (tensors, meta) = self.state.events.step, self.state.to_checkpoint()
            self.writer.write(lambda copies: self.checkpoints.save(step, copies, meta), tensors)
        self._saved = time.monotonic() - self._start  # seconds of training

    def _log_line(self, now: float) -> None:
        self._read_losses()
        events, config = self.state.events, self.config
        left = seconds_left(events.progress, events.elapsed, self.schedule)
        recent = events.pending or [row[2] for row in events.history[-10:]]
        speed = (events.tokens - self._logged_tokens) / max(1e-9, now - self._logged)
        self._logged, self._logged_tokens = now, events.tokens
        self.log(
            f"step {events.step}/{config.iterations}  loss {sum(recent) / len(recent):.4f} nats/token  "
            f"{speed:,.0f} tok/s  depth {self.model.depth}  lr x{events.last_multiplier:.3f}  ETA {left:.0f} s"
        )
