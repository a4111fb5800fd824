"""Cross-entropy in plain PyTorch: the references of the ops, and what they are made of.

Logits [..., V] of any dtype, labels [...] int64; losses are float32. A row whose label is
`ignore_index` has loss 0 and gradient 0. With smoothing e, the loss of a row is
(1 - e) * -log p[label] + e * mean(-log p) (Szegedy et al., arXiv:1512.00567, section 7).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """[..., D] as [N, D]: a view where it can be one. D may be 0, which no -1 stands beside."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def rounded(x: torch.Tensor, dtype: torch.dtype, rounding: str) -> torch.Tensor:
    """x as the model has it after an op: rounded to its dtype, or still float32."""
    return x.to(dtype).float() if rounding == "every_op" else x


def slopes_and_values(
    logits: torch.Tensor, scale: float, softcap: float | None, rounding: str
) -> tuple[torch.Tensor | float, torch.Tensor]:
    """d value / d logit, and the values: scale * logits, bounded by softcap * tanh(. / softcap).

    rounding: "every_op" where the model does this in the logits' dtype, "once" in float32.
    """
    dtype, z = logits.dtype, logits.float()
    if scale != 1.0:
        z = rounded(z * scale, dtype, rounding)
    if softcap is None:
        return scale, z
    bent = rounded(torch.tanh(rounded(z * (1.0 / softcap), dtype, rounding)), dtype, rounding)
    return scale * (1 - bent * bent), rounded(bent * softcap, dtype, rounding)


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    scale: float = 1.0,
    softcap: float | None = None,
    rounding: str = "once",
    reduction: str = "mean",
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The loss of all rows, in `dtype` or float32: a scalar, or [...] for reduction "none"."""
    z = slopes_and_values(logits, scale, softcap, rounding)[1]
    loss = F.cross_entropy(
        as_rows(z),
        labels.reshape(-1),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    loss = loss.reshape(labels.shape) if reduction == "none" else loss
    return loss.to(dtype or torch.float32)


def cross_entropy_rows(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    scale: float = 1.0,
    softcap: float | None = None,
    rounding: str = "once",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each row [...], and the two parts of its log-sum-exp [..., 2].

    Those are the largest value and log(sum(exp(value - largest))): their sum would have lost what a
    probability near 1 needs.
    """
    z = slopes_and_values(logits, scale, softcap, rounding)[1]
    peak = z.amax(-1, keepdim=True)
    mass = (z - peak.masked_fill(peak == -math.inf, 0.0)).exp_().sum(-1, keepdim=True).log()
    ignored = (labels == ignore_index).unsqueeze(-1)
    loss = mass - (z.gather(-1, labels.unsqueeze(-1).masked_fill(ignored, 0)) - peak)
    if label_smoothing:
        # Of differences: the sum of large values overflows where the mean of log p does not.
        spread = mass - (z - peak).mean(-1, keepdim=True)
        loss = (1 - label_smoothing) * loss + label_smoothing * spread
    return loss.masked_fill(ignored, 0.0)[..., 0], torch.cat((peak, mass), -1)


def refuse_others(labels: torch.Tensor, ignore_index: int, classes: int) -> None:
    """An error for a label that is no class; on a GPU when the device gets there, as in torch."""
    fits = ((labels >= 0) & (labels < classes)) | (labels == ignore_index)
    torch._assert_async(fits.all(), f"cross-entropy: a label is not one of the {classes} classes")


def cross_entropy_grad(
    logits: torch.Tensor,
    labels: torch.Tensor,
    parts: torch.Tensor,
    factor: torch.Tensor,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    scale: float = 1.0,
    softcap: float | None = None,
    rounding: str = "once",
) -> torch.Tensor:
    """The gradient of the logits, in their dtype: factor * d loss / d logits of each row.

    parts: of `cross_entropy_rows`. factor: float32 [...], or [] for all rows. An infinite one gives
    NaN at the label, where torch subtracts the gradients of log_softmax and of nll_loss.
    """
    slopes, z = slopes_and_values(logits, scale, softcap, rounding)
    peak, mass = parts.split(1, -1)
    ignored = (labels == ignore_index).unsqueeze(-1)
    at = labels.unsqueeze(-1).masked_fill(ignored, 0)
    weight = factor.expand(labels.shape).unsqueeze(-1).masked_fill(ignored, 0.0)
    nothing = weight - weight
    hit = (nothing + (label_smoothing - 1.0)).to(z.dtype)
    slope: torch.Tensor = (z - peak).sub_(mass).exp_().scatter_add(-1, at, hit)
    if label_smoothing:
        slope = slope - (label_smoothing / z.shape[-1] - nothing)
    slope = slope * (weight * slopes)
    return slope.to(logits.dtype)


def factor_of(
    dout: torch.Tensor, labels: torch.Tensor, ignore_index: int, reduction: str
) -> torch.Tensor:
    """What the gradient of each row is multiplied with, float32. 0 for a mean over no row."""
    if reduction != "mean":
        return dout.float()
    count = (labels != ignore_index).sum()
    return torch.where(count > 0, dout.float() / count, 0.0)


def factors_of_sums(
    dout: torch.Tensor, labels: torch.Tensor, ignore_index: int, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """What gradients of the sum of all rows are multiplied with: that of each row, and of a weight.

    A row that is ignored has no part in it, nor has a weight where all are, whatever dout is; an
    infinite dout gives NaN, as in torch, where it meets numbers of both signs.
    """
    factor = factor_of(dout, labels, ignore_index, reduction)
    factor, counted = factor + (factor - factor), labels != ignore_index
    return torch.where(counted, factor, 0.0), torch.where(counted.sum() > 0, factor, 0.0)


def reduced(
    rows: torch.Tensor, labels: torch.Tensor, ignore_index: int, reduction: str
) -> torch.Tensor:
    """The losses of rows as one. A mean over no row is NaN, as in torch."""
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    return rows.sum().div((labels != ignore_index).sum())
