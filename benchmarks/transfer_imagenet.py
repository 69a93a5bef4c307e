"""Every two-stage law on three real axes outside language: size, pretraining images, fine-tuning images (synthetic images → ImageNet).

Images stand for tokens and the error rate for the loss, so laws describe ln(error). For the laws no image is repeated: U = D_ft. The laws are scored as
in `plan fit --law auto`: each forecasts slices that were left out of its fit. Laws that the selection drops after their first fit are scored as in
`plan fit --law NAME`. No parameters are published for this table.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np

from benchmarks.common import Report, cpu, table
from planner.errors import PlannerError, PlannerWarning
from planner.fit.data import FitData, fit_data
from planner.fit.fit import fit
from planner.fit.identify import check
from planner.fit.select import candidates, choose, score_laws
from planner.laws import LAWS
from planner.runs import read_runs


def main() -> None:
    """Run and print."""
    report = Report(__file__, __doc__)
    data = _read(report)
    sizes, general, special = (np.unique(values) for values in (data.params, data.tokens_pt, data.tokens_spec))
    per_size = [int((data.params == size).sum()) for size in sizes]
    cells = len({(n, s) for n, s in zip(data.params, data.tokens_spec, strict=True)})
    report.say(f"{data.count} rows: {len(sizes)} sizes ({', '.join(f'{size:.3g}' for size in sizes)}; {sizes[-1] / sizes[0]:.1f}×), {per_size} rows each")
    report.say(f"{len(general)} pretraining sets (0 to {general[-1]:.0f}), {len(special)} fine-tuning sets; {cells} pairs of size and fine-tuning set")
    report.say(f"passes: {data.epochs.max():g} at most, so what repeats do is not measured")
    _oddities(report, data)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            check(data)
            report.say("check: the table can carry a law; it warns: " + ("; ".join(str(item.message) for item in said) or "of nothing"))
        except PlannerError as error:
            report.say(f"check refuses: {error}")
    warnings.simplefilter("ignore", PlannerWarning)
    laws = [law for law in LAWS.values() if law.stages == 2 and law.target == "spec"]
    carried = {law.name for law in candidates(data)}
    if report.quick:
        laws = [law for law in laws if law.name.endswith("-saturating")]
    seconds, scores = cpu(lambda: score_laws([data], [law for law in laws if law.name in carried]))
    alone = [score.estimate.law for score in scores if not score.held]
    chosen = choose(scores, data)
    scores = [score for score in scores if score.held] + [score for law in alone for score in score_laws([data], [law])]
    names = list(dict.fromkeys(name for score in scores for name in score.held))
    marks = {**{law.name: "a " for law in alone}, **{score.estimate.law.name: "* " for score in chosen}}
    rows = [[marks.get(score.estimate.law.name, "  ") + score.estimate.law.name, len(score.estimate.law.parameters), score.estimate.status,
             f"{score.rms_percent:.2f}", *(f"{score.held[name]:.2f}" for name in names), f"{score.mean:.2f}"]
            for score in sorted(scores, key=lambda score: score.mean)]  # fmt: skip
    report.table("Mean absolute error in % of the error rate where a slice is left out; * forecast together; a: scored alone, by name",
                 ["law", "parameters", "status", "fit", *names, "mean"], rows)  # fmt: skip
    report.say(f"not carried by this table: {', '.join(sorted({law.name for law in laws} - carried)) or 'none'}; {seconds:.1f} CPU-s")
    best = scores[0]
    report.say(f"best: {best.estimate.law.name}: {best.estimate.law.formula}")
    report.say("with " + ", ".join(f"{p.name} {value:.3g}" for p, value in zip(best.estimate.law.parameters, best.estimate.theta, strict=True)))
    try:
        fitted = fit(data, best.estimate.law.name, resamples=100)
        out = fitted.holdout
        report.say(f"fit goes through; without the largest size it is {out['mean_absolute_percent']:.1f} % off there" if out
                   else "fit goes through; no slice of sizes can be left out")  # fmt: skip
    except PlannerError as error:
        report.say(f"fit refuses: {error}")
    report.end()


def _read(report: Report) -> FitData:
    """Read the table as a user would, with a map of columns; U is D_ft."""
    rows = table("transfer_imagenet.csv")
    mapping = {"params_non_embedding": "N", "tokens_pt": "D_pt_images", "tokens_spec": "D_ft", "loss_spec": "err", "unique_spec": "unique"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        path = Path(folder) / "runs.csv"
        rows.assign(unique=rows["D_ft"]).to_csv(path, index=False)
        frame = read_runs(path, mapping)
        for item in said:
            report.say(f"the reader warns: {item.message}")
    flagged = sorted({flag for text in frame["flags"] for flag in text.split(";") if flag})
    report.say(f"flags of the reader (made for tokens, so kept here): {', '.join(flagged) or 'none'}")
    return fit_data(frame, keep=tuple(flagged))


def _oddities(report: Report, data: FitData) -> None:
    """Print how the table differs from a sweep of language models."""
    full = data.tokens_spec == data.tokens_spec.max()
    small = data.tokens_spec == data.tokens_spec.min()
    gain = [float(np.exp(data.log_loss[here & (data.tokens_pt == 0)].mean() - data.log_loss[here & (data.tokens_pt == data.tokens_pt.max())].mean()))
            for here in (small, full)]  # fmt: skip
    loss = np.exp(data.log_loss)
    many = [size for size in np.unique(data.params) if len(np.unique(data.tokens_spec[data.params == size])) > 2]
    report.say(f"error rates {loss.min():.3f} to {loss.max():.3f}, so bounded by 1; only {len(many)} size has more than two fine-tuning sets")
    report.say(f"the largest pretraining set divides the error by {gain[0]:.3f} with the least fine-tuning images and by {gain[1]:.3f} with the most")


if __name__ == "__main__":
    main()
