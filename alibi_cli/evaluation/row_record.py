"""The record of a row: the loss of every scored token, and where in the text it was read."""

import numpy as np

from alibi_cli.evaluation.jobs import Job
from alibi_cli.evaluation.protocols import Window
from alibi_cli.evaluation.results import NonFinite
from alibi_cli.evaluation.statistics import Scored


def recorded(job: Job, windows: list[Window], scores: list[np.ndarray]) -> Scored:
    """The record in the order of the text, the same at every length whatever the order of the windows. Documents and positions are those of
    the text, whatever part of it is scored."""
    texts = [job.documents[window.document] for window in windows]
    document = np.concatenate([np.full(len(w.targets), text.index) for w, text in zip(windows, texts, strict=True)])
    position = np.concatenate([window.targets + text.start for window, text in zip(windows, texts, strict=True)])
    context = np.concatenate([window.targets - window.begin for window in windows]) + len(job.prefix)
    order = np.lexsort((position, document))
    nll = np.concatenate(scores)[order].astype(np.float32)
    document, position, context = (column[order].astype(np.int32) for column in (document, position, context))
    found = [text.spans(window.targets) for window, text in zip(windows, texts, strict=True)]
    known = [part for part in found if part is not None]
    if len(known) < len(found):
        return Scored(nll, document, position, context, None)
    begin, end = np.concatenate(known, axis=1)[:, order]
    return Scored(nll, document, position, context, int((end - begin).sum()), begin, end)


def first_non_finite(job: Job, scored: Scored) -> NonFinite:
    first = int(np.flatnonzero(~np.isfinite(scored.nll))[0])
    index, position = int(scored.document[first]), int(scored.position[first])
    text = next(each for each in job.documents if each.index == index and 0 <= position - each.start < len(each.ids))
    token = int(text.ids[position - text.start])
    return NonFinite(document=text.name, position=position, token=token, text=job.decode([token]))
