// Makes the columns of the page's sortable tables sort their rows; without it the tables stand as they are.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const number = head.classList.contains("number");
      const up = head.hasAttribute("aria-sort") ? head.getAttribute("aria-sort") === "descending" : !number;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => {
        const cell = row.cells[column];
        return number ? parseFloat(cell.dataset.order ?? "NaN") : cell.textContent.trim();
      };
      const order = (a, b) => {
        const [one, other] = [value(a), value(b)];
        if (!number) return (up ? 1 : -1) * one.localeCompare(other, undefined, { numeric: true });
        // What is not known stands last in either direction.
        if (Number.isNaN(one) || Number.isNaN(other)) return Number.isNaN(one) - Number.isNaN(other);
        return (up ? 1 : -1) * (one - other);
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}
