"""One page for one or several runs: curves, before and after, settings, and the episodes to look through.

    python -m cahl_pl report runs/quickstart/version_0 --out report.html
    python -m cahl_pl report runs/systems/*/version_0
    python -m cahl_pl report runs/quickstart/version_0 --cross-play runs/cross_play

The page is self-contained and does not use the network. docs/report.md describes it.
Needs matplotlib: pip install "cahl-pl[report]".
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from cahl_pl.commands import verb_parser
from cahl_pl.commands.report.cross_play import section
from cahl_pl.commands.report.data import Run, RunError, read_runs
from cahl_pl.commands.report.plots import Line, figure, onsets, swatch
from cahl_pl.plurals import counted
from cahl_pl.types import ROLES

MAX_EPISODE_BYTES = 3_500_000
"""Limit for episodes within the page; if there are more, evenly spaced ones are taken. Keeps the page below 5 MB."""

RATES = ("task/success", "rate", "tools/excess")
"""Parts of the tags of shares, which are shown in percent."""

MEASURES = {
    "task/success": "success",
    "tools/calls_per_task": "calls per task",
    "tools/calls_per_success": "calls per success",
    "tools/invalid_rate": "invalid calls",
    "tools/error_rate": "calls that the tool answered with an error",
    "tools/redundant_rate": "redundant calls",
    "tools/excess": "surplus calls",
    "plan/subtasks": "sub-tasks of a plan",
    "plan/parse_error_rate": "unreadable plans",
    "tokens_per_task": "tokens per task",
}

SETTINGS = (
    "model.policy.model",
    "model.policy.quantization",
    "model.policy.adapter",
    "model.policy.lora_rank",
    "model.grpo.loss",
    "model.grpo.kl",
    "model.planner.lr",
    "model.executor.lr",
    "data.train.class_path",
    "data.schedule.class_path",
    "data.tasks_per_round",
    "data.updates_per_round",
    "data.warm_start_rounds",
    "data.rollout.planner_group_size",
    "data.rollout.executor_group_size",
    "data.rollout.branching",
    "data.rollout.max_steps",
    "trainer.max_steps",
    "seed_everything",
)
"""Settings shown for every run; others are shown if they differ, and all of them as text."""


def page(runs: Sequence[Run], alignment: str = "") -> str:
    """Return the whole page; `alignment` is the section of `report.cross_play`, or ""."""
    here = Path(__file__).parent
    style, script, template = ((here / f"page.{end}").read_text(encoding="utf-8") for end in ("css", "js", "html"))
    episodes, note = _embedded(runs)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(template).substitute(
        digest=digest,  # no other script runs, whatever a model has written
        style=style,
        script=script,
        title=escape(" and ".join(run.name for run in runs) if len(runs) < 3 else f"{len(runs)} runs"),
        overview=_overview(runs),
        curves=_curves(runs),
        tools=_tools(runs),
        alignment=alignment,
        alignment_link='<a href="#alignment">Alignment</a>' if alignment else "",
        settings=_settings(runs),
        note=escape(note),
        episodes=episodes,
    )


def _embedded(runs: Sequence[Run]) -> tuple[str, str]:
    """Return the episodes as JSON that is safe within a script element, and a sentence about what is left out."""
    texts = [json.dumps({"run": i, **e}, ensure_ascii=False) for i, run in enumerate(runs) for e in run.episodes]
    texts = [text.replace("<", "\\u003c") for text in texts]
    kept = texts
    while sum(len(text.encode("utf-8", "replace")) for text in kept) > MAX_EPISODE_BYTES:
        number = len(kept) * 9 // 10
        kept = [texts[i * len(texts) // number] for i in range(number)]
    names = json.dumps([run.name for run in runs], ensure_ascii=False).replace("<", "\\u003c")
    every = counted(len(texts), "episode")
    note = "" if len(kept) == len(texts) else f"{len(kept)} of {every} are on this page, evenly spaced."
    return f'{{"runs": {names}, "episodes": [\n' + ",\n".join(kept) + "\n]}", note


# --- sections ----------------------------------------------------------------------------------------------------------


def _overview(runs: Sequence[Run]) -> str:
    rows = []
    for i, run in enumerate(runs):
        steps = max((step for points in run.scalars.values() for step in points), default=0)
        logged = [*run.scalars.get("rollout/tokens_total", {}).values()]  # from the callback TokenBudget
        tokens = logged[-1] if logged else ((run.summary or {}).get("training") or {}).get("tokens")
        count = "-" if tokens is None else f"{tokens:,.0f}"
        rows.append([swatch(i) + escape(run.name), str(steps), count, str(len(run.episodes))])
    parts = [_table("Runs", ["run", "optimiser steps", "sampled tokens", "episodes"], rows)]
    names = dict.fromkeys(name for run in runs if run.summary for name in run.summary["sets"])
    tables = [
        f"<div><h3>Test set {escape(name)}, before and after training</h3>\n{_before_after(runs, name)}</div>"
        for name in names
    ]
    parts.append(f'<div class="tables">{"".join(tables)}</div>')
    notes = [(run.name, note) for run in runs for note in run.notes]
    if notes:
        items = "".join(f"<li>{escape(f'{name}: {note}' if len(runs) > 1 else note)}</li>" for name, note in notes)
        parts.append(f'<ul class="notes">{items}</ul>')
    return "\n".join(parts)


def _before_after(runs: Sequence[Run], name: str) -> str:
    head = ["measure"]
    for run in runs:
        prefix = f"{escape(run.name)}: " if len(runs) > 1 else ""
        head += [f"{prefix}before", "after", "change"]
    sets = [(run.summary or {"sets": {}})["sets"].get(name, {}) for run in runs]
    rows = []
    for tag, label in MEASURES.items():
        cells = []
        for measured in sets:
            before, after = ((measured.get(when) or {}).get(tag) for when in ("before", "after"))
            change = None if before is None or after is None else after - before
            cells += [_number(tag, before), _number(tag, after), _number(tag, change, "+")]
        if any(cell != "-" for cell in cells):
            rows.append([label, *cells])
    return _table(f"{name} before and after training", head, rows)


def _curves(runs: Sequence[Run]) -> str:
    """Return small figures by subject. For one run a figure has several curves, for several one curve per run."""
    subjects: list[tuple[str, list[tuple[str, list[tuple[str, str]]]]]] = [
        (
            "Reward and success",
            [
                ("Reward", _of_both("{role}/reward/mean")),
                ("Success of the sampled episodes", [("success", "task/success")]),
                ("Slope of the reward, per round", _of_both("convergence/{role}/slope")),
            ],
        ),
        ("Reward by component", [(f"Reward of the {role}", _components(runs, role)) for role in ROLES]),
        (
            "Calls",
            [
                (
                    "Share of calls",
                    [
                        ("invalid", "tools/invalid_rate"),
                        ("redundant", "tools/redundant_rate"),
                        ("surplus", "tools/excess"),
                        ("error of the tool", "tools/error_rate"),
                    ],
                ),
                ("Invalid calls by cause, share of calls", _below(runs, "tools/invalid_rate/")),
                (
                    "Number of calls",
                    [("per task", "tools/calls_per_task"), ("per success", "tools/calls_per_success")],
                ),
                ("Share of unreadable plans", [("unreadable plans", "plan/parse_error_rate")]),
            ],
        ),
        (
            "Learning",
            [
                ("Share of groups without a signal", _of_both("{role}/frac_zero_std")),
                ("Entropy, nats a token", _of_both("{role}/entropy")),
                ("Gradient norm", _of_both("{role}/grad_norm")),
            ],
        ),
    ]
    parts: list[str] = []
    for heading, figures in subjects:
        drawn: list[str] = []
        for title, curves in figures:
            if len(runs) == 1:
                panels = [(title, [_line(runs[0], tag, label) for label, tag in curves])]
            else:
                panels = [
                    (f"{title}: {label}" if len(curves) > 1 else title, [_line(run, tag, run.name) for run in runs])
                    for label, tag in curves
                ]
            for panel, lines in panels:
                drawn.append(figure(f"f{len(parts)}-{len(drawn)}", panel, lines))
        if any(drawn):
            parts.append(f'<h3>{heading}</h3>\n<div class="figures">\n{"".join(drawn)}</div>')
        if heading == "Reward and success":
            parts.append(_convergence(runs))
    return "\n".join(parts)


def _line(run: Run, tag: str, label: str) -> Line:
    points = run.scalars.get(tag, {})
    role, _, rest = tag.partition("/")
    if rest != "reward/mean":
        return Line(label, points)
    smooth = run.scalars.get(f"convergence/{role}/reward_ema")
    return Line(label, points, smooth, onsets(run.scalars.get(f"convergence/{role}/plateau", {})))


def _convergence(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        for role in ROLES:
            ema, slope, plateau = (
                run.scalars.get(f"convergence/{role}/{rest}", {}) for rest in ("reward_ema", "slope", "plateau")
            )
            if not ema:
                continue
            flat = onsets(plateau)[-1:] if [*plateau.values(), 0][-2:][0] else ()
            rows.append(
                [
                    *([escape(run.name)] if len(runs) > 1 else []),
                    role,
                    _number("", [*ema.values()][-1]),
                    _number("slope", [*slope.values()][-1], "+") if slope else "-",
                    f"since step {flat[0]}" if flat else "no",
                ]
            )
    head = [*(["run"] if len(runs) > 1 else []), "role", "smoothed reward at the end", "slope at the end", "plateau"]
    return _table("Convergence", head, rows)


def _tools(runs: Sequence[Run]) -> str:
    """Return the success of each tool's calls in the first and in the second half of training."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    last: dict[str, float] = {}
    for i, run in enumerate(runs):
        middle = max((step for points in run.scalars.values() for step in points), default=0) / 2
        for tag, points in run.scalars.items():
            if not tag.startswith("tools/success/"):
                continue
            halves = [[v for s, v in points.items() if (s > middle) == late] for late in (False, True)]
            means = [sum(half) / len(half) if half else None for half in halves]
            cells = found.setdefault(tag.removeprefix("tools/success/"), [("-", "-", "-")] * len(runs))
            cells[i] = (str(len(points)), _bar(means[0]), _bar(means[1]))
            known = [mean for mean in means if mean is not None]
            last.setdefault(tag.removeprefix("tools/success/"), known[-1] if known else 0.0)
    if not found:
        return "<p>No call of any tool was logged.</p>"
    head = ["tool"]
    for run in runs:
        head += [f"{escape(run.name)}: rounds" if len(runs) > 1 else "rounds", "first half", "second half"]
    ordered = sorted(found, key=lambda name: (last[name], name))
    rows = [[escape(name), *(cell for cells in found[name] for cell in cells)] for name in ordered]
    return _table("Success by tool", head, rows, tall=True)


