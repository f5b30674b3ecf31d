"""What the documentation needs beyond its theme: formulas as MathML, and the measured tables in the navigation.

Formulas are turned into MathML when the site is built. Browsers draw that themselves: no script, no fonts and no outside
host are needed, neither to build nor to read; and a formula that cannot be read stops a strict build.
"""

import html
import logging
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

log = logging.getLogger("mkdocs.hooks.math")

# What pymdownx.arithmatex leaves in a page: \(...\) within a line, \[...\] on lines of its own.
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: Any) -> Any:
    """Adds docs/benchmarks/*.md to the section "Benchmarks"."""
    folder = Path(config.docs_dir) / "benchmarks"
    pages = sorted(f"benchmarks/{page.name}" for page in folder.glob("*.md") if page.name != "index.md")
    for section in config.nav:
        if isinstance(section, dict) and "Benchmarks" in section:
            section["Benchmarks"] = ["benchmarks/index.md", *pages]
    return config


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """The page with its formulas as MathML."""

    def as_mathml(match: re.Match[str]) -> str:
        tag, bracket, latex = match.groups()
        latex = html.unescape(latex).strip()
        try:
            mathml = convert(latex, display="block" if bracket == "[" else "inline")
        except Exception as error:
            log.warning(f"{page.file.src_uri}: the formula {latex!r} cannot be read: {error!r}")
            return match.group(0)
        return f'<{tag} class="math">{mathml}</{tag}>'

    return FORMULA.sub(as_mathml, content)
