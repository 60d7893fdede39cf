"use strict";
// Everything can be read without this script: it sorts tables, copies commands, and keeps notes near their cells.
(() => {
  const said = document.getElementById("said");

  const text = (cell) => {
    if (!cell) return "";
    const copy = cell.cloneNode(true);
    copy.querySelectorAll(".tip").forEach((tip) => tip.remove());
    return copy.textContent.trim();
  };
  const absent = (word) => word === "" || word === "–" || word.startsWith("pending");
  const numeric = (word) => {
    const found = /^[<≤]?\s*([+\-−]?[\d,]*\.?\d+)/.exec(word);
    return found ? Number(found[1].replace(/,/g, "").replace("−", "-")) : NaN;
  };

  const sort = (table, head, at) => {
    const rows = [...table.tBodies].flatMap((body) => [...body.rows]);
    const words = rows.map((row) => text(row.cells[at])).filter((word) => !absent(word));
    const numbers = words.length > 0 && words.every((word) => !Number.isNaN(numeric(word)));
    const first = numbers ? "descending" : "ascending";
    const other = numbers ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    table.querySelectorAll("[aria-sort]").forEach((th) => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    for (const body of table.tBodies) {
      const keyed = [...body.rows].map((row) => ({ row, word: text(row.cells[at]) }));
      keyed.sort((a, b) => {
        if (absent(a.word) || absent(b.word)) return absent(a.word) - absent(b.word);
        const gap = numbers ? numeric(a.word) - numeric(b.word) : a.word.localeCompare(b.word, "en");
        return sign * gap;
      });
      body.append(...keyed.map((item) => item.row));
    }
    said.textContent = `Sorted by ${head.textContent}, ${order}`;
  };

  document.querySelectorAll("table.sortable").forEach((table) => {
    [...table.tHead.rows[table.tHead.rows.length - 1].cells].forEach((head, at) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, head, at));
      head.append(button);
    });
  });

  document.querySelectorAll("pre.copy").forEach((box) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      getSelection().selectAllChildren(box);
      try {
        await navigator.clipboard.writeText(box.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Selected: copy it";
      }
      said.textContent = button.textContent;
    });
    const frame = document.createElement("div");
    frame.className = "command";
    box.replaceWith(frame);
    frame.append(box, button);
  });

  // A note stands by its cell instead of at the foot of the window; Escape hides it.
  const place = (event) => {
    document.body.classList.remove("hush");
    const tip = event.target.closest?.("td")?.querySelector(".tip");
    if (!tip) return;
    const cell = tip.parentElement.getBoundingClientRect();
    const wide = Math.min(352, innerWidth - 16);
    tip.style.width = `${wide}px`;
    tip.style.left = `${Math.max(8, Math.min(cell.left, innerWidth - wide - 8))}px`;
    const low = cell.bottom + tip.offsetHeight + 8 > innerHeight;
    tip.style.bottom = "auto";
    tip.style.top = `${low ? cell.top - tip.offsetHeight : cell.bottom}px`;
  };
  document.addEventListener("pointerover", place);
  document.addEventListener("focusin", place);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.body.classList.add("hush");
  });

  // A link into a folded part opens it.
  const open = () => {
    const target = document.querySelector(":target");
    target?.closest("details")?.setAttribute("open", "");
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  if (location.hash) open();
})();
