"use strict";

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Figures
for (const source of all("script.figure")) {
  const { data, layout } = JSON.parse(source.textContent);
  Plotly.newPlot(source.dataset.plot, data, layout, { displayModeBar: false, responsive: true });
}

for (const set of all("fieldset[data-figure]")) {
  const plot = document.getElementById("plot-" + set.dataset.figure);
  const boxes = all("input", set);
  const show = () => {
    const shown = new Map(boxes.map((box) => [box.dataset.name, box.checked]));
    Plotly.restyle(plot, { visible: plot.data.map((trace) => shown.get(trace.name) ?? true) });
  };
  set.addEventListener("change", show);
  for (const button of all("button", set)) {
    button.addEventListener("click", () => {
      for (const box of boxes) box.checked = Boolean(button.dataset.all);
      show();
    });
  }
}

// Tables: sort
const value = (row, column) => {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
};

function compare(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one).localeCompare(String(other), "en", { numeric: true });
}

function sort(head) {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of all("th[aria-sort]", table)) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const missing = (row) => value(row, column) === "–";
  const rows = [...body.rows].sort((a, b) =>
    missing(a) - missing(b) || sign * compare(value(a, column), value(b, column)));
  body.append(...rows);
}

for (const button of all("button.sort")) button.addEventListener("click", () => sort(button.closest("th")));

// Tables: export. A text that a spreadsheet would take for a formula is marked as text.
const quoted = (text) => `"${text.replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
const words = (node) => node.textContent.replace(/\s+/g, " ").trim();

function csv(table) {
  const heads = [...table.tHead.rows[0].cells];
  const lines = [heads.flatMap((head) => {
    const name = words(head);
    return "half" in head.dataset ? [quoted(name), quoted(`${name}: half the interval`)] : [quoted(name)];
  })];
  for (const row of table.tBodies[0].rows) {
    lines.push([...row.cells].flatMap((cell, i) => {
      const own = words(cell);
      const shown = "value" in cell.dataset ? cell.dataset.value : own === "–" ? "" : quoted(own);
      return "half" in heads[i].dataset ? [shown, cell.dataset.half ?? ""] : [shown];
    }));
  }
  return lines.map((line) => line.join(",")).join("\r\n") + "\r\n";
}

for (const button of all("button.save")) {
  button.addEventListener("click", () => {
    const link = document.createElement("a");
    const text = csv(document.getElementById(button.dataset.table));
    link.href = URL.createObjectURL(new Blob(["\ufeff" + text], { type: "text/csv" }));
    link.download = button.dataset.table + ".csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

// Print: everything is open, and figures are as wide as the paper.
const plots = all(".js-plotly-plot");
let closed = [];
addEventListener("beforeprint", () => {
  closed = all("details:not([open]):not(.choose)");
  for (const each of closed) each.open = true;
  for (const plot of plots) Plotly.relayout(plot, { width: 660 });
});
addEventListener("afterprint", () => {
  for (const each of closed) each.open = false;
  for (const plot of plots) Plotly.relayout(plot, { width: null, autosize: true });
});
