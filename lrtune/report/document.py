"""A job's report as one file to send to a colleague: HTML that needs nothing beside it, Markdown, or a picture.

The texts stand in `lrtune/report/templates/`; what anybody typed is escaped there. Needs the extra `plot`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lrtune import errors
from lrtune.analysis.words import described, fresh, label, lift, measured, sampled, seeds
from lrtune.report.evidence import Evidence
from lrtune.wire.results import Best

TEMPLATES = Path(__file__).parent / "templates"
ESCAPED = "\\`*_[]<>|#&"  # what Markdown would take for its own in the middle of a line


def html(evidence: Evidence) -> bytes:
    """One page with the pictures in it, light or dark as its reader's screen is."""
    from lrtune.report.figures import svg

    return _filled("report.html.jinja", evidence, picture=svg(evidence)).encode()


def markdown(evidence: Evidence) -> bytes:
    """Text that reads well as it is; the pictures are the PNG's."""
    return _filled("report.md.jinja", evidence).encode()


def png(evidence: Evidence) -> bytes:
    """The pictures alone."""
    from lrtune.report import figures

    return figures.png(evidence, f"{title(evidence)}: {described(evidence.best.configuration)}")


WRITERS: dict[str, Callable[[Evidence], bytes]] = {".html": html, ".md": markdown, ".png": png}


def writer(path: Path) -> Callable[[Evidence], bytes]:
    """How a file of this name is written. Raises Invalid for an ending that says nothing."""
    if path.suffix.lower() not in WRITERS:
        raise errors.Invalid(f"output: found {path.name!r}; accepted is a name that ends in {', '.join(WRITERS)}")
    return WRITERS[path.suffix.lower()]


def title(evidence: Evidence) -> str:
    """What the job is called."""
    return evidence.job.spec.name or f"{evidence.job.spec.task.name}, {evidence.job.id}"


def _filled(template: str, evidence: Evidence, **more: str) -> str:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise errors.Invalid("writing a report needs Jinja: pip install 'lrtune[plot]'") from error
    texts = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=template.startswith("report.html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    texts.filters |= {
        "described": described,
        "fresh": fresh,
        "label": label,
        "seeds": seeds,
        "sampled": sampled,
        "escaped": _escaped,
        "number": lambda v: "" if v is None else f"{v:.4g}",
    }
    facts = {"evidence": evidence, "title": title(evidence), "lift": lift(evidence.best), "measured": measured}
    facts["by_seed"] = _by_seed(evidence.best)
    return texts.get_template(template).render(**facts, **more)


def _by_seed(best: Best) -> list[dict[str, Any]]:
    """The values of the answer and of the baseline, each by its seed."""
    whose = [("the answer", best.seeds), *([(label(best.baseline), best.baseline.seeds)] if best.baseline else [])]
    return [{"name": name, "values": {run.seed: f"{run.value:.6g}" for run in runs}} for name, runs in whose]


def _escaped(text: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    return "".join(f"\\{c}" if c in ESCAPED else c for c in " ".join(str(text).split()))
