"""alibi report"""

from alibi_cli.cli import options, output
from alibi_cli.settings.reporting import ReportSettings

EXAMPLES = """Examples:\n
  alibi report results.json -o report.html\n
  alibi report gpt2.json llama.json passkey.json heads.json -o report.html\n
  alibi report results.json --card ./gpt2-alibi\n
  alibi report results.json --format latex"""


@options.takes(ReportSettings, light=True)
def command(settings: ReportSettings, form: options.Format = None, json: options.Json = False) -> None:
    """Show results side by side where they are comparable: as one self-contained page, in a model card, as tables. No model is run."""
    from alibi_cli.reporting.report import run_report

    with output.progress() as watch:
        report = run_report(settings, watch)
    if json:
        output.print_json(report)
    elif form in ("markdown", "csv", "latex"):
        output.print_text(report.to_text(form).rstrip("\n"))
    elif form == "table" or (settings.output is None and settings.card is None):
        tables = report.tables()
        for index, table in enumerate(tables):
            if index:
                output.print_text("")
            output.print_cells(table)
        if not tables:
            output.note("There is no table: heads, trainings and checkpoints are drawn on a page (`output`).")
    for section in report.sections if not json else []:
        if section.why:
            output.note(section.why)
        if form is None:
            output.note(section.verdict.headline)
    for written in (report.output, report.card):
        if written is not None:
            output.note(f"Written: {written}")
