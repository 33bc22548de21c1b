"""The style sheet of the page: a light and a dark theme, print, and any screen width from a telephone's.

The colours have a contrast of at least 4.5 to their background in both themes; the dashes of the lines differ, too.
"""

_LIGHT = ("#0550ae", "#bc4c00", "#116329", "#8250df", "#a40e26", "#6f5300", "#1b6f75", "#57606a")
_DARK = ("#79c0ff", "#ffa657", "#7ee787", "#d2a8ff", "#ff9b93", "#f2cc60", "#76e3ea", "#a5b0bb")
_DASHES = ("none", "6 3", "2 3", "9 3 2 3", "12 4", "4 2 1 2", "1 2", "8 2")


def _colours(names: tuple[str, ...]) -> str:
    return " ".join(f"--c{index}: {name};" for index, name in enumerate(names))


_SERIES = "\n".join(
    f".line.c{index} {{ stroke: var(--c{index}); stroke-dasharray: {dashes} }} .dot.c{index}, .part.c{index} {{ fill: var(--c{index}) }} "
    f".key.c{index} {{ background: var(--c{index}) }}"
    for index, dashes in enumerate(_DASHES)
)

STYLE = f"""
:root {{ color-scheme: light dark; --back: #ffffff; --text: #1f2328; --quiet: #57606a; --rule: #d0d7de; --panel: #f6f8fa;
  {_colours(_LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{
  --back: #0d1117; --text: #e6edf3; --quiet: #9aa5b1; --rule: #30363d; --panel: #161b22; {_colours(_DARK)} }} }}
* {{ box-sizing: border-box }}
body {{ margin: 0 auto; padding: 16px; max-width: 1360px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; overflow-wrap: anywhere }}
h1 {{ font-size: 1.5rem; margin: 0 0 4px }} h2 {{ font-size: 1.15rem; margin: 28px 0 8px; border-bottom: 1px solid var(--rule) }}
p {{ margin: 6px 0; max-width: 90ch }} .quiet, .quiet td {{ color: var(--quiet) }} .strong {{ font-weight: 600 }}
.scroll {{ overflow-x: auto; max-width: 100% }} .charts + .scroll {{ margin-top: 12px }} h3 {{ font-size: 1rem; margin: 14px 0 6px }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal }}
th, td {{ padding: 4px 12px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule) }}
thead th {{ white-space: nowrap; color: var(--quiet); font-weight: 600 }} td.number {{ text-align: right; white-space: nowrap }}
thead th.number {{ text-align: right }} tbody th {{ font-weight: 600 }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); gap: 16px; align-items: start }}
figure {{ margin: 0; padding: 10px 12px; border: 1px solid var(--rule); border-radius: 8px; min-width: 0 }}
figure.wide {{ grid-column: 1 / -1 }} figcaption {{ font-weight: 600; margin-bottom: 4px }} figcaption .quiet {{ font-weight: 400 }}
svg {{ display: block; width: 100%; height: auto }} svg text {{ font: 12px system-ui, sans-serif; fill: var(--text) }}
svg text.strong {{ font-weight: 600 }} svg text.axis-name {{ fill: var(--quiet) }}
.grid {{ stroke: var(--rule) }} .tick {{ stroke: var(--quiet) }} .line {{ fill: none; stroke-width: 1.8; stroke-linejoin: round }}
.range {{ stroke: var(--c0); stroke-width: 3 }} .box {{ fill: var(--panel); stroke: var(--quiet) }}
.box.own {{ stroke: var(--c0); stroke-width: 2 }}
.box.unknown {{ stroke-dasharray: 5 4 }} .link {{ fill: none; stroke: var(--quiet); stroke-width: 1.4 }} .head {{ fill: var(--quiet) }}
ul.legend {{ list-style: none; margin: 6px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px }}
ul.legend li {{ display: flex; align-items: center; gap: 6px; min-width: 0 }} ul.legend svg {{ width: 26px; height: 10px; flex: none }}
.key {{ display: inline-block; width: 12px; height: 12px; border-radius: 3px; flex: none;
  print-color-adjust: exact; -webkit-print-color-adjust: exact }}
pre {{ margin: 0; padding: 10px; background: var(--panel); border-radius: 6px; white-space: pre-wrap;
  font-size: 13px; overflow-wrap: anywhere }}
details {{ margin: 8px 0 }} summary {{ cursor: pointer; font-weight: 600 }}
{_SERIES}
@page {{ margin: 12mm }}
@media print {{
  :root {{ color-scheme: light; --back: #ffffff; --text: #000000; --quiet: #444444; --rule: #bbbbbb; --panel: #f6f8fa; {_colours(_LIGHT)} }}
  body {{ max-width: none; padding: 0; font-size: 11px }} figure, tr, pre {{ break-inside: avoid }} h2 {{ break-after: avoid }}
  .charts {{ grid-template-columns: repeat(2, 1fr) }} .scroll {{ overflow: visible }}
}}
"""
