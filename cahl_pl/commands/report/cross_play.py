"""Matrix of cahl-pl cross-play as a section of the page: success of each planner with each executor."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from cahl_pl.commands.report.data import RunError
from cahl_pl.plurals import counted


def section(path: Path | None) -> str:
    """Return the section, or "" if there is no file to show.

    Args:
        path: `cross_play.json`, or the folder that holds it.

    Raises:
        RunError: the file is missing or was not written by cahl-pl cross-play.
    """
    if path is None:
        return ""
    names, success, caption = _read(path / "cross_play.json" if path.is_dir() else path)
    best = max(success.values()) or 1.0
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for planner in names:
        values = [success[f"{planner} {executor}"] for executor in names]
        cells = "".join(f'<td style="--heat: {100 * value / best:.0f}%">{100 * value:.1f}</td>' for value in values)
        rows.append(f'<tr><th scope="row">{escape(planner)}</th>{cells}</tr>')
    return f"""<section id="alignment" aria-labelledby="alignment-title">
<h2 id="alignment-title">Whose planner with whose executor</h2>
<p class="hint">{escape(caption)} A row is a planner, a column an executor. Where the diagonal stands out, the roles
have adapted to each other; where a row or a column does, one role carries the other.</p>
<div class="scroll" role="region" tabindex="0" aria-label="Success of each planner with each executor">
<table class="heat"><thead><tr><th scope="col">planner \\ executor</th>{head}</tr></thead>
<tbody>
{"".join(rows)}
</tbody></table></div>
</section>
"""


def _read(path: Path) -> tuple[list[str], dict[str, float], str]:
    """Return the names in order, success in [0, 1] by "planner executor", and what was played."""
    advice = "give the cross_play.json of cahl-pl cross-play"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = content.get("names") or ["start", *(Path(name).stem for name in content["checkpoints"])]
        success = {pair: float(content["success"][pair]) for pair in (f"{a} {b}" for a in names for b in names)}
        caption = (
            f"Success in percent of greedy episodes, {counted(int(content['tasks']), 'task')} of {content['test_set']}."
        )
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): {advice}") from None
    except KeyError as error:
        raise RunError(
            f"{path} lacks {error}: {advice}; where it was cut off, start it again to play the rest"
        ) from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise RunError(f"{path} has another form: {advice}") from None
    if not all(0 <= value <= 1 for value in success.values()):
        raise RunError(f"{path} holds a success outside 0 to 1: {advice}")
    return names, success, caption
