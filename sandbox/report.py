"""The report of a proof: one page for a browser, which loads nothing from elsewhere."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ops import logs
from ops.output import timestamp
from sandbox.judge import PHASES, Verdict

if TYPE_CHECKING:
    from sandbox.prove import Proof

COLOURS = {"sent": "#6b7280", "accepted": "#15803d", "deferred": "#d97706"}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #111827; max-width: 60rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem; line-height: 1.25; padding-left: .75rem; border-left: .5rem solid #15803d }
h1.bad { border-color: #b91c1c } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem } table { border-collapse: collapse }
td, th { padding: .25rem 1rem .25rem 0; text-align: left; vertical-align: top } td { overflow-wrap: anywhere }
"""


def page(proof: "Proof", verdict: Verdict) -> str:
    """Return the page: the verdict first, then what it rests on."""
    says = escape(verdict.sentence)
    facts = (
        f"{timestamp(proof.began)}: {len(proof.sent)} made-up results went through the relay {proof.stack.label} to "
        f"the sandbox {proof.sandbox.label}, which answered 500 for {proof.outage_s} s and got another key."
    )
    parts = (
        f"<h1 class={'bad' if verdict.deviations else 'good'}>{says}</h1><p>{escape(facts)}</p>",
        _table("What deviates", ("result", "what is wrong"), verdict.deviations),
        _table("What became of the results", ("expected", "sent", "as expected"), verdict.ends),
        *(f"<p>As documented: {escape(note)}.</p>" for note in verdict.notes),
        f"<h2>Results sent, deferred and accepted in 2 s</h2>{_timeline(proof)}",
        _table("From sending to acceptance", ("phase", "p50", "p95"), verdict.latencies),
        _latencies(verdict),
    )
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{says}</title><style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    def line(tag: str, cells: Iterable[object]) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"

    lines = [line("th", columns), *(line("td", cells) for cells in rows)]
    return f"<h2>{title}</h2><table>{''.join(lines)}</table>" if rows else ""


def _timeline(proof: "Proof") -> str:
    deferred = [line for line in logs.parsed(proof.log) if line["message"] == logs.DEFERRED]
    times = {
        "sent": [one.at for one in proof.sent],
        "deferred": [logs.at_of(line) for line in deferred if proof.run in str(line.get("uuid"))],
        "accepted": [one.at for one in proof.accepted],
    }
    figure = make_subplots(len(times), 1, shared_xaxes=True, row_titles=[*times], vertical_spacing=0.04)
    for row, (name, found) in enumerate(times.items(), 1):
        seconds, bins = [at - proof.began for at in found], {"start": 0, "size": 2}
        figure.add_histogram(x=seconds, marker_color=COLOURS[name], xbins=bins, row=row, col=1)
    for name, begin, end in proof.spans:
        span = {"x0": begin - proof.began, "x1": end - proof.began, "fillcolor": "#b91c1c", "opacity": 0.15}
        figure.add_vrect(**span)
        figure.add_annotation(
            x=span["x1"], y=1, yref="paper", text=name, textangle=-90, xanchor="left", showarrow=False
        )
    figure.update_xaxes(title="seconds", row=len(times))
    figure.update_yaxes(rangemode="nonnegative")
    return _chart(figure, 480, plotly_js=True)


def _latencies(verdict: Verdict) -> str:
    figure = go.Figure()
    for phase in PHASES[::-1]:
        figure.add_box(x=verdict.took_s.get(phase, ()), name=phase, boxpoints="all", marker_color="#1d4ed8")
    figure.update_xaxes(title="seconds", rangemode="tozero")
    return _chart(figure, 260, plotly_js=False)


def _chart(figure: go.Figure, height: int, *, plotly_js: bool) -> str:
    margin = {"l": 60, "r": 30, "t": 10, "b": 40}
    figure.update_layout(template="plotly_white", height=height, margin=margin, showlegend=False)
    config = {"displayModeBar": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=plotly_js, config=config))