def _settings(runs: Sequence[Run]) -> str:
    known = [run for run in runs if run.settings]
    if not known:
        return "<p>No settings are known.</p>"
    keys = dict.fromkeys(key for key in SETTINGS if any(key in run.settings for run in known))
    every = dict.fromkeys(key for run in known for key in run.settings)
    hidden = ("trainer.logger.", "ckpt_path", "trainer.callbacks")
    keys |= {
        key: None for key in every if not key.startswith(hidden) and len({run.settings.get(key) for run in known}) > 1
    }
    rows = [[escape(key), *(escape(run.settings.get(key, "-")) for run in known)] for key in keys]
    parts = [_table("Settings", ["setting", *(escape(run.name) for run in known)], rows)]
    for run in known:
        text = f"<summary>All settings of {escape(run.name)}</summary><pre>{escape(run.config)}</pre>"
        parts.append(f"<details>{text}</details>")
    return "\n".join(parts)


# --- parts -------------------------------------------------------------------------------------------------------------


def _of_both(tag: str) -> list[tuple[str, str]]:
    """Return the tag of each role, prefixed with the role."""
    return [(role, tag.format(role=role)) for role in ROLES]


def _components(runs: Sequence[Run], role: str) -> list[tuple[str, str]]:
    return [
        (label, tag) for label, tag in _below(runs, f"{role}/reward/") if label not in ("mean", "std", "min", "max")
    ]


