"""MkDocs hook: every docs/examples/*.py is a page; its docstring and comment blocks are the page's prose.

A comment block that starts at the first column is Markdown, all else is code. The script itself lies beside
the page, so that readers can download and run it.
"""

from __future__ import annotations

import ast
import re
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each script."""
    from mkdocs.structure.files import File

    for script in sorted((Path(config.docs_dir) / "examples").glob("*.py")):
        text = markdown(script.read_text(), script.name)
        files.append(File.generated(config, f"examples/{script.stem}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Let links to a script, which work in the repository, lead to its page."""
    return re.sub(r"(\]\([^)\s]*examples/\w+)\.py\)", r"\1.md)", markdown)


def markdown(source: str, name: str) -> str:
    """Return the page of a script called `name`."""
    module = ast.parse(source)
    docstring = ast.get_docstring(module) or ""
    title, _, introduction = docstring.partition("\n")
    end = module.body[0].end_lineno if docstring else 0
    parts = [f"# {title.rstrip('.')}", introduction.strip(), f"[Download this script]({name})."]
    lines = source.splitlines()[end:]
    for prose, block in groupby(lines, key=lambda line: line.startswith("#")):
        if prose:
            parts.append("\n".join(line.removeprefix("#").removeprefix(" ") for line in block))
        elif code := "\n".join(block).strip("\n"):
            parts.append(f"```python\n{code}\n```")
    return "\n\n".join(parts) + "\n"
