"""Docstrings as the library writes them, plain text with `code` and indented equations, for Sphinx.

Sphinx reads reStructuredText, where a lone | or a trailing _ means something; here they mean
themselves. A block that is indented is shown as it stands, but for the sections (Raises: and the
like) and the items of lists.
"""

import re

from sphinx.ext.napoleon.docstring import GoogleDocstring

SECTION = re.compile(r"(Raises|Returns|Yields|Args|Note|Notes):$")
CODE = re.compile(r"(`[^`]+`)")


def plain(text: str) -> str:
    """One line with `code` as a literal and every other mark as itself."""
    parts = CODE.split(text)
    for i, part in enumerate(parts):
        if i % 2:
            # A literal must not touch a letter, as in the plural of one: an escaped space is none.
            parts[i] = f"`{part}`" + "\\ " * parts[i + 1][:1].isalnum()
        else:
            part = re.sub(r"(?<!^    )(?<!^    \*)([\\*|])", r"\\\1", part)  # not of **settings:
            parts[i] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", part)
    return "".join(parts)


def converted(lines: list[str]) -> list[str]:
    """A docstring's lines, dedented, as reStructuredText."""
    out: list[str] = []
    inside = ""
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent == 0:
            inside = ""
        if inside == "literal":
            out.append(line)
            continue
        if SECTION.match(line):
            inside = "section"
        elif re.match(r"[-*] ", line):
            inside = "list"
            out.append(line[:2] + plain(line[2:]))
            continue
        elif line.strip() and indent >= 4 and not inside:
            inside = "literal"
            out += ["::", "", line]
            continue
        out.append(plain(line))
    return out


def process(app, what, name, obj, options, lines) -> None:
    """Rewrite the lines in place, as autodoc asks."""
    # A piece of code may be broken across lines, but not a literal of reStructuredText.
    text = re.sub(r"`[^`]+`", lambda code: re.sub(r"\s*\n\s*", " ", code[0]), "\n".join(lines))
    lines[:] = converted(text.split("\n"))


def setup(app) -> dict:
    """Come before Napoleon, which makes fields of the sections."""
    # What stands before a colon in an attribute's docstring is no type, as Napoleon has it, but the
    # beginning of a sentence.
    GoogleDocstring._parse_attribute_docstring = lambda self: self._consume_to_end()
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True}
