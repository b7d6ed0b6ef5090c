"""The curves of a run over its epochs, as PNGs."""

import io
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Log = Sequence[dict[str, float]]
_COLORS = ("#2563eb", "#c2410c", "#15803d", "#7e22ce", "#0e7490", "#a16207")
_PANELS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "loss": ("loss", lambda name: "loss" in name),
    "accuracy": ("accuracy of the classifier, %", lambda name: "accuracy" in name),
    "mAP": ("mAP and rank-1, %", lambda name: name.endswith(("mAP", "rank1"))),
    "learning_rate": ("learning rate", lambda name: name == "learning_rate"),
    "images_per_s": ("images per second", lambda name: name == "images_per_s"),
}


def draw_curves(log: Log, metrics: dict[str, float]) -> dict[str, bytes]:
    """Draw a run's curves as PNGs: loss, accuracy, mAP, learning_rate and images_per_s.

    A curve is left out if the log lacks its values. The panel mAP also shows the test metrics of the finished
    network, as points at the last epoch.

    Args:
        log: the values of each epoch, as `read_log` returns them.
        metrics: the test metrics of the finished network, in percent.

    Returns:
        The PNGs by the name of the panel.

    >>> sorted(draw_curves([{"epoch": 1, "loss": 2.5}], {"mAP": 71.0}))
    ['loss', 'mAP']
    """
    epochs = [line["epoch"] for line in log]
    curves = {}
    for panel, (title, belongs) in _PANELS.items():
        names = dict.fromkeys(name for line in log for name in line if belongs(name))
        finals = {name: metrics[name] for name in metrics if panel == "mAP" and name in ("mAP", "rank1")}
        if names or finals:
            values = {name: [line.get(name, float("nan")) for line in log] for name in names}
            curves[panel] = _draw(title, epochs, values, finals)
    return curves


def _draw(
    title: str, epochs: Sequence[float], curves: dict[str, list[float]], finals: dict[str, float]
) -> bytes:
    figure = Figure(figsize=(5.6, 3.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for color, (name, values) in zip(_COLORS, curves.items(), strict=False):
        known = [point for point in zip(epochs, values, strict=True) if point[1] == point[1]]
        marker = "o" if len(known) <= 30 else ""
        axes.plot(*zip(*known, strict=True), color=color, marker=marker, markersize=3, label=name)
    for color, (name, value) in zip(reversed(_COLORS), finals.items(), strict=False):
        label = f"test {name} of the finished network: {value:.2f}"
        axes.plot([max(epochs, default=0)], [value], "D", color=color, markersize=6, label=label)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(min(epochs, default=0) - 0.5, max(epochs, default=0) + 0.5)
    if finals:
        axes.set_ylim(0, 105)
    axes.grid(color="#e5e7eb")
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) + len(finals) > 1:
        axes.legend(frameon=False, fontsize=8)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
