"""A hook of MkDocs: the site's pages that are not in `docs`, and links from one to another as they are on the site.

README and the examples are read on the site as they are in the repository, where their links lead to files. Here they
become pages, at the places below, and every link is turned to the page or the file that it means.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))
import command_reference  # noqa: E402  beside this file, which MkDocs does not put on the path
import notebooks  # noqa: E402

PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
PAGES |= {"SECURITY.md": "security.md"}
AS_THEY_ARE = ("CITATION.cff", "LICENSE")
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s#]+)(#[^)\s]*)?\)")
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*?\ssrc="?(?:https?:)?//[^\s">]+|<link\b(?![^>]*rel="?canonical)[^>]*?\shref="?(?:https?:)?//[^\s">]+"""
)
INLINE_CODE = re.compile(r"(?<=<code>)[^<]+(?=</code>)")
HYPHENATED = re.compile(r"(?<![\w-])[\w-]*-[\w-]{1,24}(?![\w-])")
FENCED = re.compile(r"(^ *```.*?^ *```$)", flags=re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files from outside of `docs`."""
    for path in [*PAGES, *AS_THEY_ARE, *example_files()]:
        target = place_of(path)
        if target.endswith(".md"):
            text = (ROOT / path).read_text(encoding="utf-8")
            files.append(File.generated(config, target, content=with_links(text, path)))
        else:
            files.append(File.generated(config, target, abs_src_path=str(ROOT / path)))
    files.append(File.generated(config, "reference/commands.md", content=command_reference.page()))
    for page in notebooks.PAGES:
        written = jupytext.writes(notebooks.notebook(page), fmt="ipynb")
        files.append(File.generated(config, page.replace(".md", ".ipynb"), content=written))
    return files


def on_page_markdown(markdown: str, page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page in `docs` that lead out of it."""
    if page.file.generated_by is not None:
        return markdown
    text = with_links(markdown, f"docs/{page.file.src_uri}")
    if page.file.src_uri in notebooks.PAGES:
        title, _, rest = text.partition("\n")
        name = page.file.src_uri.rpartition("/")[2].replace(".md", ".ipynb")
        text = f"{title}\n\n[This page as a notebook]({name})\n{rest}"
    return text


def on_page_content(html: str, page, config: MkDocsConfig, files: Files) -> str:
    """Keep the name of an option or a command on one line: browsers break behind each of its hyphens."""
    return INLINE_CODE.sub(lambda code: HYPHENATED.sub(r'<span class="name">\g<0></span>', code[0]), html)


def on_post_page(output: str, page, config: MkDocsConfig) -> str:
    """Refuse a page that would make its readers load something from elsewhere."""
    if elsewhere := LOADED.findall(output):
        raise PluginError(f"{page.file.src_uri} loads {elsewhere[0]} from elsewhere.")
    return output


def example_files() -> list[str]:
    """Scripts, pictures and pages of the examples; not what they have written."""
    found = [path.relative_to(ROOT) for path in (ROOT / "examples").rglob("*") if path.is_file()]
    kept = [path for path in found if path.suffix in (".md", ".py", ".png", ".json") and "output" not in path.parts]
    return sorted(path.as_posix() for path in kept)


def place_of(path: str) -> str:
    """Where a file of the repository is on the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    folder, name = posixpath.split(path)
    return PAGES.get(path) or (f"{folder}/index.md" if name == "README.md" else path)


def with_links(text: str, path: str) -> str:
    """A page's text with its links as they are on the site.

    Args:
        text: in Markdown, as it is in the repository.
        path: the page's, in the repository.

    Raises:
        PluginError: if a link leads to a file that is not on the site.
    """
    parts = FENCED.split(text)
    parts[::2] = [LINK.sub(lambda link: turned(link, path), part) for part in parts[::2]]
    return "".join(parts)


def turned(link: re.Match[str], path: str) -> str:
    """One link, from a page of the repository to a page of the site."""
    words, target, anchor = link.groups(default="")
    if "://" in target or target.startswith("mailto:"):
        return link[0]
    meant = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if (ROOT / meant).is_dir():
        meant += "/README.md" if (ROOT / meant / "README.md").is_file() else "/index.md"
    known = meant in PAGES or meant in AS_THEY_ARE or meant.startswith(("docs/", "examples/"))
    if not known or not ((ROOT / meant).is_file() or meant == "docs/reference/commands.md"):
        raise PluginError(f"{path}: the link to {target} leads to no page and no file of the site.")
    here = posixpath.dirname(place_of(path))
    return f"{words}({posixpath.relpath(place_of(meant), here or '.')}{anchor})"
