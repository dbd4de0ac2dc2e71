"""The page's style. Text has a contrast of at least 4.5 to its ground, lines and columns of 3, in light and dark."""

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fcfcfa; --panel: #ffffff; --ink: #1c2024; --soft: #5a626b; --rule: #dfe2e4; --grid: #e9ebec;
  --blue: #2a64ad; --orange: #b8560e; --green: #1f7a5c; --violet: #7b4fb0; --grey: #7c858e; --gold: #8a6d00;
  --good: #1c6b4d; --bad: #a92b2b; --code: #f2f3f2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --panel: #1b1f23; --ink: #e5e7e9; --soft: #a0a8b0; --rule: #343a40; --grid: #2a2f34;
    --blue: #74a9ea; --orange: #e89a5b; --green: #5dbd98; --violet: #b79be2; --grey: #8d969f; --gold: #d0b44c;
    --good: #6cc6a1; --bad: #f08f8a; --code: #23282d;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 48px; }
h1, h2, h3 { font-family: Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif; line-height: 1.2; }
h1 { font-size: 30px; font-weight: 600; margin: 2px 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 20px; font-weight: 600; margin: 40px 0 12px; padding-top: 12px; border-top: 1px solid var(--rule); }
h3 { font-size: 16px; font-weight: 600; margin: 0; }
p { margin: 0 0 8px; max-width: 75ch; overflow-wrap: anywhere; }
.kicker { color: var(--soft); font-size: 13px; margin: 0; }
.status { font-weight: 600; }
.status.completed { color: var(--good); }
.status.failed { color: var(--bad); }
.reason { border-left: 3px solid var(--bad); padding: 4px 0 4px 12px; }
.soft { color: var(--soft); }

.facts { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 12px 0 0; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }

.keys { display: grid; grid-template-columns: repeat(3, 1fr); gap: 1px; margin: 24px 0 0; padding: 0; list-style: none;
  background: var(--rule); border: 1px solid var(--rule); border-radius: 6px; overflow: hidden; }
.keys li { background: var(--panel); padding: 12px 16px 14px; min-width: 0; }
.keys .name { color: var(--soft); font-size: 13px; }
.keys .value { font-size: 24px; line-height: 1.25; font-variant-numeric: tabular-nums; letter-spacing: -0.01em; }
.keys .unit { font-size: 15px; color: var(--soft); letter-spacing: 0; }
.keys .note { font-size: 13px; color: var(--soft); overflow-wrap: anywhere; }

.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); column-gap: 36px; }
/* Four rows, shared with the neighbour, so that charts stand side by side: caption, legend, chart, numbers. */
figure { margin: 0 0 28px; min-width: 0; break-inside: avoid; display: grid; grid-row: span 4;
  grid-template: subgrid / minmax(0, 1fr); row-gap: 0; }
figcaption, figure > details { min-width: 0; }
.chart { display: contents; }
.legend { grid-row: 2; align-self: end; }
.chart svg { grid-row: 3; }
figure > details { grid-row: 4; }
figcaption p { color: var(--soft); font-size: 13px; margin: 2px 0 6px; }
.chart svg { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { font-size: 11px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.chart .grid { stroke: var(--grid); }
.chart .base { stroke: var(--grey); }
.tone1 { --tone: var(--blue); } .tone2 { --tone: var(--orange); } .tone3 { --tone: var(--green); }
.tone4 { --tone: var(--violet); } .tone5 { --tone: var(--grey); } .tone6 { --tone: var(--gold); }
.line { fill: none; stroke: var(--tone); stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.tone2 .line { stroke-dasharray: 6 3; } .tone3 .line { stroke-dasharray: 2 3; }
.tone4 .line { stroke-dasharray: 9 3 2 3; }
.dot { fill: var(--tone); stroke: var(--paper); stroke-width: 1; }
.hit { fill: transparent; }
.column { fill: var(--tone); stroke: var(--paper); stroke-width: 0.6; }
.column:hover { opacity: 0.75; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 0 0 4px; padding: 0;
  font-size: 13px; }
.legend li { display: flex; align-items: center; gap: 6px; }
.line-key { width: 20px; border-top: 2px solid var(--tone); }
.line-key.tone2, .line-key.tone4 { border-top-style: dashed; }
.line-key.tone3 { border-top-style: dotted; }
.column-key { width: 10px; height: 10px; background: var(--tone); }

.payload { grid-row: 2 / span 3; display: flex; flex-wrap: wrap; gap: 8px 20px; align-items: flex-start; }
.payload img { display: block; max-width: 100%; height: auto; image-rendering: pixelated;
  border: 1px solid var(--rule); }
.payload p { flex: 1 1 180px; color: var(--soft); font-size: 13px; }

details { margin: 6px 0 0; }
summary { cursor: pointer; color: var(--soft); font-size: 13px; }
summary:hover { color: var(--ink); }
:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
.scroll { overflow: auto; max-height: 560px; margin: 8px 0 0; border: 1px solid var(--rule); border-radius: 6px;
  background: var(--panel); }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 9px; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--grid); }
thead { position: sticky; top: 0; background: var(--panel); }
th { font-weight: 600; color: var(--soft); border-bottom-color: var(--rule); white-space: normal;
  vertical-align: bottom; line-height: 1.3; }
tbody tr:last-child td { border-bottom: 0; }
th.number, td.number { text-align: right; }
td:last-child { white-space: normal; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; font-size: 13px; }
pre { background: var(--code); border-radius: 6px; padding: 10px 14px; margin: 4px 0 12px; overflow-x: auto; }
footer { margin-top: 40px; padding-top: 12px; border-top: 1px solid var(--rule); color: var(--soft); font-size: 13px; }

@media (max-width: 720px) {
  main { padding: 20px 14px 32px; }
  h1 { font-size: 25px; }
  .keys { grid-template-columns: repeat(2, 1fr); }
  .keys li { padding: 10px 12px; }
  .keys .value { font-size: 18px; }
  .keys .unit { font-size: 13px; }
  .figures { grid-template-columns: minmax(0, 1fr); }
  .chart text { font-size: 13px; }
  .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dt { font-size: 13px; }
  .facts dd { margin-bottom: 6px; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --panel: #fff; --ink: #000; --soft: #444; --rule: #bbb; --grid: #ddd;
    --blue: #2a64ad; --orange: #b8560e; --green: #1f7a5c; --violet: #7b4fb0; --grey: #7c858e; --gold: #8a6d00;
    --good: #1c6b4d; --bad: #a92b2b; --code: #f4f4f4; }
  body { font-size: 11px; }
  main { max-width: none; padding: 0; }
  .scroll { overflow: visible; max-height: none; }
  table { font-size: 9px; }
  th, td { padding: 3px 5px; }
  tr, li { break-inside: avoid; }
  h2, h3, figcaption { break-after: avoid; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
}
"""
