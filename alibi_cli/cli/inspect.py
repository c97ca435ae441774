"""alibi inspect: look without changing anything."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from alibi_cli.cli import calibration, options, output
from alibi_cli.cli import heads as heads_of_a_model
from alibi_cli.cli.heat_map import HeatMap
from alibi_cli.cli.plugins import load_plugins
from alibi_cli.cli.presets import settings
from alibi_cli.errors import EXIT_USAGE, AlibiError
from alibi_cli.slopes import PRESS_MAX_BIAS, get_slopes, is_slope

app = typer.Typer(no_args_is_help=True, help="Look at slopes, biases, conversion plans, policies and presets.")

FORGOTTEN = 100  # a key is as good as out of sight where its weight has fallen a hundredfold
Heads = Annotated[int | None, typer.Option(min=1, max=4096, help="Number of attention heads.", show_default=False)]


@app.command(epilog="Examples:\n\n  alibi inspect slopes --heads 12\n\n  alibi inspect slopes gpt2-alibi --json")
def slopes(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A checkpoint folder or Hub name; its own slopes if it is converted.",
            show_default=False,
        ),
    ] = None,
    heads: Heads = None,
    max_bias: options.MaxBias = None,
    json: options.Json = False,
) -> None:
    """Slope of every head, and how far it sees: the distance at which the bias has cut a key's weight a hundredfold (-ln 100).

    Slopes that differ by layer are shown as a heat map. Figures: --json.
    """
    if model is not None and heads is not None:
        raise AlibiError("Give MODEL or --heads, not both.", exit_code=EXIT_USAGE)
    if max_bias is not None and not 0 < max_bias < math.inf:
        raise typer.BadParameter("it must be positive and finite.", param_hint="--max-bias")
    found = _slopes_of(model, heads, max_bias or PRESS_MAX_BIAS)
    if json:
        output.print_json(found)
        return
    if isinstance(found["slopes"][0], list):
        output.print_text(f"{len(found['slopes'])} layers of {found['n_heads']} heads, {found['scheme']}")
        output.print_heat_maps([HeatMap("slope m", found["slopes"], "gentlest", "steepest", True)])
        output.note("Heads are named layer.head. All figures: --json.")
        return
    rows = []
    for head, slope in enumerate(found["slopes"]):
        distance = f"{math.log(FORGOTTEN) / slope:.1f}" if slope else "never"
        rows.append([str(head), f"{slope:.10g}", f"{math.log2(slope):.4g}" if slope else "–", distance])
    columns = ["head", "slope", "exponent", "distance at -ln 100"]
    output.print_table(f"{found['n_heads']} heads, {found['scheme']}", columns, rows, numeric=columns)


def _slopes_of(model: str | None, heads: int | None, max_bias: float) -> dict[str, Any]:
    if model is None:
        n_heads = 8 if heads is None else heads
        return {"n_heads": n_heads, "scheme": "press", "max_bias": max_bias, "slopes": get_slopes(n_heads, max_bias)}
    from alibi_cli.checkpoint.source import check_plausible, locate, read_json

    config = read_json(locate(model, read_weights=False)[0] / "config.json")
    keys = ("num_attention_heads", "n_head", "n_heads", "num_heads")
    check_plausible(config, model)
    found = next((config[key] for key in keys if type(config.get(key)) is int), 0)
    if found < 1:
        raise AlibiError(f"The config.json of {model} does not say how many heads it has.", exit_code=EXIT_USAGE)
    if (own := config.get("alibi_slopes")) is not None:
        layers = own if isinstance(own, list) and own and isinstance(own[0], list) else [own]
        if not all(isinstance(layer, list) and len(layer) == found and all(map(is_slope, layer)) for layer in layers):
            raise AlibiError(f"The alibi_slopes in the config.json of {model} are not {found} positive numbers.")
        if max_bias != PRESS_MAX_BIAS:
            raise AlibiError(f"{model} has slopes of its own; --max-bias does not apply.", exit_code=EXIT_USAGE)
        return {"n_heads": found, "scheme": "checkpoint", "max_bias": None, "slopes": own}
    return {"n_heads": found, "scheme": "press", "max_bias": max_bias, "slopes": get_slopes(found, max_bias)}


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
            "--output",
            "-o",
            metavar="FILE.png",
            help="Write a picture instead of drawing in the terminal.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """A picture of the bias -m|i-j| of every head, as the share exp(bias) of a key's weight that it leaves."""
    from alibi_cli.bias_picture import draw, lines

    if picture is None:
        for line in lines(heads, length, causal):
            output.print_text(line)
    else:
        draw(picture, heads, length, causal)


