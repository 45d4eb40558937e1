"""`make picture`: the dashboard as `template.yaml` defines it, drawn with the figures of a demo run.

CloudWatch's periods are minutes and hours, and a demo run is over in one or two minutes: here each period is a few
seconds. What the emulator doesn't measure is left empty and says so.
"""

import argparse
import contextlib
import io
import json
import re
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from rich.console import Console

from local.cloudwatch import Figures, Line, Metric, Series
from local.demo import staged, verdict
from local.stack import REGION, ROOT, Deployment, add_ports, run_command
from local.template import resolved, template

PICTURE = ROOT / "docs" / "dashboard.png"
PERIOD_S = 3
SAMPLE_S = 0.5
QUEUES = {"ResultQueue": "ResultQueueUrl", "ParkedQueue": "ParkedQueueUrl", "DeadLetterQueue": "DeadLetterQueueUrl"}
DEPTHS = {"": "Visible", "NotVisible": "NotVisible", "Delayed": "Delayed"}  # in SQS's words → in CloudWatch's
REPORT = re.compile(r"REPORT RequestId: \S+\s+Duration: ([\d.]+) ms")
UNIT_IN = (0.62, 0.44)  # a cell of the dashboard's grid, in inches
ALARM_COLOR, FRAME, FAINT = "#d62728", "#d5dbdb", "#687078"
ROWS = 11
COLORS = 128  # in the file: enough for lines and letters, at a third of the size


def main() -> int:
    """Parse the options and draw."""
    parser = argparse.ArgumentParser(prog="python -m local.dashboard", description="Draws the dashboard.")
    parser.add_argument("--results", type=int, default=400, help="how many the demo run sends (default %(default)s)")
    parser.add_argument("--output", type=Path, default=PICTURE, help="the picture (default %(default)s)")
    add_ports(parser)
    options = parser.parse_args()
    return run_command(lambda: picture(options))


def picture(options: argparse.Namespace) -> int:
    """Run the demo, watch it, and draw what the dashboard would have shown; return the exit code."""
    console = Console(highlight=False, markup=False)
    figures = Figures()
    with staged(options, console) as run:
        with sampled(run.deployment, figures):
            run.play()
        run.say("reading the log")
        figures.add_log(run.deployment.raw_log())
        add_log_group(run.deployment, figures)
        log, began, ended, name = run.deployment.log(), run.sent_at, time.time(), run.deployment.name
        faults = run.show()
        run.say("ending the emulator and the endpoint")
    if code := verdict(faults, console):
        return code
    Canvas(name, figures, log, began, ended).draw(options.output)
    size_kb = options.output.stat().st_size / 1000
    console.print(f"Drawn: {options.output} ({size_kb:.0f} kB)", soft_wrap=True)
    return 0


# ---- figures that are AWS's own, as far as the emulator has them ----


@contextlib.contextmanager
def sampled(deployment: Deployment, figures: Figures) -> Iterator[None]:
    """Note the queues' depths for the length of a `with` block, as SQS reports them to CloudWatch."""
    urls = {queue: deployment.outputs[output] for queue, output in QUEUES.items()}
    over, sqs = threading.Event(), deployment.sqs

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            for queue, url in urls.items():
                attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
                for attribute, name in DEPTHS.items():
                    whose = {"QueueName": f"{queue}.QueueName"}
                    metric = Metric.of("AWS/SQS", f"ApproximateNumberOfMessages{name}", whose)
                    figures.add(metric, time.time(), int(attributes[f"ApproximateNumberOfMessages{attribute}"]))

    thread = threading.Thread(target=sample, name="sampling")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def add_log_group(deployment: Deployment, figures: Figures) -> None:
    """Note what the function's log says of its invocations, and how long it is."""
    pages = deployment.stack.client("logs").get_paginator("filter_log_events")
    spans = []
    for page in pages.paginate(logGroupName=deployment.outputs["LogGroupName"]):
        for event in page["events"]:
            ended = event["timestamp"] / 1000
            size = len(event["message"].encode())
            figures.add(Metric.of("AWS/Logs", "IncomingBytes", {"LogGroupName": "RelayLogGroup"}), ended, size)
            spans += [(ended - float(ms) / 1000, ended) for ms in REPORT.findall(event["message"])]
    for began, ended in spans:
        side_by_side = sum(other[0] <= began < other[1] for other in spans)
        values = {"Invocations": 1, "Duration": (ended - began) * 1000, "ConcurrentExecutions": side_by_side}
        for name, value in values.items():
            figures.add(Metric.of("AWS/Lambda", name, {"FunctionName": "RelayFunction"}), began, value)


