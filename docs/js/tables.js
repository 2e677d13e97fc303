// Long tables can be sorted by a click on a heading, and filtered by words.
const LONG = 16; // rows
const UNITS = { K: 1e3, M: 1e6, G: 1e9 };

function sortKey(text) {
  const figures = text.match(/\d+\.\d+/g); // the best of several, each behind its name: "mnist 99.38, mnist_aug 99.53"
  if (figures && /^\s*[a-z]/.test(text)) return Math.max(...figures);
  const found = text.trim().match(/^(-?[\d,]+(?:\.\d+)?)\s*([KMG]?)B?\b/);
  return found ? parseFloat(found[1].replaceAll(",", "")) * (UNITS[found[2]] || 1) : text.trim().toLowerCase();
}

// A row that goes on with the one above it, its first cell empty, means nothing in another place.
function isList(table) {
  const rows = [...(table.tBodies[0]?.rows ?? [])];
  return rows.length >= LONG && rows.every((row) => row.cells[0].textContent.trim());
}

function prepare(table) {
  const rows = [...table.tBodies[0].rows];
  for (const row of rows) for (const cell of row.cells) cell.dataset.sort = sortKey(cell.textContent);
  new Tablesort(table);
  const filter = document.createElement("input");
  filter.type = "search";
  filter.className = "table-filter";
  filter.placeholder = "Filter the rows by words";
  filter.setAttribute("aria-label", "Filter the rows of the table");
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });
  (table.closest(".md-typeset__scrollwrap") || table).before(filter);
}

document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("article table:not([class])"))
    if (isList(table)) prepare(table);
});
