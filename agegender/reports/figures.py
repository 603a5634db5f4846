"""Charts in one style, rendered without a display and returned as PNG bytes.

Computes no statistics: each function draws the given numbers.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from agegender.reports.palette import COLOURS, GRID, INK

DPI = 144
WIDTH_INCHES = 5.6

FloatArray = npt.NDArray[np.floating] | Sequence[float]


def bars(
    labels: Sequence[str] | Sequence[int],
    values: FloatArray,
    *,
    x: str,
    y: str,
    highlight: Sequence[int] = (),
    wide: bool = False,
    low: FloatArray | None = None,
    high: FloatArray | None = None,
) -> bytes:
    """Bar chart over names or whole numbers such as ages.

    Args:
        labels: [N] names (one tick each) or whole numbers (a numeric axis).
        values: float[N] heights.
        x: name of the horizontal axis.
        y: name of the vertical axis.
        highlight: positions drawn in the second colour.
        wide: twice as wide as high.
        low: float[N] lower ends of the error bars; needs ``high``.
        high: float[N] upper ends.

    Returns:
        PNG bytes.
    """
    figure, axes = _axes(x, y, wide)
    colours = [COLOURS[1] if position in set(highlight) else COLOURS[0] for position in range(len(labels))]
    numeric = all(not isinstance(label, str) for label in labels)
    positions = [float(label) for label in labels] if numeric else list(range(len(labels)))
    error = None
    if low is not None and high is not None:
        middle = np.asarray(values, dtype=np.float64)
        error = np.maximum([middle - np.asarray(low), np.asarray(high) - middle], 0)
    axes.bar(
        positions, values, width=0.9 if numeric else 0.75, color=colours, yerr=error,
        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 3},
    )  # fmt: skip
    if not numeric:
        _name_ticks(axes, [str(label) for label in labels])
    return _png(figure)


def histogram(values: FloatArray, edges: FloatArray, *, x: str, y: str, wide: bool = False) -> bytes:
    """Histogram of binned counts.

    Args:
        values: float[N] counts.
        edges: float[N + 1] edges of the bins.
        x: name of the horizontal axis.
        y: name of the vertical axis.
        wide: twice as wide as high.

    Returns:
        PNG bytes.
    """
    figure, axes = _axes(x, y, wide)
    axes.stairs(np.asarray(values), np.asarray(edges), fill=True, color=COLOURS[0])
    return _png(figure)


def range_bars(low: FloatArray, high: FloatArray, values: FloatArray, *, x: str, y: str) -> bytes:
    """Bars as wide as the ranges that they stand for, wide chart; ranges may overlap, so they are translucent.

    Args:
        low: float[N] left edges.
        high: float[N] right edges.
        values: float[N] heights.
        x: name of the horizontal axis.
        y: name of the vertical axis.

    Returns:
        PNG bytes.
    """
    figure, axes = _axes(x, y, wide=True)
    widths = np.asarray(high, dtype=np.float64) - np.asarray(low, dtype=np.float64)
    axes.bar(low, values, width=widths, align="edge", color=COLOURS[0], alpha=0.6, edgecolor="white", linewidth=1)
    return _png(figure)


def stacked_bars(
    labels: Sequence[str], series: Mapping[str, FloatArray], *, x: str, y: str, wide: bool = False
) -> bytes:
    """Stacked bar chart, the first series at the bottom.

    Args:
        labels: [N] names, one tick each.
        series: name -> float[N].
        x: name of the horizontal axis.
        y: name of the vertical axis.
        wide: twice as wide as high.

    Returns:
        PNG bytes.
    """
    figure, axes = _axes(x, y, wide)
    bottom = np.zeros(len(labels))
    for index, (name, values) in enumerate(series.items()):
        axes.bar(range(len(labels)), values, bottom=bottom, width=0.75, label=name, color=COLOURS[index % len(COLOURS)])
        bottom = bottom + np.asarray(values, dtype=np.float64)
    _name_ticks(axes, labels)
    _legend(axes)
    return _png(figure)


def lines(
    series: Mapping[str, tuple[FloatArray, FloatArray]],
    *,
    x: str,
    y: str,
    wide: bool = False,
    zero_based: bool = False,
    markers: bool = False,
) -> bytes:
    """Line chart, e.g. of training.

    Args:
        series: name -> (float[N] horizontal, float[N] vertical); NaN leaves a gap.
        x: name of the horizontal axis.
        y: name of the vertical axis.
        wide: twice as wide as high.
        zero_based: start the vertical axis at 0.
        markers: mark each value.

    Returns:
        PNG bytes.
    """
    figure, axes = _axes(x, y, wide)
    for index, (name, (across, up)) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(across, up, label=name, color=colour, linewidth=1.8, marker="o" if markers else None, markersize=3.5)
    if zero_based:
        axes.set_ylim(bottom=0)
    if len(series) > 1:
        _legend(axes)
    return _png(figure)


def scatter(
    across: FloatArray, up: FloatArray, *, x: str, y: str, diagonal: bool = False, limit: float | None = None
) -> bytes:
    """Scatter plot; hexagonal bins if there are many points.

    Args:
        across: float[N].
        up: float[N].
        x: name of the horizontal axis.
        y: name of the vertical axis.
        diagonal: draw the identity line on a square plot.
        limit: upper limit of both axes, which start at 0.

    Returns:
        PNG bytes.
    """
    figure, axes = _axes(x, y, square=diagonal)
    if len(across) > 1500:
        axes.hexbin(across, up, gridsize=48, cmap="YlGnBu", mincnt=1, bins="log", linewidths=0)
    else:
        axes.scatter(across, up, s=10, color=COLOURS[0], alpha=0.45, linewidths=0)
    if limit is not None:
        axes.set_xlim(0, limit)
        axes.set_ylim(0, limit)
    if diagonal:
        axes.axline((0, 0), slope=1, color=INK, linewidth=1, linestyle="--")
    return _png(figure)


def heatmap(
    values: npt.NDArray[np.floating] | npt.NDArray[np.integer],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    x: str,
    y: str,
    number_format: str = "{:,.0f}",
    shade: npt.NDArray[np.floating] | None = None,
) -> bytes:
    """Heatmap with numbers, e.g. a confusion matrix.

    Args:
        values: [R, C] written into the cells; NaN cells stay empty.
        rows: [R] names.
        columns: [C] names.
        x: name of the columns' axis.
        y: name of the rows' axis.
        number_format: format of a value.
        shade: float[R, C] for the colour, e.g. shares per row; default: the values.

    Returns:
        PNG bytes.
    """
    written = np.asarray(values, dtype=np.float64)
    colour = written if shade is None else np.asarray(shade, dtype=np.float64)
    figure, axes = _axes(x, y, square=True, grid=False)
    axes.imshow(colour, cmap="Blues", aspect="auto", vmin=0)
    top = np.nanmax(colour, initial=0.0)
    for (row, column), value in np.ndenumerate(written):
        if np.isfinite(value):
            dark = top > 0 and colour[row, column] > 0.6 * top
            axes.text(
                column, row, number_format.format(value), ha="center", va="center", fontsize=7,
                color="white" if dark else INK,
            )  # fmt: skip
    _name_ticks(axes, columns)
    axes.set_yticks(range(len(rows)), rows)
    return _png(figure)


def reliability(
    stated: FloatArray, observed: FloatArray, counts: FloatArray, *, x: str, y: str, ideal: bool = True
) -> bytes:
    """Reliability diagram: observed share against predicted probability, dot area proportional to samples.

    Args:
        stated: float[N] mean predicted probability per bin, 0-1; NaN in empty bins.
        observed: float[N] observed share per bin, 0-1.
        counts: float[N] samples per bin.
        x: name of the horizontal axis.
        y: name of the vertical axis.
        ideal: draw the identity line.

    Returns:
        PNG bytes.
    """
    figure, axes = _axes(x, y, square=True)
    weights = np.asarray(counts, dtype=np.float64)
    sizes = 20 + 260 * weights / max(float(weights.max(initial=0.0)), 1.0)
    if ideal:
        axes.axline((0, 0), slope=1, color=INK, linewidth=1, linestyle="--")
    axes.plot(stated, observed, color=COLOURS[0], linewidth=1.2)
    axes.scatter(stated, observed, s=sizes, color=COLOURS[0], alpha=0.75, linewidths=0, zorder=3)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    return _png(figure)


def _axes(x: str, y: str, wide: bool = False, *, square: bool = False, grid: bool = True) -> tuple[Figure, Axes]:
    height = 4.8 if square else 3.3
    figure = Figure(figsize=(WIDTH_INCHES * (1.6 if wide else 1), height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    if grid:
        axes.grid(axis="both" if square else "y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    return figure, axes


def _name_ticks(axes: Axes, names: Sequence[str]) -> None:
    rotate = sum(map(len, names)) > 60
    axes.set_xticks(range(len(names)), names, rotation=40 if rotate else 0, ha="right" if rotate else "center")


def _legend(axes: Axes) -> None:
    axes.legend(
        frameon=False, fontsize=9, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without metadata the output is deterministic.
    figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
