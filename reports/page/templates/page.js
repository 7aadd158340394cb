"use strict";
// Tables that can be sorted and filtered. Without this script they are whole and in their own order.
const collator = new Intl.Collator("en", { numeric: true });
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells);
  const value = (row, column) => row.cells[column].dataset.value;

  const compare = (column, numeric, sign) => (first, second) => {
    const [a, b] = [value(first, column), value(second, column)];
    if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last either way
    return sign * (numeric ? Number(a) - Number(b) : collator.compare(a, b));
  };

  const sortBy = (column) => {
    const head = heads[column];
    const numeric = head.classList.contains("number");
    const before = head.getAttribute("aria-sort");
    const down = before === null ? numeric : before === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows.slice().sort(compare(column, numeric, down ? -1 : 1)));
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent.trim();
    button.addEventListener("click", () => sortBy(column));
    head.replaceChildren(button);
  });

  const filters = document.createElement("div");
  filters.className = "filters";
  filters.setAttribute("role", "search");
  filters.setAttribute("aria-label", `Filter: ${table.caption.textContent}`);
  const count = document.createElement("output");
  const text = document.createElement("input");
  text.type = "search";
  const selects = [];

  const apply = () => {
    const words = text.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const content = row.textContent.toLowerCase();
      const fits =
        words.every((word) => content.includes(word)) &&
        selects.every(([column, select]) => select.value === "" || value(row, column) === select.value.slice(1));
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  };

  const labelled = (title, control) => {
    const label = document.createElement("label");
    const name = document.createElement("span");
    name.textContent = title;
    label.append(name, control);
    filters.append(label);
  };

  text.addEventListener("input", apply);
  labelled("contains", text);
  heads.forEach((head, column) => {
    if (!("choices" in head.dataset)) return;
    const found = Array.from(new Set(rows.map((row) => value(row, column)))).sort();
    if (found.length < 2) return;
    const select = document.createElement("select");
    select.append(new Option("all", ""));
    for (const each of found) select.append(new Option(each, `=${each}`));
    select.addEventListener("change", apply);
    selects.push([column, select]);
    labelled(head.textContent, select);
  });
  filters.append(count);
  table.parentElement.before(filters);
  apply();
}
// Tables and charts that go on beyond the right edge say so.
const mark = (box) => box.classList.toggle("more", box.scrollWidth - box.clientWidth - box.scrollLeft > 1);
const resized = new ResizeObserver((entries) => entries.forEach((entry) => mark(entry.target)));
for (const box of document.querySelectorAll(".wide")) {
  resized.observe(box);
  box.addEventListener("scroll", () => mark(box), { passive: true });
}
// What is folded away is printed all the same.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => (each.open = true)));
