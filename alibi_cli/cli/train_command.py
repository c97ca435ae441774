"""alibi train"""

import shlex
from typing import TYPE_CHECKING

from alibi_cli.cli import interrupts, options, output
from alibi_cli.names import counted, short_text
from alibi_cli.settings.healing import TrainSettings

if TYPE_CHECKING:
    from alibi_cli.training.train_report import TrainReport

EXAMPLES = """Examples:\n
  alibi train gpt2-alibi -o gpt2-healed --teacher gpt2 --tokens 20000000 --dataset wikitext:wikitext-103-raw-v1\n
  alibi train gpt2 -o gpt2-control --learning-rate 3e-4 --tokens 20000000 --dataset wikitext:wikitext-103-raw-v1\n
  alibi train DIR -o OUT --steps 500 --length-schedule 512:0.7,1024:0.3 --resume\n
  accelerate launch --num_processes 4 -m alibi_cli train DIR -o OUT --tokens 1000000000 --dtype bfloat16"""


@options.takes(TrainSettings)
def command(settings: TrainSettings, preset: options.Preset = None, json: options.Json = False) -> None:
    """Continue training a checkpoint, so that a converted one heals, and write it as a checkpoint of the same kind."""
    from accelerate import PartialState

    from alibi_cli.training.train import kept, run_train

    interrupts.leaves_output(settings.output, lambda: kept(settings.output))
    with output.progress() as watch:
        report = run_train(settings, watch)
        PartialState().destroy_process_group()  # left to the end of the program, its threads can abort it
    if json:
        output.print_json(report)
    else:
        _print(report)


def _print(report: "TrainReport") -> None:
    first, last = report.losses[0], report.losses[-1]
    teacher = "none" if report.teacher is None else f"{report.teacher}, weight {report.kd_weight:g}"
    if report.teacher_length is not None:
        teacher += f", fed {report.teacher_length} tokens at a time"
    lengths = ", ".join(f"{stage.length} for {counted(stage.steps, 'step')}" for stage in report.lengths)
    epochs = f"{report.passes:.2f} epochs of {short_text(report.text['name'])}, {report.text['tokens']} tokens"
    verified = report.verified
    output.print_facts(
        [
            ("written", report.output),
            ("tokens", f"{report.tokens} in {counted(report.steps, 'step')} of {report.batch_tokens}; {epochs}"),
            ("lengths", lengths),
            ("teacher", teacher),
            ("loss", f"{first.ce:.4f} at step {first.step}, {last.ce:.4f} at step {last.step} (nats per token)"),
            (
                "time",
                f"{report.seconds:.1f} s, {report.tokens_per_second:.0f} tokens/s, {counted(report.processes, 'process')}",
            ),
            (
                "verified",
                f"reloaded logits differ from the model in memory by {verified.max_abs_logit_difference:.1e} "
                f"(at most {verified.tolerance:.0e})",
            ),
            ("loads with", report.loads_with),
        ]
    )
    output.note(f"Next: {shlex.join(['alibi', 'eval', report.output, '--baseline', report.teacher or report.source])}")