# ---- drawing ----


class Canvas:
    """Draws the dashboard of a stack with what was observed between two moments (seconds since the epoch)."""

    def __init__(
        self, stack_name: str, figures: Figures, log: Sequence[dict[str, Any]], began: float, ended: float
    ) -> None:
        whole = template()
        known = {"AWS::StackName": stack_name, "AWS::Region": REGION}
        known["RunbookUrl"] = whole["Parameters"]["RunbookUrl"]["Default"]
        body = whole["Resources"]["Dashboard"]["Properties"]["DashboardBody"]
        self.widgets: list[dict[str, Any]] = json.loads(resolved(body, known, whole["Mappings"]))["widgets"]
        self.figures, self.log, self.began, self.ended = figures, log, began, ended
        self.columns = 24
        self.rows = 1 + max(widget["y"] + widget["height"] for widget in self.widgets)  # one for the caption
        self.figure = Figure((self.columns * UNIT_IN[0], self.rows * UNIT_IN[1]), facecolor="#f2f3f3")

    def draw(self, path: Path) -> None:
        """Draw all widgets into a file."""
        caption = (
            f"Drawn from the definition in template.yaml with the figures of `make demo`; each period is {PERIOD_S} s "
            "here, in place of 5 minutes to an hour. AWS's own metrics are shown as far as the emulator has them."
        )
        self.figure.text(0.5, 0.35 / self.rows, caption, ha="center", va="center", fontsize=7.5, color=FAINT)
        for widget in self.widgets:
            left, top = widget["x"] / self.columns, 1 - widget["y"] / self.rows
            width, height = widget["width"] / self.columns, widget["height"] / self.rows
            self._frame(left, top - height, width, height)
            title = widget["properties"].get("title", "")
            self._text(left, top, (0.25, 0.55), title, fontsize=8.5, weight="bold")
            draw: dict[str, Callable[..., None]] = {
                "text": self._prose,
                "alarm": self._alarms,
                "metric": self._graph,
                "log": self._table,
            }
            draw[widget["type"]](widget["properties"], left, top, width, height)
        whole = io.BytesIO()
        self.figure.savefig(whole, dpi=100)
        Image.open(whole).convert("RGB").quantize(COLORS, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)

    def _frame(self, left: float, bottom: float, width: float, height: float) -> None:
        gap = 0.1 / self.columns
        self.figure.add_artist(
            Rectangle(
                (left + gap, bottom + gap), width - 2 * gap, height - 2 * gap, fc="white", ec=FRAME, lw=0.8, zorder=-1
            )
        )

    def _text(self, left: float, top: float, cells: tuple[float, float], text: str, **looks: Any) -> None:
        """Write text some cells right of and below a corner."""
        self.figure.text(left + cells[0] / self.columns, top - cells[1] / self.rows, text, va="center", **looks)

    def _prose(self, properties: Mapping[str, Any], left: float, top: float, *_size: float) -> None:
        paragraphs = properties["markdown"].replace("**", "").split("\n\n")
        for row, paragraph in enumerate(paragraphs):
            self._text(left, top, (0.25, 0.6 + 0.8 * row), textwrap.shorten(paragraph, 400), fontsize=7.5)

    def _alarms(self, properties: Mapping[str, Any], left: float, top: float, width: float, _height: float) -> None:
        across = 4
        for place, arn in enumerate(properties["alarms"]):
            name = re.sub(r"(?<!^)(?=[A-Z])", "-", arn.removesuffix("Alarm.Arn")).lower()
            x = left + (0.25 + place % across * 5.9) / self.columns
            y = top - (1.85 + place // across * 0.95) / self.rows
            box = Rectangle((x, y), 5.7 / self.columns, 0.75 / self.rows, fc="#eaeded", ec=FRAME)
            self.figure.add_artist(box)
            self.figure.text(x + 0.15 / self.columns, y + 0.36 / self.rows, name, va="center", fontsize=7.5)
        note = "the emulator evaluates no alarms: all grey"
        self.figure.text(
            left + width - 0.3 / self.columns,
            top - 0.55 / self.rows,
            note,
            ha="right",
            va="center",
            fontsize=7,
            color=FAINT,
        )

    def _graph(self, properties: Mapping[str, Any], left: float, top: float, width: float, height: float) -> None:
        pad = 1.0 / self.columns
        axes = self.figure.add_axes(
            (left + pad, top - height + 1.75 / self.rows, width - 2 * pad, height - 2.9 / self.rows)
        )
        shown = self.figures.widget(properties, PERIOD_S)
        sides = {False: axes}
        if "right" in properties["yAxis"]:
            sides[True] = axes.twinx()
        colors = iter(["#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22"] * 3)
        handles = []
        floor: dict[float, float] = {}
        for line, series in shown:
            color = line.color or next(colors)
            times, values = [at - self.began for at in series], list(series.values())
            if properties["stacked"]:
                handles.append(self._stack(axes, series, floor, color))
            else:
                handles += sides[line.right].plot(times, values, color=color, lw=1.2, marker=".", ms=3)
        self._label(sides, properties, shown, handles)

    def _stack(self, axes: Axes, series: Series, floor: dict[float, float], color: str) -> Any:
        """Draw an area above those drawn before, whose upper edge `floor` holds."""
        first, last = self._periods()
        times = [first + n * PERIOD_S for n in range(round((last - first) / PERIOD_S) + 1)]
        lower = [floor.get(at, 0.0) for at in times]
        upper = [low + series.get(at, 0.0) for low, at in zip(lower, times, strict=True)]
        floor.update(zip(times, upper, strict=True))
        return axes.fill_between([at - self.began for at in times], lower, upper, color=color, lw=0.5, alpha=0.8)

    def _periods(self) -> tuple[float, float]:
        return self.began // PERIOD_S * PERIOD_S, self.ended // PERIOD_S * PERIOD_S

    def _label(
        self,
        sides: Mapping[bool, Axes],
        properties: Mapping[str, Any],
        shown: Sequence[tuple[Line, Series]],
        handles: Sequence[Any],
    ) -> None:
        axes = sides[False]
        for right, one in sides.items():
            one.set_ylabel(properties["yAxis"]["right" if right else "left"]["label"], fontsize=6.5, color=FAINT)
            one.set_ylim(bottom=0)
            if not any(value for line, series in shown if line.right == right for value in series.values()):
                one.set_ylim(0, 1.1)
            one.tick_params(labelsize=6.5, colors=FAINT, length=2)
            for spine in one.spines.values():
                spine.set_color(FRAME)
        axes.set_xlim(0, self.ended - self.began)
        axes.xaxis.set_major_formatter(lambda seconds, _: f"{int(seconds) // 60}:{int(seconds) % 60:02}")
        axes.grid(axis="y", color=FRAME, lw=0.5)
        empty = "" if any(series for _, series in shown) else "no data in the emulator"
        axes.set_title(empty, y=0.5, fontsize=8, color=FAINT)
        labels = [line.label + ("" if series else " (no data here)") for line, series in shown]
        axes.legend(
            handles,
            labels,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.13),
            ncols=3 if len(labels) > 4 else 2,
            fontsize=6.3,
            frameon=False,
            columnspacing=1,
            handlelength=1.2,
            labelspacing=0.2,
        )
        for one in properties.get("annotations", {}).get("horizontal", ()):
            self._annotate(axes, one["label"], one["value"])

    def _annotate(self, axes: Axes, label: str, value: float) -> None:
        """Draw an alarm's line; if it is far above what was observed, say so instead."""
        top = axes.get_ylim()[1]
        far = value > 2 * top
        at = top * (0.94 - 0.1 * len(axes.texts)) if far else value
        if not far:
            axes.axhline(value, color=ALARM_COLOR, lw=1, ls="--")
            axes.set_ylim(top=max(top, value * 1.15))
        axes.annotate(
            f"↑ {label}: {value:g}" if far else label,
            (0.01, at),
            xycoords=axes.get_yaxis_transform(),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=6,
            color=ALARM_COLOR,
        )

    def _table(self, properties: Mapping[str, Any], left: float, top: float, *_size: float) -> None:
        query = properties["query"]
        (message,), (fields,) = (re.findall(f"{word}([^|']+)", query) for word in ("message = '", r"\| fields "))
        names = [name.strip() for name in fields.split(",")]
        lines = [line for line in reversed(self.log) if line.get("message") == message][:ROWS]
        shown = [{**line, "@timestamp": line["timestamp"][11:19], "uuid": line.get("uuid", "")[-8:]} for line in lines]
        columns = zip(names, (0.25, 1.2, 2.1, 3.5), (10, 8, 17, 52), strict=True)
        for name, start, cut in columns:
            for row, line in enumerate([dict(zip(names, names, strict=True)), *shown]):
                text = str(line.get(name, ""))[:cut]
                self._text(left, top, (start, 1.15 + 0.4 * row), text, fontsize=6, family="monospace")


if __name__ == "__main__":
    sys.exit(main())
