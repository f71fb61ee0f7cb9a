"""The page of every plot: its style for light and dark backgrounds, its title, and the text of the SVG file."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_STYLE = """
svg { background: #ffffff; color: #1f2328; font: 13px -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif }
text { fill: currentColor } .small { font-size: 11px; opacity: 0.75 } .end { text-anchor: end }
.panel { fill: none; stroke: currentColor; opacity: 0.25 } .warm-up { fill: currentColor; opacity: 0.07 }
.values { fill: none; stroke: #0969da; stroke-width: 1.5 } .trend { stroke: #1f2328; stroke-dasharray: 5 4 }
.grows { stroke: #cf222e; stroke-width: 2.5 } .bar { fill: #0969da; opacity: 0.75 }
.range { fill: none; stroke: currentColor; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
svg { background: #0d1117; color: #e6edf3 } .values { stroke: #4493f8 } .trend { stroke: #e6edf3 }
.grows { stroke: #f85149 } .bar { fill: #4493f8 } }
"""


def page(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    """Return the text of an SVG file whose parts lie below a line with the title, which is also its description."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">\n'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>\n"
        f'<text x="50" y="24">{escape(title)}</text>\n{body}\n</svg>\n'
    )
