"""How the page of the plots looks, in light and in the dark."""

HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Rolling deploys: what is lost</title>
<style>
:root {{
  color-scheme: light dark;
  --paper: #fff; --ink: #1a202c; --faint: #5a6578; --grid: #e2e8f0; --band: #eef2f7;
  --c0: #1d5fa8; --c1: #8a3ca8; --c2: #0b7a75; --lost: #c2261f;
  --settling: #9a6a00; --drained: #1e7a46; --dead: #1a202c;
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --paper: #14181f; --ink: #e6eaf0; --faint: #9aa5b5; --grid: #2c3440; --band: #1f2631;
    --c0: #6fb1f5; --c1: #d49bf0; --c2: #5fd0c8; --lost: #ff6b5e;
    --settling: #e0b04a; --drained: #5fcf8f; --dead: #e6eaf0;
  }}
}}
body {{
  font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper);
}}
h1 {{ font-size: 1.5rem }} h2 {{ font-size: 1.05rem; margin: 2.4rem 0 0.2rem }}
p {{ margin: 0.3rem 0; max-width: 50rem }} a {{ color: inherit }}
section p {{ color: var(--faint); max-width: none; overflow-wrap: anywhere }}
table {{ border-collapse: collapse; margin: 1.2rem 0; font-variant-numeric: tabular-nums }}
th, td {{ padding: 0.2rem 0.7rem 0.2rem 0; text-align: left; border-bottom: 1px solid var(--grid) }}
.n, th.n {{ text-align: right }} .bad {{ color: var(--lost); font-weight: 600 }}
.good {{ color: var(--drained); font-weight: 600 }}
svg {{ width: 100%; height: auto; display: block }}
text {{ font: 11px system-ui, sans-serif; fill: var(--faint) }}
.middle {{ text-anchor: middle }} .right {{ text-anchor: end }}
.grid, .tick {{ stroke: var(--grid); fill: none }} .tick {{ stroke: var(--faint) }}
.band {{ fill: var(--band) }} .lost {{ fill: var(--lost) }}
.hand {{ fill: none; stroke-width: 1.6 }}
.hand.c0 {{ stroke: var(--c0) }} .hand.c1 {{ stroke: var(--c1) }} .hand.c2 {{ stroke: var(--c2) }}
text.c0 {{ fill: var(--c0) }} text.c1 {{ fill: var(--c1) }} text.c2 {{ fill: var(--c2) }}
.settling, .drained, .expired, .dead {{ fill: none; stroke-width: 1.4 }}
.settling {{ stroke: var(--settling); stroke-dasharray: 5 3 }}
.drained {{ stroke: var(--drained); stroke-width: 2.4 }}
.expired {{ stroke: var(--lost); stroke-width: 2 }} .dead {{ stroke: var(--dead) }}
.key {{ display: flex; flex-wrap: wrap; gap: 0.3rem 1.4rem; list-style: none; padding: 0 }}
.key svg {{ width: 28px; height: 12px; display: inline; margin-right: 0.4rem }}
</style>
</head>
<body>
<h1>Rolling deploys under load</h1>
<p>Three instances are taken away and replaced, one after the other, while requests go on.
Each plot is one run: above, what the process that is being replaced has in hand; below, the
requests that were lost, at the time at which they were sent.</p>
{legend}
<table>
<tr><th>how</th><th>through</th><th class=n>sent</th><th class=n>lost</th>
<th class=n>seconds for each instance</th><th class=n>beyond the ideal, mean</th>
<th class=n>at worst</th></tr>
{rows}</table>
{plots}
</body>
</html>
"""

_KEY = (
    ('<rect class="band" width="28" height="12"/>', "an instance is being taken away"),
    ('<path class="hand c0" d="M0 3H9V9H28"/>', "requests, work and messages in hand"),
    ('<path class="settling" d="M0 6H28"/>', "withdrawn everywhere"),
    ('<path class="drained" d="M0 6H28"/>', "drained: safe to kill"),
    ('<path class="expired" d="M0 6H28"/>', "expired: not drained in time"),
    ('<path class="dead" d="M0 6H28"/>', "the process is dead"),
    ('<rect class="lost" width="28" height="12"/>', "lost, in half a second"),
)
LEGEND = (
    '<ul class="key">'
    + "".join(f'<li><svg viewBox="0 0 28 12">{shape}</svg>{what}</li>' for shape, what in _KEY)
    + "</ul>"
)
