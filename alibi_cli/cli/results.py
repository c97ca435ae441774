"""The tables of alibi eval."""

from typing import TYPE_CHECKING

from alibi_cli.cli import output

if TYPE_CHECKING:
    from alibi_cli.evaluation.results import Contrast, Results, Row


def print_results(results: "Results") -> None:
    protocol, text = results.protocol, results.text
    detail = {"fixed-target": f", K={protocol['targets']}", "sliding": f", S={protocol['stride']}"}.get(
        protocol["name"], ""
    )
    kind = "masked-token" if protocol["masked"] else "next-token"
    scored = next((row for row in results.rows if row.status == "ok"), None)
    tokens = ""
    if scored is not None and scored.scored_set_sha256:
        tokens = f"\n{scored.tokens_scored} tokens of {scored.documents_scored} documents, set {scored.scored_set_sha256[:12]}"
    title = f"{protocol['name']}{detail}: {kind} perplexity on {text['name']}, sha256 {text['sha256'][:12]}{tokens}"
    columns = ["model", "length", "perplexity", "95 % interval", "bits/byte", "tokens", "note"]
    output.print_table(title, columns, [_row(row) for row in results.rows], numeric=columns[1:-1])
    if results.contrasts:
        output.print_text("")
        columns = ["model", "length", "against", "delta NLL", "95 % interval", "verdict"]
        output.print_table(
            "Paired differences in nats per token, on the same tokens",
            columns,
            [_contrast(c) for c in results.contrasts],
            numeric=columns[3:5],
        )


def _row(row: "Row") -> list[str]:
    note = {
        "out_of_range": "beyond its position table",
        "out_of_memory": "out of memory",
        "non_finite": "NaN or Inf",
    }.get(row.status, _settings(row))
    if (first := row.first_non_finite) is not None:
        note += f", first at token {first.position} ({first.text!r}) of {first.document}"
    name = _named(row.model, row.arm)
    if row.perplexity is None:
        return [name, str(row.length), *["–"] * 4, note]
    interval = "–" if row.perplexity_ci95 is None else f"{row.perplexity_ci95[0]:.3f} – {row.perplexity_ci95[1]:.3f}"
    bits = "–" if row.bits_per_byte is None else f"{row.bits_per_byte:.4f}"
    return [name, str(row.length), f"{row.perplexity:.3f}", interval, bits, str(row.tokens_scored), note]


def _contrast(contrast: "Contrast") -> list[str]:
    if contrast.baseline == contrast.model:
        against = f"itself at {contrast.baseline_length}"
    else:
        against = _named(contrast.baseline, contrast.baseline_arm)
    interval = "–" if contrast.ci95 is None else f"{contrast.ci95[0]:+.4f} – {contrast.ci95[1]:+.4f}"
    return [
        _short(contrast.model),
        str(contrast.length),
        against,
        f"{contrast.delta_nll:+.4f}",
        interval,
        contrast.verdict,
    ]


def _settings(row: "Row") -> str:
    """What an arm does at this length."""
    if row.arm == "truncated":
        return f"the last {row.fed_length} tokens"
    found = row.arm_settings or {}
    if "factor" in found:
        return f"factor {found['factor']:g}"
    sinks = f" and the first {found['sinks']:g}" if found.get("sinks") else ""
    return f"the latest {found['window']:g} tokens{sinks}" if found else ""


def _named(model: str, arm: str) -> str:
    """As --baseline takes it."""
    return _short(model) + ("" if arm == "full" else f":{arm}")


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"…{name[-39:]}"