app.command(name="heads", epilog=heads_of_a_model.EXAMPLES)(heads_of_a_model.command)


@app.command(epilog="Example:\n\n  alibi inspect plan gpt2")
def plan(
    context: typer.Context,
    model: options.Model,
    output_folder: options.Output = None,
    policy: options.Policy = "replace",
    slopes: options.SlopesFrom = "press",
    sinks: options.Sinks = None,
    offset: options.Offset = None,
    calibrate: options.Calibrate = None,
    calibration_length: options.CalibrationLength = None,
    horizon: options.Horizon = None,
    grid: options.Grid = None,
    max_bias: options.MaxBias = None,
    max_sequence_length: options.MaxSequenceLength = None,
    revision: options.Revision = None,
    plugin: options.Plugin = None,
    preset: options.Preset = None,
    json: options.Json = False,
) -> None:
    """What `alibi convert` would do, the same as its --dry-run."""
    from alibi_cli.cli.convert import plan_for, print_plan

    load_plugins(plugin)
    given: dict[str, Any] = dict(
        policy=policy,
        slopes=slopes,
        sinks=sinks,
        offset=offset,
        calibrate=calibrate,
        calibration_tokens=None,
        calibration_length=calibration_length,
        horizon=horizon,
        grid=grid,
        max_bias=max_bias,
        max_sequence_length=max_sequence_length,
    )
    chosen = settings(context, preset, "convert", given)
    calibration.check_options(chosen, [])
    print_plan(plan_for(model, output_folder, chosen, revision, True), json)


@app.command()
def policies(plugin: options.Plugin = None, json: options.Json = False) -> None:
    """The registered policies: which families have which, which module classes each rewrites, how, and where that is written."""
    from alibi_cli.cli.quiet import quiet_libraries

    quiet_libraries()
    load_plugins(plugin)
    from alibi_cli.families import family_policies, policy_names, verified_against

    found = [
        {
            "family": family,
            "policy_name": name,
            "module": module,
            "policy": policy,
            "origin": origin,
            "verified_against": verified_against(family, name),
        }
        for name in policy_names()
        for family, rows in family_policies(name).items()
        for module, policy, origin in rows
    ]
    found.sort(key=lambda row: row["family"])
    if json:
        by_family: dict[str, list[dict[str, str]]] = {}
        for row in found:
            by_family.setdefault(row["family"], []).append({key: row[key] for key in row if key != "family"})
        output.print_json(by_family)
        return
    columns = ["family", "policy", "module class", "function", "origin", "verified against"]
    rows = [[*list(row.values())[:4], _in_package(row["origin"]), row["verified_against"]] for row in found]
    output.print_table(None, columns, rows)


def _in_package(origin: str) -> str:
    package = str(Path(__file__).parent.parent.parent)
    return origin.removeprefix(package + "/")


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.", show_default=False)] = None,
    json: options.Json = False,
) -> None:
    """The named settings for --preset."""
    from alibi_cli.presets import load_preset, preset_names, presets_folder

    if name is not None and not json:
        load_preset(name)
        output.print_text((presets_folder() / f"{name}.yaml").read_text(encoding="utf-8").rstrip())
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
    output.print_table(
        None,
        ["preset", "for", "description"],
        [[each, f"alibi {command}", text] for each, (command, text, _) in found.items()],
    )
