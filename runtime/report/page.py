"""The HTML of a report: one page for each table, and an index page for several. No page needs another file."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata

import numpy as np

from canthus.runtime.report.charts import Series, clock, line_chart, timeline
from canthus.runtime.report.figures import Figures, Overview

STYLE = """
:root { color-scheme: light dark; --text: #1f2933; --soft: #64748b; --line: #d9e0e8; --card: #f5f7fa; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e5e9f0; --soft: #9aa7b8; --line: #333c48; --card: #1c232c; --page: #12171d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem; color: var(--text); background: var(--page);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p.about, footer { color: var(--soft); overflow-wrap: anywhere; margin: .2rem 0 1rem; }
.cards { display: flex; flex-wrap: wrap; gap: .6rem; }
.cards div { background: var(--card); border-radius: .5rem; padding: .5rem .9rem; min-width: 7.5rem; }
.cards b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; } .cards span { color: var(--soft); }
figure { margin: 1rem 0; } figcaption { font-weight: 600; } small { color: var(--soft); font-weight: 400; }
small span { margin-left: .8rem; } small i { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin-right: .3em; }
svg { width: 100%; height: auto; display: block; background: var(--card); border-radius: .5rem; }
svg text { font-size: 11px; fill: var(--soft); } svg .grid { stroke: var(--line); }
svg polyline { fill: none; stroke-width: 1.5; stroke-linejoin: round; } svg .lost { fill: #ef4444; opacity: .18; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th.f { min-width: 14rem; } th.n, td.n { text-align: right; white-space: nowrap; }
.faces { display: flex; flex-wrap: wrap; gap: .6rem; } .faces figure { margin: 0; width: 200px; }
.faces img { width: 100%; border-radius: .5rem; display: block; } .faces figcaption { font-weight: 400; }
a { color: inherit; } footer { margin-top: 2rem; font-size: .85rem; } td:has(.bar) { white-space: nowrap; }
.bar { display: inline-block; width: 6rem; height: .6rem; border-radius: .3rem; background: var(--line); }
.bar i { display: block; height: 100%; border-radius: .3rem; background: #10b981; }
.bar i.low { background: #ef4444; } .bar i.middle { background: #eab308; }
"""

NOTES = (
    "Coverage: share of the frames with a face. Span without a face: from the last frame with one to the next. "
    "Score: mean probability that a point is accurate. Jitter: mean distance of the points from the middle between "
    "the frames before and after, in % of the distance of the outer eye corners; fast motion counts too."
)

CHARTS = (
    ("Head pose", "degrees", ("pose_yaw", "pose_pitch", "pose_roll")),
    ("Eye opening", "", ("eye_open_left", "eye_open_right")),
    ("Mouth and smile", "", ("mouth_open", "smile")),
    ("Brows", "", ("brow_raise_left", "brow_raise_right", "brow_frown")),
)
"""Charts of measures: title, unit and columns."""

MAX_LINES = 6
"""Faces with a line in a chart: those with most frames."""

MAX_ROWS = 200
"""Rows of a list on a page; the others are counted."""


def table_page(figures: Figures, thumbnails: Mapping[int, str], title: str) -> str:
    """Return the page of one table. `thumbnails` are images of some rows as data URLs."""
    body = [f"<h1>{_text(title)}</h1>", _about(figures), _cards(figures)]
    if figures.is_video:
        tracks = [(track.id, track.places, track.seconds) for track in figures.tracks]
        body.append(timeline(tracks, [(span.start, span.end) for span in figures.lost], figures.overview.duration))
        body += _charts(figures)
    body += [_worst(figures, thumbnails), _faces(figures), _lost(figures), _without_faces(figures)]
    return _page(title, body)


def index_page(title: str, rows: Sequence[tuple[Overview, str]], failed: Sequence[tuple[str, str]]) -> str:
    """Return the page that links to the pages of several tables.

    rows: an overview of each table, and the address of its page. failed: names and messages of files of a batch.
    """
    frames = sum(one.count for one, _ in rows)
    with_faces = sum(one.with_faces for one, _ in rows)
    cards = [
        ("tables", f"{len(rows)}"),
        ("frames", f"{frames:,}"),
        ("duration", clock(sum(one.duration for one, _ in rows))),
        ("coverage", f"{100 * with_faces / frames:.1f} %" if frames else "-"),
        ("failed files", f"{len(failed)}"),
    ]
    lines = [
        f'<tr><td><a href="{_text(link)}">{_text(one.name)}</a></td>'
        f'<td class="n">{clock(one.duration) if one.duration else "-"}</td>'
        f'<td class="n">{one.count:,}</td><td>{_bar(one.coverage)}</td>'
        f'<td class="n">{one.faces or "-"}</td><td class="n">{one.lost_spans}</td>'
        f'<td class="n">{_number(one.mean_score, 2)}</td>'
        f'<td class="n">{_number(one.median_jitter, 3)}</td></tr>'
        for one, link in rows
    ]
    body = [
        f"<h1>{_text(title)}</h1>",
        _card_row(cards),
        "<h2>Tables</h2><table><tr><th>table<th class=n>duration<th class=n>frames<th>coverage<th class=n>faces"
        f"<th class=n>spans without<th class=n>score<th class=n>jitter %</tr>{''.join(lines)}</table>",
    ]
    if failed:
        cells = "".join(f"<tr><td>{_text(name)}<td>{_text(message)}</tr>" for name, message in failed[:MAX_ROWS])
        body.append(f"<h2>Failed</h2><table><tr><th class=f>file<th>message</tr>{cells}</table>")
    return _page(title, body)


def _page(title: str, body: Sequence[str]) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>\n{chr(10).join(part for part in body if part)}\n"
        f"<footer>canthus {metadata.version('canthus')}. {NOTES}</footer></body></html>\n"
    )


def _text(value: str) -> str:
    """Return a text for HTML. Names of files need not be valid Unicode."""
    return escape(value.encode("utf-8", "replace").decode())


def _about(figures: Figures) -> str:
    metadata_of = figures.table.metadata
    model, settings = metadata_of.get("model"), metadata_of.get("settings")
    parts = [figures.source] if figures.source else []
    if isinstance(model, dict):
        parts.append(" ".join(str(model[key]) for key in ("file", "backend") if key in model))
    if isinstance(settings, dict):
        parts.append(f"max_faces {settings.get('max_faces')}")
    return f'<p class="about">{_text(" · ".join(parts))}</p>' if parts else ""


def _card_row(cards: Sequence[tuple[str, str]]) -> str:
    inner = "".join(f"<div><b>{_text(value)}</b><span>{_text(name)}</span></div>" for name, value in cards)
    return f'<div class="cards">{inner}</div>'


def _cards(figures: Figures) -> str:
    one = figures.overview
    cards = [
        ("frames" if figures.is_video else "images", f"{one.count:,}"),
        ("coverage", f"{100 * one.coverage:.1f} %"),
    ]
    if figures.is_video:
        lost = sum(span.end - span.start for span in figures.lost)
        cards.insert(1, ("duration", clock(one.duration)))
        cards.append(("faces (ids)", f"{one.faces}"))
        cards.append(("spans without", f"{one.lost_spans}" + (f", {lost:.1f} s" if figures.lost else "")))
        cards.append(("jitter, median", f"{_number(one.median_jitter, 3)} %"))
    cards.append(("score, mean", _number(one.mean_score, 2)))
    return _card_row(cards)


def _charts(figures: Figures) -> list[str]:
    colors = {track.id: place for place, track in enumerate(figures.tracks)}  # as in the timeline
    longest = sorted(figures.tracks, key=lambda track: -len(track.rows))[:MAX_LINES]

    def chart(title: str, unit: str, values: Mapping[int, np.ndarray]) -> str:
        series = [
            Series(f"face {track.id}", track.seconds, values[track.id], colors[track.id])
            for track in sorted(longest, key=lambda track: track.id)
        ]
        return line_chart(title, series, figures.overview.duration, unit)

    charts = [
        chart("Score", "", {track.id: track.scores for track in longest}),
        chart("Jitter", "% of the inter-ocular distance", {track.id: track.jitter for track in longest}),
    ]
    measures = figures.table.measures
    for title, unit, names in CHARTS if measures and longest else ():
        track = longest[0]
        series = [
            Series(name, track.seconds, measures[name][track.rows], place)
            for place, name in enumerate(names)
            if name in measures
        ]
        charts.append(line_chart(f"{title} of face {track.id}", series, figures.overview.duration, unit))
    return charts


def _worst(figures: Figures, thumbnails: Mapping[int, str]) -> str:
    """Return the images of the worst frames, or their list if the source cannot be read."""
    if not figures.worst:
        return ""
    parts = []
    for row in figures.worst:
        where, score = _place(figures, row), _number(float(figures.table.face_score[row]), 2)
        image = f'<img src="{thumbnails[row]}" alt="">' if row in thumbnails else ""
        parts.append(f"<figure>{image}<figcaption>{_text(where)}<br><small>score {score}</small></figcaption></figure>")
    note = "" if thumbnails else " <small>without images: the source was not found</small>"
    return f'<h2>Lowest scores{note}</h2><div class="faces">{"".join(parts)}</div>'


def _place(figures: Figures, row: int) -> str:
    table = figures.table
    if not figures.is_video:
        return table.names[int(table.records["picture"][row])]
    return f"{clock(float(table.seconds[row]))}, frame {int(table.frame[row])}, face {int(table.face[row])}"


def _faces(figures: Figures) -> str:
    if not figures.tracks:
        return ""
    lines = [
        f'<tr><td class="n">{track.id}<td class="n">{clock(float(track.seconds[0]))}'
        f'<td class="n">{clock(float(track.seconds[-1]))}<td class="n">{len(track.rows):,}'
        f'<td class="n">{_number(float(track.scores.mean()), 2)}<td class="n">{_number(track.median_jitter, 3)}</tr>'
        for track in figures.tracks[:MAX_ROWS]
    ]
    head = "".join(f"<th class=n>{name}" for name in ("id", "from", "to", "frames", "score", "jitter %"))
    return f"<h2>Faces</h2><table><tr>{head}</tr>{''.join(lines)}</table>{_more(len(figures.tracks))}"


def _lost(figures: Figures) -> str:
    if not figures.lost:
        return ""
    spans = [(clock(span.start), clock(span.end), span.end - span.start) for span in figures.lost[:MAX_ROWS]]
    lines = [
        f'<tr><td class="n">{start}<td class="n">{end}<td class="n">{length:.2f} s</tr>' for start, end, length in spans
    ]
    head = "<th class=n>last face<th class=n>next face<th class=n>without"
    return f"<h2>Spans without a face</h2><table><tr>{head}</tr>{''.join(lines)}</table>{_more(len(figures.lost))}"


def _without_faces(figures: Figures) -> str:
    """Return the names of the images without a face."""
    table = figures.table
    if figures.is_video or not len(table):
        return ""
    names = [table.names[int(index)] for index in table.records["picture"][table.face < 0]]
    if not names:
        return ""
    lines = "".join(f"<tr><td>{_text(name)}</tr>" for name in names[:MAX_ROWS])
    return f"<h2>Images without a face</h2><table>{lines}</table>{_more(len(names))}"


def _more(count: int) -> str:
    return f"<p class=about>and {count - MAX_ROWS:,} more</p>" if count > MAX_ROWS else ""


def _bar(share: float) -> str:
    kind = "low" if share < 0.5 else "middle" if share < 0.9 else ""
    return f'<span class="bar"><i class="{kind}" style="width:{100 * share:.0f}%"></i></span> {100 * share:.1f} %'


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
