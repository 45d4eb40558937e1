"""The report of a proof: one page for a browser, which loads nothing from elsewhere."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from ops.output import timestamp
from sandbox.judge import ACCEPTED, PHASES, Verdict

if TYPE_CHECKING:
    from sandbox.prove import Proof

BIN_S = 2.0
COLOURS = {"sent": "#6b7280", "accepted": "#15803d", "deferred": "#d97706"}
PHASE_COLOURS = dict(zip(PHASES, ("#15803d", "#b91c1c", "#6d28d9"), strict=True))
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #111827; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; padding-left: .75rem; border-left: .5rem solid; }
.good { border-color: #15803d; } .bad { border-color: #b91c1c; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; } td, th { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #9ca3af; } td.n, th.n { text-align: right; } td { overflow-wrap: anywhere; }
"""


def page(proof: "Proof", verdict: Verdict) -> str:
    """Return the page: the verdict first, then what it rests on."""
    results = {one.uuid for one in proof.sent if one.end == ACCEPTED}
    facts = (
        f"{len(proof.sent)} made-up results went through the relay {proof.stack.label} to the sandbox "
        f"{proof.sandbox.label}, which answered 500 to everything for {proof.outage_s} s and got another key. "
        f"{timestamp(proof.began)}, run {proof.run}."
    )
    ends = [(end, number, good) for end, (number, good) in verdict.ends.items()]
    latencies = [(phase, f"{p50:.1f} s", f"{p95:.1f} s") for phase, (p50, p95) in verdict.latency_s.items()]
    parts = [
        f'<h1 class="{"bad" if verdict.deviations else "good"}">{escape(verdict.sentence)}</h1><p>{escape(facts)}</p>',
        _section("What deviates", _table(("result", "what is wrong"), verdict.deviations))
        if verdict.deviations
        else "",
        _section("What became of the results", _table(("expected end", "sent", "as expected"), ends)),
        _section("When", _chart(_timeline(proof), inline=True)),
        _section(
            "From sending to acceptance", _table(("phase", "p50", "p95"), latencies), _chart(_latencies(proof, results))
        ),
        _section("Documented, and seen", "".join(f"<p>{escape(note)}</p>" for note in verdict.notes))
        if verdict.notes
        else "",
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    title = f"<title>{escape(verdict.sentence)}</title><style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}{title}</head><body>{"".join(parts)}</body></html>\n'


def _section(title: str, *parts: str) -> str:
    return f"<h2>{title}</h2>{''.join(parts)}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def row(cells: Sequence[object], tag: str) -> str:
        kinds = ["" if number == 0 or len(columns) == 2 else ' class="n"' for number in range(len(cells))]
        return "".join(f"<{tag}{kind}>{escape(str(cell))}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    lines = [row(columns, "th"), *(row(cells, "td") for cells in rows)]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _timeline(proof: "Proof") -> go.Figure:
    """Draw how many results were sent, accepted and deferred over time, with the outage and the rotation."""
    figure = go.Figure()
    times = {
        "sent": [one.at for one in proof.sent],
        "deferred": [at for at, _ in proof.deferred],
        "accepted": [one.at for one in proof.accepted],
    }
    for name, all_at in times.items():
        seconds = [at - proof.began for at in all_at]
        figure.add_histogram(x=seconds, name=name, marker_color=COLOURS[name], xbins={"size": BIN_S, "start": 0})
    for number, (name, begin, end) in enumerate(proof.marks):
        figure.add_vrect(
            x0=begin - proof.began,
            x1=end - proof.began,
            fillcolor=PHASE_COLOURS[PHASES[number + 1]],
            opacity=0.12,
            line_width=0,
            annotation={"text": name, "textangle": -90, "font_size": 11},
            annotation_position="inside top left",
        )
    figure.update_layout(barmode="overlay", xaxis_title="seconds", yaxis_title=f"results in {BIN_S:.0f} s", height=360)
    figure.update_traces(opacity=0.75)
    return figure


def _latencies(proof: "Proof", results: set[str]) -> go.Figure:
    """Draw how long each plain result took, by phase."""
    first: dict[str, float] = {}
    for one in proof.accepted:
        first[one.uuid] = min(one.at, first.get(one.uuid, one.at))
    figure = go.Figure()
    for phase in PHASES:
        took = [
            first[one.uuid] - one.at
            for one in proof.sent
            if (one.phase, one.end) == (phase, ACCEPTED) and one.uuid in results & first.keys()
        ]
        figure.add_box(x=took, name=phase, marker_color=PHASE_COLOURS[phase], boxpoints="all", jitter=0.5)
    figure.update_layout(xaxis_title="seconds", showlegend=False, height=260)
    return figure


def _chart(figure: go.Figure, *, inline: bool = False) -> str:
    figure.update_layout(
        template="plotly_white",
        margin={"l": 50, "r": 10, "t": 10, "b": 40},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=inline, config={"displayModeBar": False, "responsive": True}
    )
    return html
