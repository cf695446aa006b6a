"""The pages of the report runner: an executed notebook as one offline HTML file, and the index of all reports.

Neither page asks the network for anything. The scripts an exporter usually loads from servers elsewhere (require.js,
MathJax, mermaid) are left out, so formulas in notebooks are best written in plain Unicode.
"""

import copy
import html
import json
import logging
import re
from pathlib import Path
from urllib.parse import quote

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
COLUMNS = ("Figure", "Notebook", "State", "Time", "Headline", "Verdict")
SMOKE_STAMP = "SMOKE: small numbers, not results"

REPORT_TEMPLATE = """\
{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
<style>
main { max-width: 62rem; margin: 0 auto; padding: 0 1rem 4rem; }
.jp-RenderedImage img { max-width: 100%; height: auto; }
.stamp { margin: 1rem 0; padding: .6rem 1rem; border-left: .3rem solid #7a8794; background: #f0f2f4; color: #24292f;
         font: 14px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
.stamp strong { display: block; }
.stamp.smoke { border-color: #b26a00; background: #fff4df; }
.stamp.failed { border-color: #c62828; background: #fdecea; }
</style>
{%- endblock -%}
{%- block body_header -%}
{{ super() }}
<div class="stamp {{ resources.stamp_class }}">
{%- for line in resources.warnings %}<strong>{{ line | escape_html }}</strong>{% endfor -%}
{{ resources.stamp | escape_html }}
</div>
{%- endblock -%}
"""

INDEX_STYLE = """\
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --page: #ffffff;
        --good: #1a7f37; --bad: #c62828; --note: #9a6700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9aa5b1; --line: #3d444d; --page: #0d1117;
          --good: #4cc764; --bad: #ff8078; --note: #e3b341; } }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem; color: var(--ink); background: var(--page);
       font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
a { color: inherit; } .soft { color: var(--soft); font-size: .85rem; }
table { width: 100%; border-collapse: collapse; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .85rem; }
th, td { padding: .6rem .8rem .6rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.figure { width: 11rem; } td.figure img { display: block; width: 11rem; border-radius: .25rem; background: #fff; }
td.name { width: 12rem; } td.state { width: 4rem; } td.time { width: 6rem; white-space: nowrap; }
td.verdict { width: 7rem; } td.headline { overflow-wrap: anywhere; }
.ok, .held { color: var(--good); } .failed, .reversed { color: var(--bad); } .smoke { color: var(--note); }
.state, .verdict { font-weight: 600; white-space: nowrap; }
@media (max-width: 45rem) { tr { display: block; border-bottom: 1px solid var(--line); padding: .6rem 0; }
  thead { display: none; } td { display: block; border: 0; padding: .1rem 0; }
  td.state, td.time { display: inline-block; } }
"""


def duration(seconds: float) -> str:
    """Seconds in the form a table wants: '41 s', '3 min 20 s', '2 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def scrub(notebook, renames: dict[str, str]):
    """A copy of an executed notebook without what differs between two equal runs, and without dead widgets.

    Args:
        notebook: nbformat node.
        renames: passages of text to replace everywhere, such as the folder the report was built in.
    """
    import nbformat

    notebook = copy.deepcopy(notebook)
    for key in ("widgets", "papermill", "language_info"):
        notebook.metadata.pop(key, None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"  # papermill draws a new one for each run
        for output in cell.get("outputs", []):
            if output.get("data", {}).pop(WIDGET_VIEW, None):
                output.data["text/plain"] = "(an interactive control: open the notebook in JupyterLab to use it)"
    text = nbformat.writes(notebook)
    for old, new in renames.items():
        text = text.replace(json.dumps(old)[1:-1], json.dumps(new)[1:-1])
    text = re.sub(r"ipykernel_\d+", "ipykernel", text)  # warnings name a file after the kernel's process
    return nbformat.reads(text, as_version=4)


def render_report(notebook, results: dict, folder: Path) -> str:
    """The HTML page of one executed notebook; figures are embedded and nothing is loaded from elsewhere.

    Args:
        notebook: scrubbed nbformat node.
        results: what goes into results.json.
        folder: the folder of the source notebook, where pictures in its Markdown are looked for.
    """
    from nbconvert import HTMLExporter

    failed = results["state"] == "failed"
    warnings = [f"FAILED: {results['error']}"] if failed else []
    if results["profile"] == "smoke":
        warnings.append(SMOKE_STAMP)
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)
    stamp = (
        f"profile {results['profile']} · {commit_text(results)} · {duration(results['wall_s'])} "
        f"on {results['device']}, threads: {results['threads']} · {versions}"
    )
    log = logging.getLogger(__name__)
    log.setLevel("ERROR")  # it warns of every figure without an alternative text
    exporter = HTMLExporter(raw_template=REPORT_TEMPLATE, embed_images=True, log=log)
    resources = {
        "metadata": {"name": results["notebook"], "path": str(folder)},
        "warnings": warnings,
        "stamp": stamp,
        "stamp_class": "failed" if failed else results["profile"],
    }
    return exporter.from_notebook_node(notebook, resources=resources)[0]


def commit_text(results: dict) -> str:
    """'commit 1a2b3c4d', with a remark where files had been changed, or 'no commit'."""
    if not results.get("commit"):
        return "no commit"
    return f"commit {results['commit'][:8]}" + (" with uncommitted changes" if results.get("dirty") else "")


def render_index(out: Path, profiles: tuple[str, ...]) -> str:
    """The index page: one table per profile with a row for each report folder found in `out`."""
    sections = []
    for profile in profiles:
        found = sorted(out.glob(f"*__{profile}/results.json"))
        if found:
            note = f' <span class="smoke soft">{SMOKE_STAMP}</span>' if profile == "smoke" else ""
            rows = "\n".join(_row(path) for path in found)
            head = "".join(f"<th>{name}</th>" for name in COLUMNS)
            sections.append(
                f"<h2>Profile {profile}{note}</h2>\n"
                f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
            )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>seedvr2_lab reports</title>\n<style>\n{INDEX_STYLE}</style>\n</head>\n<body>\n"
        "<h1>Reports of seedvr2_lab</h1>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )


def _row(path: Path) -> str:
    link = quote(path.parent.name)
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        state = results["state"]
    except (ValueError, KeyError):
        return f'<tr><td colspan="6" class="failed">{link}/results.json is damaged: run this notebook again</td></tr>'
    headline = (results["error"] if state == "failed" else results.get("headline")) or ""
    verdict = "" if state == "failed" else results.get("verdict") or ""
    figure = ""
    if (path.parent / "headline.png").is_file():
        figure = f'<a href="{link}/report.html"><img src="{link}/headline.png" alt="headline figure"></a>'
    return (
        f'<tr><td class="figure">{figure}</td>'
        f'<td class="name"><a href="{link}/report.html">{html.escape(results["notebook"])}</a>'
        f'<div class="soft"><a href="{link}/notebook.ipynb">notebook</a> · <a href="{link}/results.json">numbers</a>'
        f"<br>{html.escape(commit_text(results))}</div></td>"
        f'<td class="state {state}">{state}</td><td class="time">{duration(results["wall_s"])}</td>'
        f'<td class="headline">{html.escape(headline)}</td>'
        f'<td class="verdict {verdict.split(" ")[0]}">{html.escape(verdict)}</td></tr>'
    )
