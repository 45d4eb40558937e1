"""The report of a proof: one page for a browser, which loads nothing from elsewhere."""

from collections.abc import Sequence
from html import escape

from plotly.subplots import make_subplots

from ops import logs
from ops.output import timestamp
from sandbox.judge import Verdict
from sandbox.prove import Proof

COLOURS = {"sent": "#6b7280", "accepted": "#15803d", "deferred": "#d97706"}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #111827; max-width: 60rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem; line-height: 1.25; padding-left: .75rem; border-left: .5rem solid #15803d }
h1.bad { border-color: #b91c1c } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem } table { border-collapse: collapse }
td, th { padding: .25rem 1rem .25rem 0; text-align: left; vertical-align: top } td { overflow-wrap: anywhere }
"""


def page(proof: Proof, verdict: Verdict) -> str:
    """Return the page: the verdict first, then what it rests on."""
    says = escape(verdict.sentence)
    got = f"{len(proof.sent)} made-up results for {proof.sandbox.label}"
    facts = f"{timestamp(proof.began)}: {proof.stack.label} got {got}."
    parts = (
        f"<h1 class={'bad' if verdict.deviations else 'good'}>{says}</h1><p>{escape(facts)}</p>",
        _table("What deviates", ("result", "what is wrong"), verdict.deviations),
        _table("What became of the results", ("expected", "sent", "as expected"), verdict.ends),
        f"<h2>Results sent, deferred and accepted in 2 s</h2>{_timeline(proof)}",
        _table("From sending to acceptance", ("phase", "p50", "p95"), verdict.latencies),
    )
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{says}</title><style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{column}</th>" for column in columns)
    lines = ["".join(f"<td>{escape(str(cell))}</td>" for cell in cells) for cells in rows]
    return f"<h2>{title}</h2><table><tr>{'</tr><tr>'.join([head, *lines])}</tr></table>" if rows else ""


def _timeline(proof: Proof) -> str:
    deferred = [line for line in logs.parsed(proof.log) if line["message"] == logs.DEFERRED]
    times = {
        "sent": [one.at for one in proof.sent],
        "deferred": [logs.at_of(line) for line in deferred if proof.run in str(line.get("uuid"))],
        "accepted": [at for times in proof.accepted.values() for at in times],
    }
    figure = make_subplots(len(times), 1, shared_xaxes=True, row_titles=[*times], vertical_spacing=0.04)
    for row, (name, found) in enumerate(times.items(), 1):
        seconds, bins = [at - proof.began for at in found], {"start": 0, "size": 2}
        figure.add_histogram(x=seconds, marker_color=COLOURS[name], xbins=bins, row=row, col=1)
    for name, (begin, end) in proof.spans.items():
        x0, x1 = begin - proof.began, end - proof.began
        figure.add_vrect(x0=x0, x1=x1, fillcolor="#b91c1c", opacity=0.15)
        figure.add_annotation(x=x1, y=1, yref="paper", text=name, textangle=-90, xanchor="left", showarrow=False)
    figure.update_xaxes(title="seconds", row=len(times))
    margin = {"l": 60, "r": 30, "t": 10, "b": 40}
    figure.update_layout(template="plotly_white", height=480, margin=margin, showlegend=False)
    config = {"displayModeBar": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=True, config=config))
