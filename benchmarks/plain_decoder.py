"""GPT-2 and Llama in a hundred lines of plain PyTorch, and the usual training loop: the reference of gpu_report.py.

Weights in float32 under autocast to bf16, PyTorch's fused AdamW, one cross-entropy over all logits, nothing deterministic.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class Block(nn.Module):
    """A pre-norm block; `shape` as in gpu_report.SHAPES."""

    def __init__(self, shape: dict[str, int]):
        super().__init__()
        dim, self.modern = shape["dim"], bool(shape["kv_heads"])
        self.head_dim = dim // shape["heads"]
        kv_dim = (shape["kv_heads"] or shape["heads"]) * self.head_dim
        norm = nn.RMSNorm if self.modern else nn.LayerNorm
        self.sizes = [dim, kv_dim, kv_dim]
        self.attention_norm, self.mlp_norm = norm(dim), norm(dim)
        self.qkv = nn.Linear(dim, sum(self.sizes), bias=not self.modern)
        self.out = nn.Linear(dim, dim, bias=not self.modern)
        self.up = nn.Linear(dim, shape["hidden"] * (2 if self.modern else 1), bias=not self.modern)
        self.down = nn.Linear(shape["hidden"], dim, bias=not self.modern)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Map (B, T, D) to (B, T, D); `turn`: cosine and sine of each position."""
        parts = self.qkv(self.attention_norm(x)).split(self.sizes, -1)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in parts)
        if self.modern:
            q, k = _turned(q, *turn), _turned(k, *turn)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        hidden = self.up(self.mlp_norm(x))
        if self.modern:
            gate, value = hidden.chunk(2, -1)
            return x + self.down(F.silu(gate) * value)
        return x + self.down(F.gelu(hidden, approximate="tanh"))


class PlainDecoder(nn.Module):
    """GPT-2 if `kv_heads` is 0, else Llama: from ids and targets to the mean loss."""

    def __init__(self, shape: dict[str, int]):
        super().__init__()
        modern = bool(shape["kv_heads"])
        self.tokens = nn.Embedding(shape["vocab"], shape["dim"])
        self.positions = None if modern else nn.Embedding(shape["length"], shape["dim"])
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape["layers"]))
        self.norm = (nn.RMSNorm if modern else nn.LayerNorm)(shape["dim"])
        self.head = nn.Linear(shape["dim"], shape["vocab"], bias=False)
        if not modern:
            self.head.weight = self.tokens.weight
        half = torch.arange(0, 1, 2 * shape["heads"] / shape["dim"])
        angles = torch.outer(torch.arange(shape["length"]).float(), 10_000.0**-half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Map (B, T) twice to the mean over all targets."""
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, (self.cos, self.sin))
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1).float(), targets.flatten())


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


class PlainLoop:
    """A training loop, one step at a time."""

    def __init__(self, shape: dict[str, int], device: torch.device, *, bf16: bool, compiled: bool):
        self.device, self.bf16 = device, bf16
        self.model = PlainDecoder(shape).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        self.loss = torch.compile(self.model) if compiled else self.model

    def step(self, ids: Tensor) -> float:
        """Take a step on rows with one id more than the context, on the CPU; return the loss."""
        ids = ids.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())
