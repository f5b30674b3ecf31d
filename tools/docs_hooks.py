"""What the documentation needs beyond its theme: formulas as MathML, doors, help of commands, and measured tables.

Formulas are turned into MathML when the site is built. Browsers draw that themselves: no script and no outside host are
needed, neither to build nor to read; and a formula that cannot be read stops a strict build.
"""

import ast
import contextlib
import html
import io
import logging
import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

from latex2mathml.converter import convert

log = logging.getLogger("mkdocs.hooks.math")

# A line of a reference page: every public name of a module, in the order in which its __init__.py has them.
DOOR = re.compile(r"^DOOR (\S+)$", re.MULTILINE)

# Another: what `ntkit COMMAND --help` prints.
HELP = re.compile(r"^HELP (\S+(?: \S+)?)$", re.MULTILINE)
WIDTH = 100

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


def public_names(module: str) -> list[str]:
    """The names in `__all__`, or those that are imported as themselves (`from a import b as b`)."""
    init = Path("src", *module.split("."), "__init__.py")
    tree = ast.parse(init.read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    imports = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    return [alias.name for alias in imports if alias.asname == alias.name]


def help_of(command: str) -> str:
    """The command's own help, as a block of text. **Raises:** `ValueError` if there is no such command."""
    from ntkit.cli import main

    plain = mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH), "NO_COLOR": "1"})
    with plain, contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()):
        if main([*command.split(), "--help"]) != 0:
            raise ValueError(f"`ntkit {command} --help` fails: there is no such command.")
    text = "\n".join(line.rstrip() for line in printed.getvalue().strip("\n").splitlines())
    return f"```text\n{text}\n```"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its `DOOR module` lines replaced by the module's public names, and `HELP command` by its help."""
    markdown = HELP.sub(lambda match: help_of(match[1]), markdown)
    return DOOR.sub(lambda match: "\n".join(f"::: {match[1]}.{name}" for name in public_names(match[1])), markdown)


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
