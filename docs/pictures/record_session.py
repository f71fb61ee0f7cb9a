"""Records `session.svg`, the terminal session of the README: runs its two commands and draws what they print.

    .venv/bin/python docs/pictures/record_session.py

Needs the extras `worker` and `builtin`, and a machine without a model server.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from html import escape
from pathlib import Path

UP = "tokenlane up"
CHAT = 'tokenlane chat "What is the capital of France?" --role planner'
COLUMNS = 100
LINE = 20
DRAWING = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>A terminal: tokenlane up starts a pool, tokenlane chat asks it</title>
<rect width="{width}" height="{height}" rx="10" fill="#1f2428" stroke="#57606a"/>
<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
   font-size="14" fill="#d1d5da">
{lines}
</g>
</svg>
"""


def record() -> tuple[str, str]:
    """What the two commands print: `up` until it is ready, `chat` to its end."""
    with tempfile.TemporaryDirectory() as home:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("TOKENLANE_")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**plain, "HOME": home, "COLUMNS": str(COLUMNS), "PATH": path}
        up = subprocess.Popen(
            ["sh", "-c", f"exec {UP}"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert up.stdout is not None
            printed = ""
            for line in up.stdout:
                printed += line
                if "Ctrl-C" in line:
                    break
            chat = subprocess.run(["sh", "-c", CHAT], env=environment, capture_output=True, text=True, check=True)
        finally:
            up.send_signal(signal.SIGINT)
            up.communicate()
        return printed.replace(home, "/home/me").replace(socket.gethostname(), "myhost"), chat.stdout


def draw(sessions: list[tuple[str, str]]) -> str:
    """The commands, each with what it printed below it, as one picture."""
    drawn: list[str] = []
    y = 12
    for command, printed in sessions:
        y += LINE
        prompt = '<tspan fill="#3fb950">$</tspan>'
        drawn.append(f'<text x="20" y="{y}" font-weight="bold">{prompt} {escape(command)}</text>')
        for line in printed.strip().splitlines():
            for part in textwrap.wrap(line, COLUMNS, drop_whitespace=False) or [""]:
                y += LINE
                drawn.append(f'<text x="20" y="{y}" xml:space="preserve">{escape(part)}</text>')
        y += LINE
    return DRAWING.format(width=round(COLUMNS * 8.45) + 40, height=y, lines="\n".join(drawn))


if __name__ == "__main__":
    started, answered = record()
    picture = draw([(UP, started), (CHAT, answered)])
    Path(__file__).with_name("session.svg").write_text(picture, encoding="utf-8")
