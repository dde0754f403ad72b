"""Render the two pages without Gradio: the sign-in form, and the progress of the start.

They need no scripts and load nothing.
"""

from __future__ import annotations

import html
from string import Template
from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #f5f7f8; --card: #fff; --text: #16202a; --quiet: #5b6874; --line: #d5dce1; --go: #0f766e;
  --wrong: #b42318;
}
@media (prefers-color-scheme: dark) {
  :root { --page: #0b0f14; --card: #151b22; --text: #e6ebf0; --quiet: #93a1ae; --line: #2b3540;
    --wrong: #ff9b8e;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1rem;
  font: 16px/1.5 system-ui, sans-serif; background: var(--page); color: var(--text);
}
main {
  width: 100%; max-width: 22rem; padding: 1.75rem;
  background: var(--card); border: 1px solid var(--line); border-radius: 14px;
}
h1 { font-size: 1.3rem; margin: 0 0 .25rem; }
p { margin: 0 0 1.25rem; color: var(--quiet); font-size: .92rem; }
p.wrong { color: var(--wrong); font-weight: 600; }
label { display: block; font-size: .85rem; font-weight: 600; margin: 0 0 .3rem; }
input, button { width: 100%; font: inherit; border-radius: 8px; }
input {
  color: inherit; background: transparent; border: 1px solid var(--line);
  padding: .55rem .7rem; margin: 0 0 1rem;
}
button { color: #fff; background: var(--go); border: 0; padding: .6rem; font-weight: 600; cursor: pointer; }
input:focus-visible, button:focus-visible { outline: 2px solid #14b8a6; outline-offset: 1px; }
progress { width: 100%; accent-color: var(--go); }
"""

FRAME: Final = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
$head
<title>$title</title>
<style>$style</style>
</head>
<body><main><h1>$title</h1>
$body
</main></body>
</html>
""")

FORM: Final = Template("""<p>The password is the endpoint's API key.</p>
$notice
<form method="post" action="/login">
<label for="user">User name</label>
<input id="user" name="username" value="$user" autocomplete="username" required>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" autofocus required>
<button>Sign in</button>
</form>""")


def sign_in_page(user: str, notice: str = "") -> str:
    """Return the page with the form, and with a notice about the last attempt if there is one."""
    shown = f'<p class="wrong" role="alert">{html.escape(notice)}</p>' if notice else ""
    body = FORM.substitute(notice=shown, user=html.escape(user, quote=True))
    return FRAME.substitute(title="Sign in", head="", style=STYLE, body=body)


def starting_page(phase: str, percent: int) -> str:
    """Return the page with the progress of the start, which reloads itself every two seconds."""
    body = f'<p>{html.escape(phase).capitalize()}.</p><progress max="100" value="{percent}"></progress>'
    head = '<meta http-equiv="refresh" content="2">'
    return FRAME.substitute(title="The model is starting", head=head, style=STYLE, body=body)
