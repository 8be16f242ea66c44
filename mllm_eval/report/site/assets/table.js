"use strict";
// The table of scores: tabs, sorting, published rows.
addEventListener("DOMContentLoaded", () => {
  const table = document.getElementById("scores");
  if (!table) return;
  const bar = document.querySelector("#table [data-js]"), tabs = [...bar.querySelectorAll("[role=tab]")];
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], order = [...body.rows];
  const published = document.getElementById("published");
  bar.hidden = false;

  function choose(tab, focus) {
    for (const one of tabs) {
      one.setAttribute("aria-selected", String(one === tab));
      one.tabIndex = one === tab ? 0 : -1;
    }
    const wanted = tab.dataset.tab;
    for (const cell of table.querySelectorAll("[data-tab]")) cell.hidden = wanted !== "all" && !cell.dataset.tab.split(" ").includes(wanted);
    if (focus) tab.focus();
  }
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) choose(tabs[(index + step + tabs.length) % tabs.length], true);
    });
  });

  function sort(column) {
    const head = heads[column], was = head.getAttribute("aria-sort"), text = column === 0;
    // Numbers go down first, names up; the third time the first order is back.
    const first = text ? "ascending" : "descending", second = text ? "descending" : "ascending";
    const next = was === "none" ? first : was === first ? second : "none";
    for (const one of heads) one.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", next);
    const key = (row) => text ? row.cells[0].textContent : row.cells[column].dataset.v === "" ? null : Number(row.cells[column].dataset.v);
    const sorted = next === "none" ? order : [...order].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === null || y === null) return (x === null) - (y === null); // what is missing stands last, either way
      return (text ? x.localeCompare(y) : x - y) * (next === "ascending" ? 1 : -1);
    });
    body.append(...sorted);
  }
  heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => sort(index)));

  function show() {
    for (const row of order) row.hidden = row.classList.contains("published") && !published.checked;
    for (const note of document.querySelectorAll(".note.published")) note.hidden = !published.checked;
  }
  published.addEventListener("change", show);
  choose(tabs[0]);
  show();
});
