"""How the page of a run looks: light and calm, also on paper and on a telephone."""

STYLE = """
:root { --ink: #1d2630; --soft: #5d6875; --line: #e1e5ea; --wash: #f5f7f9; --accent: #1f8a70; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1040px; padding: 40px 28px 64px; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 34px; line-height: 1.18; letter-spacing: -.015em; margin: 4px 0 14px; text-wrap: balance; }
h2 { font-size: 21px; letter-spacing: -.005em; margin: 52px 0 10px;
  padding-top: 16px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 26px 0 6px; }
p { margin: 0 0 12px; max-width: 74ch; }
.over { color: var(--accent); font-weight: 650; margin: 0; }
.lede { font-size: 18px; color: #36414d; }
.note, caption, figcaption { color: var(--soft); font-size: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 26px 0 0; padding: 0; }
.tiles > div { background: var(--wash); border-radius: 10px; padding: 14px 16px; }
.tiles dt { color: var(--soft); font-size: 14px; line-height: 1.35; margin-top: 2px; }
.tiles > div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.tiles dd { margin: 0; font-size: 26px; line-height: 1.2; font-weight: 650; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-size: 14.5px; font-variant-numeric: tabular-nums; }
table.wide { width: 100%; }
caption { text-align: left; padding: 0 0 8px; }
th, td { padding: 8px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; font-size: 13px; vertical-align: bottom; }
table.wide thead th { white-space: normal; line-height: 1.3; }
th:first-child { text-align: left; padding-left: 8px; }
section > .scroll > table:not(.wide) > thead th:last-child:nth-child(3) { text-align: left; }
tbody th { font-weight: 600; }
tbody th small { display: block; font-weight: 400; color: var(--soft); font-size: 13px; white-space: normal;
  min-width: 200px; max-width: 300px; line-height: 1.4; }
td small { color: var(--soft); font-size: 12px; }
.text { display: block; text-align: left; white-space: normal; max-width: 68ch; }
section > .scroll > table { margin-bottom: 4px; }
tr.marked > * { background: #eaf5f1; }
.down { color: #b3362b; font-weight: 600; }
.heat td { text-align: center; border: 2px solid #fff; min-width: 84px; padding: 7px 10px; border-radius: 6px; }
.heat th { border: 0; } .heat thead th { text-align: center; } .heat thead th:first-child { text-align: left; }
.heat td small { color: inherit; opacity: .85; display: block; }
.heat td.best { outline: 2px solid var(--ink); outline-offset: -3px; font-weight: 700; }
.heats { display: flex; flex-wrap: wrap; gap: 8px 32px; }
figure { margin: 14px 0; overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 620px; height: auto; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif !important; }
pre { background: var(--wash); border-radius: 8px; padding: 12px 16px; overflow-x: auto;
  font-size: 14px; margin: 8px 0 16px; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (max-width: 640px) { body { padding: 24px 16px 40px; } h1 { font-size: 27px; } }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } h2 { margin-top: 28px; break-after: avoid; }
  figure, tr, .tiles, .heats > div { break-inside: avoid; } figure svg { min-width: 0; }
  .scroll { overflow: visible; } th, td { padding: 5px 6px; font-size: 9.5pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
