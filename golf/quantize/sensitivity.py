"""How much an error in each row of a matrix costs: squared gradients of its weights, from one backward pass.

Errors e in the weights of a row raise KL(float || quantized) to second order by half the mean of (g . e) ** 2, where g
is the gradient of -log p(y), with y drawn from the model itself: that is the Fisher information (Kunstner et al., arXiv
1905.12558). Of errors without a particular direction the mean is |g| ** 2 times their variance. The gradient is that of
a whole window: one error acts on all tokens at once, and what reaches a prediction by several of them adds up before it
is squared. Squares of single tokens miss that.

Diagonal Fisher information for steps: SqueezeLLM (arXiv 2306.07629). What steps become of it is in
``golf.quantize.steps``. Shapes: B windows, T tokens, R rows (outputs), D width, V vocabulary.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from golf.base.progress import bar
from golf.models.base import LanguageModel

__all__ = ["row_sensitivities"]

_HEAD_ROWS = 128  # tokens turned into logits at a time
_ROWS = 4096  # of a gradient squared at a time: a token table has many
_RARE = 0.1  # of the head's mean, added to each of its rows
_UNSEEN = 0.25  # times that each row of a lookup table counts as looked up beside those in the windows


def row_sensitivities(model: LanguageModel, windows: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    """Sensitivity (R,) >= 0 of every row of every matrix and lookup table of ``model``.

    Half of it is the KL in nats per token for each unit of variance of the row's errors. ``windows`` (B, T) are run at
    full depth, one at a time, forward and back. The head's table has that of its use as head, where the square is
    expected: p (1 - p) |hidden| ** 2. A tenth of its mean is added to all its rows: tokens that these windows make
    unlikely come in other text, and an error that doubles a small p costs more than its square says. Each row
    of another lookup table is taken to be looked up a quarter of a time more, at the cost of the average.
    """
    parameters = model.unique_parameters()
    names = {id(parameter): name for name, parameter in parameters.items()}
    table = getattr(model, "head_table", model.token_embedding)
    linear = {id(m.weight): m.weight for m in model.modules() if isinstance(m, nn.Linear)}
    weights = {names[key]: weight for key, weight in linear.items() if key in names and weight is not table}
    lookups = {n: p for n, p in parameters.items() if p is not table and model.role(n) == "embedding"}
    weights |= lookups
    sums = {name: weight.new_zeros(len(weight), dtype=torch.float64) for name, weight in weights.items()}
    at_head = table.new_zeros(len(table), dtype=torch.float64)
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)

    def take(name: str, weight: Tensor) -> None:
        """Sum up the gradient of one weight and drop it: those of all weights are as large as the model."""
        assert weight.grad is not None
        for part, total in zip(weight.grad.split(_ROWS), sums[name].split(_ROWS), strict=True):
            total += part.float().square().sum(1)
        weight.grad = None

    for weight in weights.values():
        weight.requires_grad_(True)
    hooks = [weight.register_post_accumulate_grad_hook(partial(take, name)) for name, weight in weights.items()]
    model.set_depth(model.max_depth)
    draws = np.random.default_rng(0)
    try:
        with bar(what="sensitivities", total=windows.size, unit="tok") as shown:
            for ids in torch.from_numpy(windows).to(table.device).split(1):
                hidden = model.hidden(ids)
                gradient = torch.cat([_at_head(model, h, draws, at_head) for h in hidden[0].split(_HEAD_ROWS)])
                hidden.backward(gradient[None])
                shown.update(ids.numel())
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, needed in before.items():
            parameter.requires_grad_(needed)
    for name in lookups:
        sums[name] += _UNSEEN * sums[name].sum() / windows.size
    sums[names[id(table)]] = at_head + _RARE * at_head.mean()
    return {name: (total / windows.size).float().cpu().numpy() for name, total in sums.items()}


def _at_head(model: LanguageModel, hidden: Tensor, draws: np.random.Generator, sums: Tensor) -> Tensor:
    """Gradients (N, D) at ``hidden`` (N, D) of -log p of tokens drawn from the model; the head's go to ``sums``."""
    h = hidden.detach().requires_grad_()
    log_p = torch.log_softmax(model.logits(h), -1)
    p = log_p.detach().exp()
    upto = p.cumsum(-1)
    drawn = torch.from_numpy(draws.random((len(h), 1))).to(upto) * upto[:, -1:]
    tokens = torch.searchsorted(upto, drawn, right=True).clamp_max(p.size(1) - 1)
    sums += h.detach().float().square().sum(1) @ (p * (1 - p))
    return torch.autograd.grad(-log_p.gather(1, tokens).sum(), h)[0]
