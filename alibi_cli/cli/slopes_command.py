"""alibi inspect slopes"""

import math

from alibi_cli.cli import options, output
from alibi_cli.settings.looking import SlopesSettings
from alibi_cli.slopes import is_per_layer

EXAMPLES = "Examples:\n\n  alibi inspect slopes --heads 12\n\n  alibi inspect slopes gpt2-alibi --json"
FORGOTTEN = 100  # a key is as good as out of sight where its weight has fallen a hundredfold


@options.takes(SlopesSettings, light=True)
def command(settings: SlopesSettings, json: options.Json = False) -> None:
    """Slope of every head, and how far it sees: the distance at which the bias divides a key's weight by 100.

    Slopes that differ by layer are shown as a heat map. Figures: --json.
    """
    from alibi_cli.models.slopes_of import run_inspect_slopes

    found = run_inspect_slopes(settings)
    if json:
        output.print_json(found)
        return
    if is_per_layer(found.slopes):
        from alibi_cli.cli.heat_map import HeatMap

        output.print_text(f"{len(found.slopes)} layers of {found.n_heads} heads, {found.scheme}")
        output.print_heat_maps([HeatMap("slope m", found.slopes, "gentlest", "steepest", True)])
        output.note("Heads are named layer.head. All figures: --json.")
        return
    rows = []
    for head, slope in enumerate(found.slopes):
        distance = math.log(FORGOTTEN) / slope
        rows.append([str(head), f"{slope:.10g}", f"{math.log2(slope):.4g}", f"{distance:.1f}"])
    columns = ["head", "slope", "exponent", "distance to 1 %"]
    output.print_table(f"{found.n_heads} heads, {found.scheme}", columns, rows, numeric=columns)
