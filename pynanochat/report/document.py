"""A document as a list of blocks, and its two renderings: `to_markdown(blocks)` and `to_html(title, blocks)`.

Everything that comes from outside (settings, names, what the model wrote) is escaped by the renderers.
"""

import base64
import html
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Table:
    header: list[str]
    rows: list[list[str]]
    """Of strings; all columns but the first are numbers and stand to the right, unless `prose`."""
    prose: bool = False


@dataclass(frozen=True)
class Picture:
    name: str
    """File name, relative to the report."""
    light: bytes
    """PNG for a white page."""
    dark: bytes
    """PNG for a dark one."""
    about: str

    @property
    def dark_name(self) -> str:
        return self.name.replace(".png", "-dark.png")


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Fold:
    """Blocks below a title that opens them."""

    title: str
    blocks: list


@dataclass(frozen=True)
class Samples:
    """Continuations: (label, prompt, text)."""

    items: list[tuple[str, str, str]]


def to_markdown(blocks) -> str:
    return _visible("\n".join(_MARKDOWN[type(block)](block) for block in blocks))


def to_html(title: str, blocks) -> str:
    body = "\n".join(_HTML[type(block)](block) for block in blocks)
    return _visible(_PAGE.format(title=html.escape(title), style=_STYLE, body=body))


def _visible(text: str) -> str:
    """Control characters and overrides of the writing direction would change how the rest is shown."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", "\ufffd", text)


def _plain(text: str) -> str:
    """Text in which nothing is Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(text.split()))


def _markdown_table(table: Table) -> str:
    rule = ["---"] + ["---" if table.prose else "---:"] * (len(table.header) - 1)
    rows = [[_plain(cell) for cell in table.header], rule, *([_plain(cell) for cell in row] for row in table.rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _markdown_samples(samples: Samples) -> str:
    parts = []
    for label, prompt, text in samples.items:
        above = f"{_plain(label)}\n\n" if label else ""
        parts.append(above + _fenced(f"{prompt}▸{text}", "text"))
    return "\n".join(parts)


def _markdown_picture(picture: Picture) -> str:
    about, light, dark = (html.escape(text) for text in (picture.about, picture.name, picture.dark_name))
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    return f'<picture>{source}<img src="{light}" alt="{about}"></picture>\n'


def _fenced(text: str, kind: str) -> str:
    """In a fence longer than any run of backticks within."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{kind}\n{text}\n{fence}\n"


def _markdown_fold(fold: Fold) -> str:
    inner = "\n".join(_MARKDOWN[type(block)](block) for block in fold.blocks)
    return f"<details><summary>{html.escape(' '.join(fold.title.split()))}</summary>\n\n{inner}\n</details>\n"


_MARKDOWN = {
    Heading: lambda b: f"{'#' * b.level} {_plain(b.text)}\n",
    Text: lambda b: _plain(b.text) + "\n",
    Table: _markdown_table,
    Picture: _markdown_picture,
    Samples: _markdown_samples,
    Code: lambda b: _fenced(b.text, "sh"),
    Fold: _markdown_fold,
}


def _html_table(table: Table) -> str:
    cells = lambda row, tag: "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)  # noqa: E731
    rows = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    kind = ' class="prose"' if table.prose else ""
    return f"<table{kind}><thead><tr>{cells(table.header, 'th')}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _html_samples(samples: Samples) -> str:
    parts = []
    for label, prompt, text in samples.items:
        above = f"<figcaption>{html.escape(label)}</figcaption>" if label else ""
        body = f"<pre><b>{html.escape(prompt)}</b>{html.escape(text)}</pre>"
        parts.append(f'<figure class="sample">{above}{body}</figure>')
    return "\n".join(parts)


def _html_picture(picture: Picture) -> str:
    light, dark = (f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in (picture.light, picture.dark))
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    return f'<picture>{source}<img src="{light}" alt="{html.escape(picture.about)}"></picture>'


def _html_fold(fold: Fold) -> str:
    inner = "\n".join(_HTML[type(block)](block) for block in fold.blocks)
    return f"<details><summary>{html.escape(fold.title)}</summary>\n{inner}\n</details>"


_HTML = {
    Heading: lambda b: f"<h{b.level}>{html.escape(b.text)}</h{b.level}>",
    Text: lambda b: f"<p>{html.escape(b.text)}</p>",
    Table: _html_table,
    Picture: _html_picture,
    Samples: _html_samples,
    Code: lambda b: f"<pre>{html.escape(b.text)}</pre>",
    Fold: _html_fold,
}

_STYLE = """
:root { --ink: #1c2430; --soft: #5d6b7c; --line: #dde3ea; --back: #ffffff; --box: #f5f7fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9f0; --soft: #98a5b5; --line: #333d4a; --back: #14191f; --box: #1d242d; }
}
body { margin: 0 auto; max-width: 64rem; padding: 2.5rem 1.25rem 5rem; color: var(--ink); background: var(--back);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.9rem; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; }
table { border-collapse: collapse; margin: .6rem 0 1rem; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: .88rem; }
th:first-child, td:first-child, .prose th, .prose td { text-align: left; padding-left: 0; }
td { overflow-wrap: anywhere; }
table:not(.prose) td { white-space: nowrap; }
table:not(.prose) td:first-child { white-space: normal; overflow-wrap: break-word; min-width: 8.5rem; }
img { max-width: 100%; }
details { margin: .3rem 0; }
summary { cursor: pointer; }
.sample { margin: 0 0 1rem; }
.sample figcaption { color: var(--soft); font-size: .88rem; }
pre { margin: .2rem 0 0; padding: .7rem .9rem; background: var(--box); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 14px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
