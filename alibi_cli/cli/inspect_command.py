"""alibi inspect: look without changing anything."""

import math
from pathlib import Path
from typing import Annotated

import typer

from alibi_cli.cli import heads_command, options, output
from alibi_cli.cli.convert_command import print_plan
from alibi_cli.cli.heat_map import HeatMap
from alibi_cli.settings.conversion import PlanSettings
from alibi_cli.settings.looking import PoliciesSettings, SlopesSettings
from alibi_cli.slopes import is_per_layer

app = typer.Typer(no_args_is_help=True, help="Look at slopes, biases, conversion plans, policies and presets.")

FORGOTTEN = 100  # a key is as good as out of sight where its weight has fallen a hundredfold


@options.takes(SlopesSettings, light=True)
def slopes(settings: SlopesSettings, json: options.Json = False) -> None:
    """Slope of every head, and how far it sees: the distance at which the bias divides a key's weight by 100.

    Slopes that differ by layer are shown as a heat map. Figures: --json.
    """
    from alibi_cli.models.slopes_of import run_inspect_slopes

    found = run_inspect_slopes(settings)
    if json:
        output.print_json(found)
        return
    if is_per_layer(found.slopes):
        output.print_text(f"{len(found.slopes)} layers of {found.n_heads} heads, {found.scheme}")
        output.print_heat_maps([HeatMap("slope m", found.slopes, "gentlest", "steepest", True)])
        output.note("Heads are named layer.head. All figures: --json.")
        return
    rows = []
    for head, slope in enumerate(found.slopes):
        distance = f"{math.log(FORGOTTEN) / slope:.1f}" if slope else "never"
        rows.append([str(head), f"{slope:.10g}", f"{math.log2(slope):.4g}" if slope else "–", distance])
    columns = ["head", "slope", "exponent", "distance to 1 %"]
    output.print_table(f"{found.n_heads} heads, {found.scheme}", columns, rows, numeric=columns)


app.command(
    name="slopes",
    epilog="Examples:\n\n  alibi inspect slopes --heads 12\n\n  alibi inspect slopes gpt2-alibi --json",
)(slopes)


@app.command(
    epilog="Examples:\n\n  alibi inspect bias --heads 8 --length 64\n\n  alibi inspect bias --heads 12 --length 512 -o bias.png"
)
def bias(
    heads: Annotated[int, typer.Option(min=1, max=256, help="Number of attention heads.")] = 8,
    length: Annotated[int, typer.Option(min=1, max=65536, help="Number of tokens.")] = 64,
    causal: Annotated[
        bool, typer.Option("--causal/--symmetric", help="Decoders see the past alone; encoders both sides.")
    ] = True,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            "--output",
            "-o",
            metavar="FILE.png",
            help="Write a picture instead of drawing in the terminal.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """A picture of the bias -m|i-j| of every head, as the share exp(bias) of a key's weight that it leaves."""
    output.check_plot(picture)
    from alibi_cli.plots.bias_plot import draw, lines

    if picture is None:
        for line in lines(heads, length, causal):
            output.print_text(line)
    else:
        draw(picture, heads, length, causal)


app.command(name="heads", epilog=heads_command.EXAMPLES)(heads_command.command)


@options.takes(PlanSettings)
def plan(settings: PlanSettings, preset: options.Preset = None, json: options.Json = False) -> None:
    """What `alibi convert` would do, the same as its --dry-run."""
    from alibi_cli.conversion.convert import run_plan

    with output.progress() as watch:
        found = run_plan(settings, watch)
    print_plan(found, json)


app.command(name="plan", epilog="Example:\n\n  alibi inspect plan gpt2")(plan)


@options.takes(PoliciesSettings)
def policies(settings: PoliciesSettings, json: options.Json = False) -> None:
    """The registered policies: which families have which, which module classes each rewrites, how, and where that is written."""
    from alibi_cli.models.policies import run_inspect_policies

    with output.progress() as watch:
        found = run_inspect_policies(settings, watch)
    if json:
        by_family: dict[str, list[dict[str, str]]] = {}
        for each in found:
            by_family.setdefault(each.family, []).append(each.model_dump())
        output.print_json(by_family)
        return
    columns = ["family", "policy", "module class", "function", "origin", "verified against"]
    package = f"{Path(__file__).parent.parent.parent}/"
    rows = [
        list(each.model_copy(update={"origin": each.origin.removeprefix(package)}).model_dump().values())
        for each in found
    ]
    output.print_table(None, columns, rows)


app.command(name="policies")(policies)


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.", show_default=False)] = None,
    json: options.Json = False,
) -> None:
    """The named settings for --preset."""
    from alibi_cli.settings.presets import load_preset, preset_file, preset_names

    if name is not None and not json:
        load_preset(name)
        output.print_text(preset_file(name).read_text(encoding="utf-8").rstrip())
        return
    found = {each: load_preset(each) for each in ([name] if name else preset_names())}
    if json:
        output.print_json(
            {
                each: {"command": command, "description": text, "settings": chosen}
                for each, (command, text, chosen) in found.items()
            }
        )
        return
    rows = [[each, f"alibi {command}", text] for each, (command, text, _) in found.items()]
    output.print_table(None, ["preset", "for", "description"], rows)
