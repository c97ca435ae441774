"""Pictures of a results file: perplexity by length with intervals, and NLL by the amount of context."""

from pathlib import Path

from alibi_cli.errors import AlibiError
from alibi_cli.evaluation.results import Results, Row
from alibi_cli.evaluation.statistics import Scored, by_context


def draw(path: Path, results: Results, record: dict[str, Scored]) -> None:
    """Writes a PNG, SVG or PDF, by the ending of `path`.

    Raises:
        AlibiError: nothing was scored, or the file cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator, ScalarFormatter

    arms: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        if row.status == "ok":
            arms.setdefault((row.model, row.arm), []).append(row)
    if not arms:
        raise AlibiError("There is nothing to draw: no row has a figure.")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    colours = {model: f"C{index}" for index, model in enumerate(dict.fromkeys(model for model, _ in arms))}
    for (model, arm), rows in arms.items():
        style = dict(color=colours[model], label=_label(model) + (" (cropped)" if arm == "crop" else ""))
        lengths, values = [row.length for row in rows], [row.perplexity or 0.0 for row in rows]
        left.plot(lengths, values, marker="o", linestyle="--" if arm == "crop" else "-", **style)
        bands = [row.perplexity_ci95 or (value, value) for row, value in zip(rows, values, strict=True)]
        left.fill_between(
            lengths,
            [low for low, _ in bands],
            [high for _, high in bands],
            color=colours[model],
            alpha=0.15,
            linewidth=0,
        )
        if arm == "full":
            for row in rows:
                context, nll = by_context(record[row.key])
                depth = 0.35 + 0.65 * (lengths.index(row.length) + 1) / len(lengths)
                right.plot(
                    context,
                    nll,
                    color=colours[model],
                    alpha=depth,
                    linewidth=1,
                    label=f"{_label(model)} at {row.length}",
                )
    trained = {model["trained_length"] for model in results.models if model["trained_length"]}
    ticks = sorted({row.length for rows in arms.values() for row in rows})
    left.set(
        xscale="log",
        xlabel="length (tokens)",
        ylabel="perplexity",
        title=f"{results.protocol['name']}, {results.text['name']}",
    )
    left.xaxis.set(major_locator=FixedLocator(ticks), major_formatter=ScalarFormatter(), minor_locator=NullLocator())
    if max(row.perplexity or 0 for rows in arms.values() for row in rows) > 4 * min(
        row.perplexity or 1 for rows in arms.values() for row in rows
    ):
        left.set_yscale("log")
        left.yaxis.set(major_formatter=FormatStrFormatter("%g"), minor_formatter=FormatStrFormatter("%g"))
    right.set(xlabel="tokens before the scored one", ylabel="NLL (nats)", title="NLL by position")
    for axis in (left, right):
        for length in trained:
            axis.axvline(length, color="grey", linewidth=0.8, linestyle=":")
        axis.grid(alpha=0.25)
        axis.legend(fontsize="x-small")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise AlibiError(f"Cannot write {path}: {error.strerror}.") from None
    finally:
        pyplot.close(figure)


def _label(model: str) -> str:
    """A model's name as matplotlib shows it unchanged: a $ would start a formula, a leading _ would hide it."""
    name = Path(model).name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name
