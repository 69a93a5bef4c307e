"""Train one model on the general text of `nature` at a constant learning rate, without a cooldown; print held-out losses and how much it copies.

    python sweeps/nature/trace.py 3x64 6e6        # layers x width, tokens; prints a line every 300 steps

Copying is measured as in arXiv 2209.11895: words drawn at random from held-out text, then the same words again. How much lower the loss is the second
time measures copying, since nothing else could help the model there.

`traces.json` has the recorded traces; `python sweeps/nature/trace.py --draw` draws them as `figures/traces.png`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
FEED_FORWARD = {"3x48": 120, "3x64": 192, "4x48": 72, "2x64": 80}
"""Feed-forward widths, by shape: those of the ladder at 80k and 160k parameters, and two other shapes near 80k."""
EVERY, HELDOUT = 300, 40_000
COPIES, HALF = 128, 64
"""Number of sequences that measure copying, and words in the half that is repeated."""


def trace(shape_name: str, tokens: float) -> None:
    """Train; print tokens [millions], general and specialist loss [nats/token], and how much lower the loss of repeated words is [nats/token]."""
    import torch

    from planner.ladder import shape_for
    from planner.sweep import Sweep
    from planner.train.evaluate import domain_loss
    from planner.train.model import build_model, build_optimiser
    from planner.train.order import Batches, Stream

    torch.set_num_threads(1)
    sweep = Sweep.open(FOLDER)
    recipe, corpus = sweep.spec.recipe, sweep.corpus
    layers, hidden = map(int, shape_name.split("x"))
    heads = hidden // 16
    shape = replace(
        shape_for(8e4, family="qwen3", vocab=1024), layers=layers, hidden=hidden, heads=heads, kv_heads=heads, intermediate=FEED_FORWARD[shape_name]
    )
    model, rate = build_model(shape, recipe, 0), recipe.learning_rate(shape.params_non_embedding)
    optimiser = build_optimiser(model, recipe, rate)
    batches = Batches(Stream(corpus.tokens("general", "train"), recipe.seq_len, 0, "general"), recipe.batch_sequences)
    words = torch.from_numpy(corpus.tokens("general", "heldout").astype("int64"))
    half = words[torch.randint(len(words), (COPIES, HALF), generator=torch.Generator().manual_seed(0))]
    twice = torch.cat([half, half], 1)
    steps = int(tokens / recipe.tokens_per_step)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / recipe.warmup_steps)
        inputs, targets = (torch.from_numpy(part) for part in batches.step(step))
        torch.nn.functional.cross_entropy(model(input_ids=inputs).logits.flatten(0, 1), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm, foreach=True)
        optimiser.step()
        optimiser.zero_grad()
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            model.eval()
            losses = [
                domain_loss(model, corpus, domain, recipe.seq_len, max_tokens=HELDOUT, device=torch.device("cpu"))[0] for domain in ("general", "nature")
            ]
            with torch.no_grad():
                logits = model(input_ids=twice[:, :-1]).logits
                each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), twice[:, 1:].flatten(), reduction="none").view(COPIES, -1)
            losses.append(float(each[:, : HALF - 1].mean() - each[:, HALF:].mean()))
            model.train()
            print(json.dumps([round((step + 1) * recipe.tokens_per_step / 1e6, 4), *(round(loss, 3) for loss in losses)]), flush=True)


def draw() -> None:
    """Draw copying and the specialist loss along the recorded traces."""
    from planner.report.style import save

    recorded = json.loads((FOLDER / "traces.json").read_text())

    def panels(axes: Any) -> None:
        for body in recorded.values():
            tokens, _, special, copied = zip(*body["losses"], strict=True)
            name = f"{body['params'] / 1e3:.0f}k, {body['layers']} layers of width {body['hidden']}"
            axes[0].plot(tokens, copied, label=name)
            axes[1].plot(tokens, special, label=name)
        axes[0].set(title="Copying: words drawn at random, then the same words again", ylabel="loss lower the second time by [nats/token]")
        axes[1].set(title="The specialist text, never trained on", ylabel="held-out specialist loss [nats/token]")
        for panel in axes:
            panel.set(xscale="log", xlabel="general tokens [millions]")
            panel.set_xticks([0.3, 1, 3, 9], ["0.3", "1", "3", "9"])
            panel.minorticks_off()
        axes[0].legend(frameon=False)

    save(FOLDER / "figures" / "traces.png", panels, panels=2)


if __name__ == "__main__":
    draw() if sys.argv[1:] == ["--draw"] else trace(sys.argv[1], float(sys.argv[2]))