def _below(runs: Iterable[Run], prefix: str) -> list[tuple[str, str]]:
    """Return the tags with this prefix, each with the part after it."""
    tags = dict.fromkeys(tag for run in runs for tag in run.scalars if tag.startswith(prefix))
    return [(tag.removeprefix(prefix), tag) for tag in tags]


def _number(tag: str, value: Any, sign: str = "") -> str:
    """Return a value of this tag, a share in percent and its change in percentage points; "-" for none."""
    if value is None:
        return "-"
    if any(part in tag for part in RATES):
        return f"{100 * value:{sign}.1f} {'pp' if sign else '%'}"
    return f"{value:{sign}.4f}" if tag == "slope" else f"{value:{sign}.2f}"


def _bar(share: float | None) -> str:
    if share is None:
        return "-"
    return f'<span class="bar" style="--share: {100 * share:.0f}%">{100 * share:.0f} %</span>'


def _table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]], tall: bool = False) -> str:
    """Return a table with cells of HTML, which scrolls by itself if it is too wide for the page."""
    if not rows:
        return ""
    body = "\n".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    return (
        f'<div class="scroll{" tall" if tall else ""}" role="region" tabindex="0" aria-label="{escape(name)}">\n'
        f"<table><thead><tr>{titles}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = verb_parser("report", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page")
    parser.add_argument(
        "--cross-play", type=Path, metavar="FILE", help="cross_play.json of cahl-pl cross-play, to show too"
    )
    options = parser.parse_args(arguments)
    content = page(read_runs(options.runs), section(options.cross_play)).encode("utf-8", "replace")
    try:
        options.out.write_bytes(content)
    except OSError as error:
        raise RunError(f"{options.out} cannot be written ({error.strerror}): give another --out") from None
    print(f"written: {options.out} ({len(content) / 1000:.0f} KB)")
